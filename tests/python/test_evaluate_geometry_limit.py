"""What points alone tell of AUs: on made-up renders whose points follow their parameters."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from genet_ext.parameters import load_parameter_space
from python.evaluate import geometry_limit
from python.render.dataset import FORMAT

COUNT, POINTS = 600, 80


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Renders of which only the labels matter: 80 + 68 points, linear in the parameters, 3 px for each."""
    rng = np.random.default_rng(0)
    space = load_parameter_space()
    theta = np.where(rng.random((COUNT, space.size)) < 0.5, 0, rng.random((COUNT, space.size)))
    moves = 3 * np.random.default_rng(1).standard_normal((space.size, (POINTS + 68) * 2))
    points = 64 + (theta @ moves / np.sqrt(space.size)).reshape(COUNT, -1, 2)
    arrays = {
        "images": np.zeros((COUNT, 2, 2, 4), np.uint8),
        "theta": theta.astype(np.float32),
        "dense": points[:, :POINTS].astype(np.float32),
        "landmarks": points[:, POINTS:].astype(np.float32),
        "dense_visible": np.ones((COUNT, POINTS), np.uint8),
        "appearance": np.zeros((COUNT, 16), np.float32),
        "person": np.full(COUNT, -1, np.int16),
        "identity": np.arange(COUNT, dtype=np.int32),
        "seed": np.arange(COUNT, dtype=np.uint32),
        "index": np.arange(COUNT, dtype=np.int64),
    }
    (tmp_path / "set" / "shard-00000").mkdir(parents=True)
    (tmp_path / "set" / "dataset.json").write_text(json.dumps({"format": FORMAT, "count": COUNT}))
    for name, array in arrays.items():
        np.save(tmp_path / "set" / "shard-00000" / f"{name}.npy", array)
    return tmp_path / "set"


def test_exact_points_tell_what_blurred_ones_hide(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(geometry_limit, "DEVIATIONS", (0.0, 4.0))
    command = ["--data", folder, "--held-out", folder, "--steps", "150", "--out", tmp_path / "out"]
    monkeypatch.setattr(sys, "argv", ["geometry_limit", *map(str, command)])
    geometry_limit.main()
    found = json.loads((tmp_path / "out" / "geometry_limit.json").read_text())["points_off_by"]
    exact, blurred = found["0 px"]["set"], found["4 px"]["set"]
    assert exact["all"]["r"] > 0.9
    assert exact["near_frontal"]["r"] > 0.9
    assert blurred["all"]["r"] < exact["all"]["r"] - 0.2
    assert exact["near_frontal"]["per_au"]["AU11"]["r"] is None
    assert "| 0 px |" in (tmp_path / "out" / "geometry_limit.md").read_text()
