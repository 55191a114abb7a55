"""The ruler for rendered and photographed faces. No MediaPipe needed: landmarks are made up."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("cv2", reason="needs opencv-python-headless (pip install genet-ext[train])")

import cv2

from python.evaluate import proportions as module
from python.evaluate.proportions import EYE_CORNERS, PROPORTIONS, measure, photographs, proportions


def face(brow: float = 30.0, nose: float = 0.0) -> np.ndarray:
    """Landmarks [478, 2] of a face with outer eye corners 100 px apart and brows `brow` px above them."""
    points = np.zeros((478, 2))
    points[list(EYE_CORNERS)] = [[-50, 0], [-20, 0], [20, 0], [50, 0]]
    for at in (107, 55, 336, 285, 105, 334, 52, 282, 70, 46, 300, 276):
        points[at] = [0, -brow]
    points[2], points[1] = [0, 50], [nose, 30]
    points[98], points[327] = [-18, 45], [18, 45]
    return points


def named(points: np.ndarray) -> dict[str, float]:
    found = proportions(points)
    assert found is not None
    return dict(zip(PROPORTIONS, found, strict=True))


def test_heights_and_breadths_are_shares_of_the_outer_distance() -> None:
    found = named(face(brow=30))
    assert found["brow, inner end"] == pytest.approx(0.3)
    assert found["brow, middle of the upper edge"] == pytest.approx(0.3)
    assert found["foot of the nose"] == pytest.approx(-0.5)
    assert found["breadth: eyes"] == pytest.approx(0.3)
    assert found["breadth: nose"] == pytest.approx(0.36)


def test_size_place_and_tilt_of_the_face_do_not_matter() -> None:
    points = face(brow=27)
    angle = 0.4
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    np.testing.assert_allclose(
        proportions(2.5 * points @ turn.T + [300, 80]), proportions(points), atol=1e-12
    )


def test_a_turned_face_is_left_out() -> None:
    assert proportions(face(nose=20)) is None
    assert proportions(face(nose=-10)) is not None


def test_measure_takes_every_face_of_every_picture() -> None:
    blank = np.zeros((4, 4, 3), np.uint8)
    found = measure("made up", [blank, blank], lambda _: [face(20), face(40), face(nose=40)])
    assert found["faces"] == 4
    assert found["brow, outer end"] == pytest.approx({"mean": 0.3, "sd": 0.1})
    assert measure("nobody", [blank], lambda _: [])["brow, outer end"] is None


def test_small_photographs_are_enlarged_and_bad_ones_named(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "small.png"), np.full((20, 30, 3), (0, 0, 255), np.uint8))
    cv2.imwrite(str(tmp_path / "large.png"), np.zeros((20, module.SMALL_PHOTO, 3), np.uint8))
    large, small = photographs([tmp_path])
    assert large.shape == (20, module.SMALL_PHOTO, 3)
    assert small.shape == (60, 90, 3)
    assert tuple(small[0, 0]) == (255, 0, 0)  # RGB
    with pytest.raises(FileNotFoundError, match="photos"):
        list(photographs([tmp_path / "none.png"]))
