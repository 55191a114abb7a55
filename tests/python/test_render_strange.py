"""Smooth random fields on heads and movements. No assets needed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("numba", reason="the renderer needs numba (pip install genet-ext[train])")
pytest.importorskip("cv2", reason="the renderer needs opencv-python-headless (pip install genet-ext[train])")

from python.render.assets import read_parameters
from python.render.strange import (
    ASYMMETRY,
    CHANNELS,
    GAIN_LIMITS,
    HABIT_SHAPES,
    UNPAIRED,
    Strangeness,
    sample_habits,
    sample_strangeness,
)

MIRROR = np.array([-1, 1, 1], np.float32)


def strangeness(seed: int, shift: float = 0.3, gain: float = 0.0, turn: float = 0.0) -> Strangeness:
    """As strong as asked, not up to that."""
    made = sample_strangeness(np.random.default_rng(seed), shift, gain, turn, {})
    assert made is not None
    return replace(made, shift=shift, gain=gain, turn=turn)


@pytest.fixture(scope="module")
def head() -> np.ndarray:
    """Points on half an ellipsoid as large as a head, cm."""
    rng = np.random.default_rng(0)
    points = rng.normal(0, 1, (2000, 3))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    points[:, 2] = abs(points[:, 2])
    return (points * [7, 10, 9]).astype(np.float32)


def bent(who: Strangeness, rest: np.ndarray, movement: np.ndarray) -> np.ndarray:
    out = rest.copy()
    who.bend(rest, out, movement)
    return out


def test_no_strength_is_nobody_strange() -> None:
    assert sample_strangeness(np.random.default_rng(0), 0.0, 0.0, 0.0, {}) is None


def test_shift_has_the_strength_that_was_drawn(head: np.ndarray) -> None:
    moved = [bent(strangeness(seed), head, np.zeros_like(head)) - head for seed in range(60)]
    assert np.sqrt(np.mean(np.square(moved), axis=(0, 1))) == pytest.approx([0.3] * 3, rel=0.2)


def test_shift_is_smooth(head: np.ndarray) -> None:
    near = head + np.float32([0.1, 0, 0])
    for seed in range(20):
        who = strangeness(seed)
        stretch = bent(who, near, np.zeros_like(head)) - bent(who, head, np.zeros_like(head)) - (near - head)
        assert abs(stretch).max() < 0.1  # neighbours a millimetre apart never cross


def test_faces_stay_nearly_symmetric(head: np.ndarray) -> None:
    still = np.zeros_like(head)
    uneven, even = [], []
    for seed in range(60):
        who = strangeness(seed)
        here = bent(who, head, still) - head
        there = (bent(who, head * MIRROR, still) - head * MIRROR) * MIRROR
        uneven.append(np.square(here - there).mean() / 4)
        even.append(np.square(here + there).mean() / 4)
    assert np.sqrt(np.mean(uneven) / np.mean(even)) == pytest.approx(ASYMMETRY, rel=0.3)


def test_movement_is_scaled_and_turned_in_the_frontal_plane(head: np.ndarray) -> None:
    up = np.zeros_like(head)
    up[:, 1] = 1
    gained = bent(strangeness(1, 0.0, gain=5.0), head, up) - head
    assert gained[:, 1].min() == pytest.approx(GAIN_LIMITS[0], abs=1e-5)
    assert gained[:, 1].max() == pytest.approx(GAIN_LIMITS[1], abs=1e-5)
    turned = bent(strangeness(1, 0.0, turn=0.4), head, up) - head
    assert np.linalg.norm(turned, axis=1) == pytest.approx(1, abs=1e-4)
    assert 0.05 < abs(turned[:, 0]).mean() < 0.8
    assert not turned[:, 2].any()


def test_nothing_moves_without_an_expression(head: np.ndarray) -> None:
    assert np.array_equal(bent(strangeness(2, 0.0, 1.0, 1.0), head, np.zeros_like(head)), head)


def test_every_channel_has_a_parity() -> None:
    assert set(CHANNELS.values()) == {-1, 1}
    assert list(CHANNELS)[:3] == ["x", "y", "z"]


def test_habits_are_the_same_on_both_sides() -> None:
    for seed in range(20):
        habits = sample_habits(np.random.default_rng(seed), 0.4)
        for parameter in (name for name in habits if not name.endswith(("_L", "_R"))):
            left, right, both = (habits[parameter + side] for side in ("_L", "_R", ""))
            assert {shape.replace("_L", "_R"): weight for shape, weight in left.items()} == right
            assert len(left) == HABIT_SHAPES
            # Both sides move as their sum does.
            assert both == {s: left.get(s, 0) + right.get(s, 0) for s in left | right}
            assert {s for s in both if not s.endswith(("_L", "_R"))} <= UNPAIRED


def test_habits_are_as_strong_as_asked() -> None:
    people = [sample_habits(np.random.default_rng(seed), 0.4) for seed in range(200)]
    weights = [
        [w for name, brought in p.items() if name.endswith("_L") for w in brought.values()] for p in people
    ]
    strength = np.std(weights, axis=1)
    assert np.abs(weights).max() <= 0.8
    assert 0 < strength.min() < 0.05
    assert 0.25 < strength.max() < 0.45
    assert np.mean(weights) == pytest.approx(0, abs=0.01)


def test_habits_are_of_parameters_that_the_face_model_has() -> None:
    known = read_parameters().expression
    moving = {name for name in sample_habits(np.random.default_rng(0), 0.4) if name in known}
    assert len(moving) == 2 * 14 + 8  # both sides of AU01 to AU34, and what has no sides
