"""Rotation signs, alignment and rasterisation on synthetic shapes: no assets needed."""

from __future__ import annotations

import math

import numpy as np
import pytest

pytest.importorskip("numba", reason="the renderer needs numba (pip install genet-ext[train])")
pytest.importorskip("cv2", reason="the renderer needs opencv-python-headless (pip install genet-ext[train])")

from python.render import geometry, rasterizer

NOSE, CROWN = np.array([0.0, 0.0, 1.0]), np.array([0.0, 1.0, 0.0])


def test_positive_pitch_looks_up() -> None:
    assert (geometry.rotation(0.3, 0, 0) @ NOSE)[1] == pytest.approx(math.sin(0.3))


def test_positive_yaw_turns_to_the_subjects_right_which_is_image_left() -> None:
    assert (geometry.rotation(0, 0.3, 0) @ NOSE)[0] == pytest.approx(-math.sin(0.3))


def test_positive_roll_tilts_the_crown_to_image_left() -> None:
    assert (geometry.rotation(0, 0, 0.3) @ CROWN)[0] == pytest.approx(-math.sin(0.3))


def test_rotation_order_is_roll_yaw_pitch() -> None:
    parts = geometry.rotation(0, 0, 0.4) @ geometry.rotation(0, 0.3, 0) @ geometry.rotation(0.2, 0, 0)
    np.testing.assert_allclose(geometry.rotation(0.2, 0.3, 0.4), parts, atol=1e-6)


@pytest.mark.parametrize("roll", [-0.5, 0.0, 0.2])
def test_alignment_reports_the_roll_it_adds(roll: float) -> None:
    head = np.array([[3.0, 3.0], [-3.0, 3.0], [0.0, 0.0], [1.0, 5.0]])
    c, s = math.cos(roll), math.sin(roll)
    turned = head @ np.array([[c, -s], [s, c]]).T  # camera frame, y up
    image = head * [1, -1], turned * [1, -1]  # y down
    matrix = geometry.similarity(image[0], 7 * image[1] + [10, 20])
    assert geometry.roll_of_similarity(matrix) == pytest.approx(roll, abs=1e-9)
    np.testing.assert_allclose(image[0] @ matrix[:, :2].T + matrix[:, 2], 7 * image[1] + [10, 20], atol=1e-9)


def test_similarity_of_one_point_is_an_error() -> None:
    with pytest.raises(ValueError, match="source"):
        geometry.similarity(np.ones((3, 2)), np.eye(3, 2))


def _draw(
    points: list[tuple[float, float]],
    iw: list[float],
    triangles: list[tuple[int, int, int]],
    cull: bool = False,
):
    depth, seen = np.zeros((8, 8), np.float32), np.full((8, 8), rasterizer.NOTHING, np.int32)
    tri = np.array(triangles, np.int32)
    rasterizer.draw(
        tri, 0, len(tri), cull, np.array(points, np.float32), np.array(iw, np.float32), depth, seen
    )
    return depth, seen


def test_two_triangles_cover_a_square_without_a_gap() -> None:
    _, seen = _draw([(1, 1), (6, 1), (6, 6), (1, 6)], [1, 1, 1, 1], [(0, 1, 2), (0, 2, 3)])
    expected = np.zeros((8, 8), bool)
    expected[1:7, 1:7] = True
    np.testing.assert_array_equal(seen >= 0, expected)


def test_the_nearer_triangle_wins_whatever_the_order() -> None:
    corners = [(0, 0), (7, 0), (0, 7)]
    for order in ([(0, 1, 2), (3, 4, 5)], [(3, 4, 5), (0, 1, 2)]):
        depth, seen = _draw(corners + corners, [0.1] * 3 + [0.5] * 3, order)
        assert depth[1, 1] == pytest.approx(0.5)
        assert seen[1, 1] == order.index((3, 4, 5))


def test_culling_drops_triangles_that_show_their_back() -> None:
    corners, back = [(0, 0), (7, 0), (0, 7)], (0, 1, 2)  # positive area with y down
    assert (_draw(corners, [1, 1, 1], [back])[1] == 0).any()
    assert not (_draw(corners, [1, 1, 1], [back], cull=True)[1] == 0).any()
    assert (_draw(corners, [1, 1, 1], [(0, 2, 1)], cull=True)[1] == 0).any()


def test_triangles_outside_the_picture_are_harmless() -> None:
    _, seen = _draw(
        [(-9, -9), (-5, -9), (-9, -5), (20, 20), (30, 20), (20, 30)], [1] * 6, [(0, 1, 2), (3, 4, 5)]
    )
    assert (seen == rasterizer.NOTHING).all()


def test_a_veil_shows_only_in_front() -> None:
    depth = np.full((8, 8), 0.5, np.float32)
    depth[:, 4:] = 2.0
    veil = np.zeros((8, 8), np.float32)
    tri, xy = np.array([[0, 1, 2]], np.int32), np.array([(0, 0), (7, 0), (0, 7)], np.float32)
    for _ in range(2):
        rasterizer.draw_veil(tri, 0, 1, xy, np.ones(3, np.float32), depth, 0.5, veil)
    assert veil[1, 1] == pytest.approx(0.75)
    assert not veil[:, 4:].any()


def test_blend_adds_weighted_deltas_and_skips_idle_blocks() -> None:
    neutral = np.arange(10, dtype=np.float32)
    deltas = np.zeros((2, 10), np.int16)
    deltas[0, :4], deltas[1, 8:] = 100, -50
    active = np.array([[True, False, False], [False, False, True]])
    out = np.full(10, np.nan, np.float32)
    weights = np.array([2.0, 1.0], np.float32)
    geometry.blend(out, neutral, deltas, weights, active, np.float32(0.01), 4)
    expected = neutral.copy()
    expected[:4] += 2.0
    expected[8:] -= 0.5
    np.testing.assert_allclose(out, expected, atol=1e-6)


def test_normals_point_out_of_counter_clockwise_triangles() -> None:
    points = np.array([(0, 0, 0), (1, 0, 0), (0, 1, 0), (5, 5, 5)], np.float32)
    normals = np.empty_like(points)
    geometry.vertex_normals(points, np.array([[0, 1, 2]], np.int32), normals)
    np.testing.assert_allclose(normals, [[0, 0, 1]] * 3 + [[0, 0, 0]], atol=1e-6)
