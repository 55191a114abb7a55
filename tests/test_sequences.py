"""Several pictures of one person: against dense linear algebra where the answer is known, and who is who."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from photographs import ASTRONAUT_BOX as BOX
from skimage.data import astronaut
from tiny_models import tiny_models

from genet_ext import fit, sequences
from genet_ext.action_units import load_action_units
from genet_ext.objective import prior_mean
from genet_ext.parameters import IDENTITY
from genet_ext.persons import smooth
from genet_ext.sequences import common_identity, follow_boxes, most_probable_walk, tell_apart

FRAMES = 6


@pytest.fixture(scope="module")
def result():
    """Six unlike pictures of one person."""
    rng = np.random.default_rng(0)
    photos = [astronaut() ^ rng.integers(0, 40, 3, np.uint8) for _ in range(FRAMES)]
    return fit(photos, boxes=[BOX] * FRAMES, models=tiny_models(3), iterations=20, progress=False)


# --- one head ---


def linear_faces(result, monkeypatch, correlation):
    """Three faces whose features are linear in theta: fits at the optimum, and their exact joint identity."""
    rng = np.random.default_rng(1)
    space = result.models.space
    size, at = space.size, space.indices(IDENTITY)
    others = np.delete(np.arange(size), np.arange(size)[at])
    jacobian = rng.normal(size=(40, size))
    root = rng.normal(size=(size, size)) / 8
    prior = root @ root.T + np.eye(size)
    faces = result[:3]
    mean = prior_mean(faces.models, torch.from_numpy(faces.regressed)).numpy().astype(float)
    seen = rng.normal(size=(3, 40))
    curvature = jacobian.T @ jacobian + prior
    theta = np.linalg.solve(curvature, (seen @ jacobian + mean @ prior).T).T
    monkeypatch.setattr(sequences, "CORRELATION", correlation)
    monkeypatch.setattr(
        sequences,
        "expand_objective",
        lambda models, theta, *_: (torch.from_numpy(curvature).expand(len(theta), -1, -1), None),
    )
    models = replace(
        faces.models, prior=replace(faces.models.prior, precision=torch.from_numpy(prior).float())
    )
    faces = replace(faces, theta=theta.astype(np.float32), models=models, misfit=np.ones(3))

    # All unknowns in one system: x_1, x_2, x_3 and z, the prior of z counted once.
    n, k = len(others), size - len(others)
    whole, right = np.zeros((3 * n + k, 3 * n + k)), np.zeros(3 * n + k)
    for t in range(3):
        place = np.empty(size, int)
        place[others], place[at] = np.arange(t * n, (t + 1) * n), np.arange(3 * n, 3 * n + k)
        whole[np.ix_(place, place)] += curvature
        right[place] += seen[t] @ jacobian + mean[t] @ prior
    cross = prior[np.ix_(others, np.arange(size)[at])]
    alone = prior[at, at] - cross.T @ np.linalg.solve(prior[np.ix_(others, others)], cross)
    whole[3 * n :, 3 * n :] -= 2 * alone
    return faces, np.linalg.solve(whole, right)[3 * n :]


def test_common_identity_is_exact_for_a_linear_model(result, monkeypatch):
    faces, expected = linear_faces(result, monkeypatch, correlation=0.0)
    found = common_identity(faces).numpy()
    assert np.allclose(found, expected, atol=1e-4)
    mean = faces.identity.to_numpy().mean(0)
    assert np.linalg.norm(mean - expected) > 0.05 * np.linalg.norm(expected), "the mean is something else"


def test_pictures_that_all_say_the_same_count_as_one(result):
    face = result[0]
    same = result[[0, 0, 0, 0]]
    own = common_identity(face).numpy()
    assert np.allclose(own, face.identity.to_numpy()[0], atol=1e-5)
    assert np.linalg.norm(common_identity(same)) > np.linalg.norm(own), "more pictures, less of the prior"


def test_a_spoilt_picture_says_less_of_the_identity(result):
    sharp = common_identity(result[:3]).numpy()
    theta = result.theta.copy()
    theta[3, result.models.space.indices(IDENTITY)] += 3
    with_spoilt = replace(result, theta=theta, misfit=np.array([1, 1, 1, 1.0, 1, 1]))
    trusted = common_identity(with_spoilt[:4]).numpy()
    with_spoilt.misfit[3] = 50
    doubted = common_identity(with_spoilt[:4]).numpy()
    assert np.linalg.norm(doubted - sharp) < 0.2 * np.linalg.norm(trusted - sharp)


# --- smooth movement ---


def test_walk_is_exact():
    """The most probable walk is the solution of one linear system, gaps and unequal variances included."""
    rng = np.random.default_rng(0)
    time = np.array([0, 1, 2, 5, 6, 30.0])
    values, variance, smoothing = rng.normal(size=(6, 3)), rng.uniform(1, 5, 6), 0.7
    system = np.diag(1 / variance)
    for t, gap in enumerate(np.diff(time)):
        stiff = smoothing**2 / gap
        system[t : t + 2, t : t + 2] += stiff * np.array([[1, -1], [-1, 1]])
    expected = np.linalg.solve(system, values / variance[:, None])
    assert np.allclose(most_probable_walk(values, variance, time, smoothing), expected)
    untouched = most_probable_walk(values, variance, time, 1e-4)
    assert np.allclose(untouched, values, atol=1e-6)


def test_smoothing_follows_each_person(result):
    """Two people in alternate frames do not mix, and the order of the rows means nothing."""
    labels, frames = ["a", "b"] * 3, [0, 0, 1, 1, 2, 2]
    together = smooth(result, labels, frames, 1.0)
    for rows in ([0, 2, 4], [1, 3, 5]):
        alone = smooth(result[rows], ["x"] * 3, [0, 1, 2], 1.0)
        assert np.array_equal(together.theta[rows], alone.theta)
    shuffled = [3, 0, 5, 2, 1, 4]
    again = smooth(result[shuffled], [labels[k] for k in shuffled], [frames[k] for k in shuffled], 1.0)
    assert np.array_equal(again.theta, together.theta[shuffled])
    moved = [np.abs(np.diff(x.theta[::2], axis=0)).sum() for x in (together, result)]
    assert moved[0] < 0.7 * moved[1]


def test_smoothing_keeps_what_it_does_not_change(result):
    smoothed = smooth(result, [None] * FRAMES, np.arange(FRAMES), 1.0)
    assert smoothed.status == result.status
    assert np.array_equal(smoothed.iterations, result.iterations)
    assert np.array_equal(smoothed.posterior[..., 1], result.posterior[..., 1], equal_nan=True)
    shift = smoothed.posterior[..., 0] - result.posterior[..., 0]
    weights = load_action_units().weights
    expected = (smoothed.theta - result.theta) @ weights.T
    expressed = load_action_units().expressible
    assert np.allclose(shift[:, expressed], expected[:, expressed], atol=1e-6)
    assert np.isfinite(smoothed.loss).all()
    assert not np.array_equal(smoothed.distance, result.distance)
    assert smoothed.settings == result.settings


def test_a_spoilt_frame_is_drawn_to_its_neighbours(result):
    lid = result.models.space.index("AU43_L")
    theta = np.repeat(result.theta[:1], FRAMES, axis=0)
    theta[:, lid] = 0.2
    theta[3, lid] = 1.0
    trusted = replace(result[[0] * FRAMES], theta=theta, misfit=np.ones(FRAMES))
    doubted = replace(trusted, misfit=np.where(np.arange(FRAMES) == 3, 20.0, 1.0))
    peaks = [smooth(x, [None] * FRAMES, np.arange(FRAMES), 0.5).theta[3, lid] for x in (trusted, doubted)]
    assert peaks[0] > 0.6
    assert peaks[1] < 0.4


def test_roll_is_smoothed_as_the_photograph_shows_it(result):
    """What alignment takes out of each crop by chance must not come back as movement."""
    roll, angle = result.models.space.index("roll"), np.linspace(-0.2, 0.2, FRAMES)
    still = result[[0] * FRAMES]
    theta, similarity = still.theta.copy(), still.similarity.copy()
    theta[:, roll] = -angle
    cos, sin = np.cos(angle), np.sin(angle)
    similarity[:, 0, :2], similarity[:, 1, :2] = np.stack([cos, -sin], 1), np.stack([sin, cos], 1)
    still = replace(still, theta=theta, similarity=similarity)
    smoothed = smooth(still, [None] * FRAMES, np.arange(FRAMES), 2.0)
    assert np.allclose(smoothed.theta, still.theta, atol=1e-6)


@pytest.mark.parametrize("smoothing", [-1, float("nan"), float("inf"), "much", True])
def test_smoothing_refused(smoothing):
    with pytest.raises(ValueError, match="smoothing: expected a number of frames"):
        fit(np.zeros((9, 9, 3), np.uint8), smoothing=smoothing)


# --- who is who ---


def box(x, y=0, side=100):
    return [x, y, x + side, y + side]


def test_boxes_are_followed():
    frames = [0, 0, 1, 1, 2, 2, 3]
    boxes = np.array([box(0), box(500), box(510), box(8), box(16), box(520), box(24)], float)
    assert follow_boxes(frames, boxes).tolist() == [0, 1, 1, 0, 0, 1, 0]
    order = [6, 2, 4, 0, 5, 1, 3]  # rows in any order
    shuffled = follow_boxes(np.array(frames)[order], boxes[order])
    named = dict(zip(order, shuffled, strict=True))
    assert [named[k] for k in (0, 3, 4, 6)] == [named[0]] * 4
    assert [named[k] for k in (1, 2, 5)] == [1 - named[0]] * 3


def test_a_lost_face_comes_back_as_the_same_only_for_a_while():
    here, away = box(0), box(900)
    absence = [0, *range(1, 5), 5]
    boxes = np.array([here, *[away] * 4, here], float)
    assert follow_boxes(absence, boxes).tolist() == [0, 1, 1, 1, 1, 0]
    long = sequences.LOST_AFTER + 2
    boxes = np.array([here, *[away] * long, here], float)
    assert follow_boxes(range(long + 2), boxes)[-1] == 2
    # Frames are counted as they were taken: every 24th of a film is as good.
    assert follow_boxes([0, 24, 48], np.array([here] * 3, float)).tolist() == [0, 0, 0]


def test_rows_without_a_face_are_nobody():
    boxes = np.array([box(0), [np.nan] * 4, box(0)], float)
    assert follow_boxes([0, 1, 2], boxes).tolist() == [0, -1, 0]
    assert follow_boxes([], np.empty((0, 4))).tolist() == []


def test_one_name_twice_in_a_frame_is_two_people():
    boxes = np.array([box(0), box(500), box(2), box(502), box(900)], float)
    labels = ["a", "a", "a", "a", "b"]
    assert tell_apart(labels, [0, 0, 1, 1, 1], boxes) == [("a", 0), ("a", 1), ("a", 0), ("a", 1), "b"]
    assert tell_apart(["a", "a", "b"], [0, 1, 1], boxes[:3]) == ["a", "a", "b"]
