"""pytest plug-in that runs py-feat's own test files against au_model="genet" (see test_pyfeat_own_tests.py).

Whatever AU model a test asks for, it gets this package's, without the extra columns that py-feat's tests do
not know. The face models are untrained and the search is short: the tests look at shapes, rows and files.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pyfeat_standins as standins
import pytest
from tiny_models import tiny_models

from genet_ext import fitting


def pytest_configure(config: pytest.Config) -> None:
    import feat
    import feat.detector

    models = tiny_models(0)
    fitting.shipped_models = lambda device: models

    class Detectorv1(feat.detector.Detectorv1):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            options = {"extra_columns": False, "iterations": 3, "uncertainty": False}
            super().__init__(*args, **{**kwargs, "au_model": "genet", "au_kwargs": options})

    context = standins.offline_py_feat(Path(tempfile.mkdtemp()))
    context.__enter__()
    config.add_cleanup(lambda: context.__exit__(None, None, None))
    feat.detector.Detectorv1 = Detectorv1
