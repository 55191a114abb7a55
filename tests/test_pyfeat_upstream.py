"""docs/upstream-proposal.patch, applied to a copy of the installed py-feat."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("feat", reason="py-feat is not installed: pip install py-feat")

ROOT = Path(__file__).parents[1]

CODE = """
import sys, tempfile, pathlib
import feat, genet_ext, numpy as np
import pyfeat_standins as standins
from genet_ext import fitting
from genet_ext.pyfeat import GenetAUModel
from tiny_models import tiny_models
assert feat.__file__.startswith(sys.argv[1]), feat.__file__
assert feat.Detectorv1.forward.__module__ == feat.Detectorv1.__init__.__module__ == "feat.detector", "wrapped"
assert feat.detector_capabilities()["Detectorv1"]["au_model"]["options"] == ["xgb", "svm", "genet", None]
fitting.shipped_models = lambda device: tiny_models(0)
data = pathlib.Path(sys.argv[2]) / "tests" / "data"
standins.test_data = lambda: data
options = dict(emotion_model=None, identity_model=None, gaze_model=None)
with standins.offline_py_feat(pathlib.Path(tempfile.mkdtemp())):
    made = feat.Detectorv1(au_model="genet", au_kwargs={"iterations": 3}, **options)
    assert isinstance(made.au_detector, GenetAUModel)
    pictures = [str(data / name) for name in ("single_face.jpg", "free-mountain-vector-01.jpg")]
    fex = made.detect(pictures, progress_bar=False)
    assert fex["AU12"].notna().tolist() == [True, False]
    assert fex["genet_status"].tolist() == ["max_iterations", "no_face"]
    assert fex.au_model == "genet" and fex.aus.shape == (2, 20)
    assert fex.iplot_detections is not None
    plain = feat.Detectorv1(au_model=None, **options).detect(pictures, progress_bar=False)
    assert plain.aus.isna().all(axis=None) and "genet_loss" not in plain
    try:
        feat.Detectorv1(au_model="nonsense", **options)
    except ValueError as error:
        assert "nonsense is not currently supported" in str(error)
    else:
        raise AssertionError("nonsense was accepted")
print("good")
"""


def test_patch(tmp_path: Path) -> None:
    import feat

    installed = Path(feat.__file__).parent
    shutil.copytree(installed, tmp_path / "feat", ignore=shutil.ignore_patterns("tests", "__pycache__"))
    patch = ROOT / "docs" / "upstream-proposal.patch"
    subprocess.run(["git", "apply", "-p1", str(patch)], cwd=tmp_path, check=True)
    metadata = tmp_path / "genet_ext_entry_point-0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: genet_ext_entry_point\nVersion: 0\n")
    declared = "[feat.au_models]\ngenet = genet_ext.pyfeat:GenetAUModel\n"
    (metadata / "entry_points.txt").write_text(declared)
    search_path = os.pathsep.join([str(tmp_path), str(ROOT), str(ROOT / "tests")])
    done = subprocess.run(
        [sys.executable, "-c", CODE, str(tmp_path), str(installed)],
        env={**os.environ, "PYTHONPATH": search_path, "HF_HUB_OFFLINE": "1", "MPLBACKEND": "Agg"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.stdout.strip().endswith("good"), done.stderr
    assert 'genet = "genet_ext.pyfeat:GenetAUModel"' in (ROOT / "pyproject.toml").read_text()
