"""What points and pixels tell of AUs: on made-up renders whose points follow their parameters."""

from __future__ import annotations

import csv
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("cv2", reason="needs opencv-python-headless (pip install genet-ext[train])")

from made_up_renders import save_renders
from tiny_models import tiny_models

from genet_ext.action_units import load_action_units
from genet_ext.parameters import load_parameter_space
from python.evaluate import eval_limits
from python.render.reader import load_dataset

COUNT, POINTS, CANVAS = 200, 80, 192


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Renders that show nothing; their 80 + 68 points are linear in the parameters, 3 px for each."""
    rng = np.random.default_rng(0)
    space = load_parameter_space()
    theta = np.where(rng.random((COUNT, space.size)) < 0.5, 0, rng.random((COUNT, space.size)))
    moves = 3 * np.random.default_rng(1).standard_normal((space.size, (POINTS + 68) * 2))
    points = 64 + (theta @ moves / np.sqrt(space.size)).reshape(COUNT, -1, 2)
    fields = {
        "images": np.zeros((COUNT, CANVAS, CANVAS, 4), np.uint8),
        "theta": theta.astype(np.float32),
        "dense": points[:, :POINTS].astype(np.float32),
        "landmarks": points[:, POINTS:].astype(np.float32),
        "dense_visible": np.ones((COUNT, POINTS), np.uint8),
        "appearance": np.zeros((COUNT, 16), np.float32),
    }
    return save_renders(tmp_path / "set", [], fields)


def test_exact_points_tell_what_blurred_ones_and_empty_pictures_hide(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(eval_limits, "DEVIATIONS", (0.0, 4.0))
    monkeypatch.setattr(eval_limits, "BATCH", 128)
    command = ["--data", folder, "--held-out", folder, "--steps", "150", "--out", tmp_path / "out"]
    monkeypatch.setattr(sys, "argv", ["eval_limits", *map(str, command)])
    eval_limits.main()
    found = json.loads((tmp_path / "out" / "limits.json").read_text())
    exact, blurred = found["points off by 0 px"]["set"], found["points off by 4 px"]["set"]
    assert exact["all"]["r"] > 0.9
    assert exact["near_frontal"]["r"] > 0.9
    assert blurred["all"]["r"] < exact["all"]["r"] - 0.2
    assert exact["near_frontal"]["per_au"]["AU11"]["r"] is None
    assert found["landmarks off by 4 px"]["set"]["all"]["r"] < blurred["all"]["r"], "fewer points tell less"
    # All pictures are the same grey, so that nothing can be read of them.
    assert found["extractor, no camera"]["set"]["all"]["r"] is None
    assert found["extractor, read anew"]["set"]["all"]["r"] is None
    assert "| points off by 0 px |" in (tmp_path / "out" / "limits.md").read_text()


def test_another_face_model_has_landmarks_only_and_its_own_truth(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same faces, but without surface points and parameters, and with AU12 rising where AU26 does not."""
    other = shutil.copytree(folder, tmp_path / "other")
    theta = np.load(other / "shard-00000" / "theta.npy")
    theta[:, 3:] = np.nan
    np.save(other / "shard-00000" / "theta.npy", theta)
    np.save(other / "shard-00000" / "dense.npy", np.zeros((COUNT, 0, 2), np.float32))
    aus = load_action_units().values(np.load(folder / "shard-00000" / "theta.npy").astype(float))
    names = load_action_units().names
    aus[:, names.index("AU12")] = 1 - aus[:, names.index("AU26")]
    with (other / "truth.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["index", *names])
        writer.writerows([k, *row] for k, row in enumerate(aus))

    monkeypatch.setattr(eval_limits, "DEVIATIONS", (0.0,))
    monkeypatch.setattr(eval_limits, "BATCH", 128)
    held_out = {name: load_dataset(tmp_path / name) for name in ("set", "other")}
    found = eval_limits.report(load_dataset(folder), held_out, 150, tiny_models(0).extractor)
    assert set(found["points off by 0 px"]) == {"set"}
    read = {name: found["landmarks off by 0 px"][name]["near_frontal"]["per_au"] for name in held_out}
    assert read["set"]["AU12"]["r"] > 0.8
    assert read["other"]["AU12"]["r"] < 0.5
    assert read["other"]["AU17"]["r"] == read["set"]["AU17"]["r"]
    itself = eval_limits.report(
        held_out["other"], {"other": held_out["other"]}, 150, tiny_models(0).extractor
    )
    assert itself["landmarks off by 0 px"]["other"]["near_frontal"]["per_au"]["AU12"]["r"] > 0.8
    assert "points off by 0 px" not in itself


class _Pictures:
    """As much of a RenderDataset as reading pixels takes."""

    def __init__(self, images: np.ndarray) -> None:
        self.all = images

    def __len__(self) -> int:
        return len(self.all)

    def images(self, rows: np.ndarray) -> np.ndarray:
        return self.all[rows]


def test_the_extractor_reads_the_crop_inside_the_canvas() -> None:
    """What changes around the crop is not seen, what changes in it is."""
    extractor = tiny_models(0).extractor
    images = np.zeros((3, CANVAS, CANVAS, 4), np.uint8)
    images[1, :20] = 255
    images[2, 60:90, 60:90] = 255
    for seen in eval_limits.from_pixels(extractor, _Pictures(images)):
        bare, around, inside = seen
        np.testing.assert_array_equal(bare, around)
        assert not np.array_equal(bare, inside)
    assert [len(seen) for seen in eval_limits.from_pixels(extractor, _Pictures(images), 2)] == [2, 2]


def test_linear_reading_finds_what_is_linear() -> None:
    rng = torch.Generator().manual_seed(0)
    inputs = torch.randn(2000, 5, generator=rng) * torch.tensor([1, 10, 0.1, 1, 0]) + 3
    wanted = inputs[:, :2] @ torch.tensor([[1.0, 0.0], [0.5, 2.0]]) - 1
    read = eval_limits.learn_linearly(inputs[:1000], wanted[:1000])(inputs[1000:])
    for column in (0, 1):
        assert np.corrcoef(read[:, column], wanted[1000:, column])[0, 1] > 0.999
    assert (read.std(0) / wanted[1000:].std(0)).numpy() == pytest.approx(
        1 / (1 + eval_limits.RIDGE), rel=0.02
    )
