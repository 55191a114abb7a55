"""Both AU stages run on the same faces and are timed; without the hub the line says what is missing."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

pytest.importorskip("feat", reason="needs py-feat (pip install genet-ext[feat])")
pytest.importorskip("cv2", reason="the renders need opencv-python-headless (pip install genet-ext[train])")

from test_evaluate_scripts import write_renders

from genet_ext.faces import BOX_CENTRE, BOX_SIDE
from python.bench import bench_au_stage
from python.evaluate.pictures import load_test_set
from python.render.geometry import MARGIN


@pytest.fixture(scope="module")
def renders(tmp_path_factory):
    return write_renders(tmp_path_factory.mktemp("renders"))


def test_both_stages_are_timed_in_one_run(renders, tmp_path, monkeypatch, offline):
    monkeypatch.setattr(bench_au_stage, "pin_threads", lambda count: [0])  # this process has more to do
    out = tmp_path / "au-stage.json"
    bench_au_stage.main(["--data", str(renders), "--faces", "3", "--seconds", "0.1", "--out", str(out)])
    assert torch.is_grad_enabled(), "building py-feat's RetinaFace switches autograd off"
    written = json.loads(out.read_text())
    assert [row["stage"] for row in written["results"]] == ["genet", bench_au_stage.NO_WEIGHTS]
    assert all(0 < row["ms_per_face"]["q1"] <= row["ms_per_face"]["q3"] for row in written["results"])
    assert written["faces"] == 3


def test_crops_hold_the_face_and_landmarks_follow(renders):
    test = load_test_set(renders, limit=4)
    crops, landmarks = bench_au_stage.pyfeat_crops(test)
    assert crops.shape == (4, 3, 112, 112)
    assert 0 <= crops.min() < crops.max() <= 1
    for points, truth, scale in zip(
        landmarks.reshape(4, 68, 2).numpy(), test.landmarks, test.scale, strict=True
    ):
        side = round(BOX_SIDE * scale)
        corner = truth[0] - side * points[0]
        assert corner == pytest.approx((BOX_CENTRE + MARGIN - BOX_SIDE / 2) * scale, abs=0.6)  # whole pixels
        np.testing.assert_allclose(corner + side * points, truth, atol=1e-3)
