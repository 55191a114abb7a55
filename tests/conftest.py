"""Fixtures shared by all tests. No test may reach the network or open a window."""

from __future__ import annotations

import os
from collections.abc import Iterator

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("MPLBACKEND", "Agg")

import pytest
import torch


def _without_cuda() -> str:
    """Why CUDA tests cannot run here; empty if they can."""
    if torch.version.cuda is None:
        return f"torch {torch.__version__} has no CUDA"
    if not torch.cuda.is_available():
        return "no GPU"
    from genet_ext import _build

    _build.load_operators()
    return _build.cuda_problem()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    reason = _without_cuda()
    if os.environ.get("GENET_REQUIRE_CUDA") == "1" and reason:
        raise pytest.UsageError(f"GENET_REQUIRE_CUDA=1, but CUDA tests cannot run: {reason}")
    for item in items:
        if reason and item.get_closest_marker("cuda"):
            item.add_marker(pytest.mark.skip(reason=f"needs CUDA: {reason}"))


@pytest.fixture
def offline(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """py-feat without its downloads, this package without its training."""
    import matplotlib.pyplot as plt
    import pyfeat_standins
    from tiny_models import tiny_models

    from genet_ext import fitting

    models = tiny_models(0)
    monkeypatch.setattr(fitting, "shipped_models", lambda device: models)
    with pyfeat_standins.offline_py_feat(tmp_path_factory.mktemp("weights")):
        yield
    plt.close("all")


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
def device(request: pytest.FixtureRequest) -> torch.device:
    """Each backend in turn; the CUDA one is skipped, with the reason, where there is none."""
    return torch.device(request.param)
