"""What landmarks tell of a person whose resting face is known: made-up landmarks that move as told."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("numba", reason="the renderer needs numba (pip install genet-ext[train])")
pytest.importorskip("cv2", reason="the renderer needs opencv-python-headless (pip install genet-ext[train])")

from genet_ext.action_units import load_action_units
from genet_ext.parameters import EXPRESSION, IDENTITY, load_parameter_space
from python.evaluate import eval_known_faces
from python.evaluate.eval_known_faces import READ, STABLE, LandmarkModel, compare

NAMES = load_action_units().names
SPACE = load_parameter_space()
PEOPLE, PICTURES = 4, 15


@pytest.fixture(scope="module")
def model() -> LandmarkModel:
    rng = np.random.default_rng(0)
    expression = 0.02 * rng.normal(size=(46, 68, 3))
    expression[:, STABLE] = 0
    identity = 0.02 * rng.normal(size=(SPACE.size - 49, 68, 3))
    return LandmarkModel(rng.normal(size=(68, 3)), identity, expression)


@pytest.fixture(scope="module")
def people(model: LandmarkModel) -> dict[str, np.ndarray]:
    """Faces whose rest the model does not span, in pictures of any scale, place and roll; a third moves."""
    rng = np.random.default_rng(1)
    person = np.repeat(np.arange(PEOPLE), PICTURES)
    theta = np.zeros((len(person), SPACE.size))
    theta[:, :2] = rng.normal(0, 0.2, (len(person), 2))
    moves = (rng.random((len(person), 1)) < 0.35) & (rng.random((len(person), 46)) < 0.15)
    theta[:, SPACE.indices(EXPRESSION)] = moves * rng.random((len(person), 46))
    theta[:, SPACE.indices(IDENTITY)] = rng.normal(size=(PEOPLE, model.identity.shape[0]))[person]
    rest = 0.05 * rng.normal(size=(PEOPLE, 68, 3))
    rest[:, STABLE] = 0
    landmarks = np.empty((len(person), 68, 2))
    for row, t in enumerate(theta):
        points = model.neutral + rest[person[row]]
        points = points + np.tensordot(t[SPACE.indices(IDENTITY)], model.identity, 1)
        points = points + np.tensordot(t[SPACE.indices(EXPRESSION)], model.expression, 1)
        angle, scale = rng.normal(0, 0.3), rng.uniform(20, 90)
        turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        landmarks[row] = model.seen(points, t) @ turn.T + rng.uniform(50, 200, 2)
    return {"landmarks": landmarks, "theta": theta, "person": person}


def unread(people: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The same as an extractor sees them that knows nothing of expressions."""
    theta = people["theta"].copy()
    theta[:, SPACE.indices(EXPRESSION)] = 0
    return {**people, "theta": theta}


def r(people: dict[str, np.ndarray], aus: np.ndarray, au: str) -> float:
    truth = load_action_units().values(people["theta"])
    return float(np.corrcoef(truth[:, NAMES.index(au)], aus[:, NAMES.index(au)])[0, 1])


def test_rest_is_taken_off_whatever_it_is(model: LandmarkModel, people: dict[str, np.ndarray]) -> None:
    off, moved = eval_known_faces.movement(model, people["landmarks"], people["theta"], people["person"])
    still = (people["theta"][:, SPACE.indices(EXPRESSION)] == 0).all(1)
    assert 0.3 < still.mean() < 0.9
    assert np.abs(off[still][:, READ]).mean() > 0.02
    # Only the head's turn changes what a resting face's own shape looks like.
    assert np.abs(moved[still]).mean() < 0.5 * np.abs(off[still]).mean()


def test_landmarks_of_a_known_face_tell_what_the_extractor_does_not(
    model: LandmarkModel, people: dict[str, np.ndarray]
) -> None:
    seen = unread(people)
    ways = compare(model, seen["landmarks"], seen["theta"], seen["person"])
    assert set(np.unique(np.nan_to_num(ways["extractor"]))) == {0}
    for au in ("AU01", "AU12", "AU15"):
        known = r(people, ways["landmarks of a known face"], au)
        assert known > 0.6
        assert known > r(people, ways["landmarks of an unknown face, extractor as prior"], au) + 0.1
    np.testing.assert_allclose(
        ways["extractor and a quarter of those"], 0.25 * ways["landmarks of a known face"]
    )


def test_scale_place_and_roll_of_the_picture_do_not_matter(
    model: LandmarkModel, people: dict[str, np.ndarray]
) -> None:
    one = eval_known_faces.movement(model, people["landmarks"], people["theta"], people["person"])
    turn = np.array([[0.6, -0.8], [0.8, 0.6]])
    other = eval_known_faces.movement(
        model, 3 * people["landmarks"] @ turn.T + 7, people["theta"], people["person"]
    )
    np.testing.assert_allclose(one, other, atol=1e-9)


def test_a_good_extractor_is_believed(model: LandmarkModel, people: dict[str, np.ndarray]) -> None:
    ways = compare(model, people["landmarks"], people["theta"], people["person"])
    with_prior = ways["landmarks of a known face, extractor as prior"]
    assert r(people, with_prior, "AU12") > r(people, ways["landmarks of a known face"], "AU12") - 0.02
    assert r(people, with_prior, "AU12") > 0.9
