"""Landmarks of a known face: on made-up landmarks that move as told, against scipy and dense algebra."""

from dataclasses import replace

import numpy as np
import pytest
from photographs import ASTRONAUT_BOX as BOX
from scipy.optimize import lsq_linear
from skimage.data import astronaut
from tiny_models import tiny_models

from genet_ext import fit, known_face
from genet_ext.action_units import load_action_units
from genet_ext.known_face import evidence_of, face_at_rest, read_movement, rest_of
from genet_ext.landmark_model import COORDINATES, READ, STABLE, LandmarkModel, load_landmark_model
from genet_ext.parameters import EXPRESSION, IDENTITY, load_parameter_space
from genet_ext.persons import share_head, share_identity, subtract_neutral

SPACE = load_parameter_space()
AT, ID = SPACE.indices(EXPRESSION), SPACE.indices(IDENTITY)
PICTURES = 12


@pytest.fixture(scope="module")
def model():
    """Landmarks whose stable points no expression moves, and which the extractor sees to 1 % of the eyes."""
    rng = np.random.default_rng(0)
    expression = 0.1 * rng.normal(size=(AT.stop - AT.start, 68, 3))
    expression[:, STABLE] = 0
    identity = 0.02 * rng.normal(size=(ID.stop - ID.start, 68, 3))
    return LandmarkModel(rng.normal(size=(68, 3)), identity, expression, 1e4 * np.eye(COORDINATES))


def pictured(model, theta, own, rng):
    """Landmarks [T, 68, 2] of a person whose face at rest is `own` [68, 3] off the model's."""
    bare = replace(model, rest=np.zeros((68, 3)), identity=0 * model.identity)
    out = np.empty((len(theta), 68, 2))
    for row, t in enumerate(theta):
        points = model.rest + own + np.tensordot(t[ID], model.identity, 1)
        points = points + np.tensordot(t[AT], model.expression, 1)
        moved = replace(bare, expression=points[None])
        # `movements` of the points themselves: they as the camera sees them, without the jaw line.
        seen = np.zeros((68, 2))
        seen[READ] = moved.movements(t[None])[0, 0].reshape(-1, 2)
        angle, scale = rng.normal(0, 0.3), rng.uniform(20, 90)
        turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        out[row] = seen @ turn.T + rng.uniform(50, 200, 2)
    return out


def posed(rng, count=PICTURES):
    """Parameters [T, P] of one head that turns; a third of the pictures move."""
    theta = np.zeros((count, SPACE.size))
    theta[:, :2] = rng.normal(0, 0.1, (count, 2))
    theta[:, ID] = rng.normal(size=ID.stop - ID.start)
    moves = (np.arange(count)[:, None] % 3 == 0) & (rng.random((count, AT.stop - AT.start)) < 0.15)
    theta[:, AT] = moves * rng.uniform(0.3, 1, moves.shape)
    return theta


@pytest.fixture(scope="module")
def faces(model):
    """Pictures of a person of whose expressions the search knew nothing, and the true parameters."""
    rng = np.random.default_rng(1)
    models = replace(tiny_models(3), landmark_model=model)
    result = fit(
        [astronaut()] * PICTURES, boxes=[BOX] * PICTURES, models=models, iterations=2, progress=False
    )
    theta = posed(rng)
    own = 0.05 * rng.normal(size=(68, 3)) * [1, 1, 0]
    own[STABLE] = 0
    unread = theta.copy()
    unread[:, AT] = 0
    return replace(result, theta=unread.astype(np.float32), landmarks=pictured(model, theta, own, rng)), theta


# --- the landmark model ---


def test_a_face_as_the_model_has_it_is_not_displaced(model):
    rng = np.random.default_rng(2)
    theta = posed(rng)
    theta[:, AT] = 0
    landmarks = pictured(model, theta, np.zeros((68, 3)), rng)
    assert np.abs(model.displacement(landmarks, theta)).max() < 1e-12
    turn = np.array([[0.6, -0.8], [0.8, 0.6]])
    assert np.abs(model.displacement(3 * landmarks @ turn.T + 7, theta)).max() < 1e-12


def test_movements_are_what_an_expression_displaces(model):
    rng = np.random.default_rng(3)
    theta = posed(rng)
    landmarks = pictured(model, theta, np.zeros((68, 3)), rng)
    expected = (theta[:, None, AT] @ model.movements(theta))[:, 0]
    assert np.abs(expected).max() > 0.05
    assert np.allclose(model.displacement(landmarks, theta), expected)


def test_a_head_that_looks_up_or_aside_shows_it(model):
    """Signs of pitch and yaw, as in parameters.csv: looking up, what sticks out of the face rises."""
    nose = replace(model, expression=np.eye(3)[2] * np.ones((1, 68, 3)))
    theta = np.zeros((2, SPACE.size))
    theta[0, 0], theta[1, 1] = 0.3, 0.3
    up, right = nose.movements(theta)[:, 0, :2]
    assert np.allclose(up, [0, -np.sin(0.3)])
    assert np.allclose(right, [-np.sin(0.3), 0])


def test_what_is_saved_is_loaded(model, tmp_path):
    model = replace(model, identity=np.asfortranarray(model.identity))  # as indexing leaves arrays
    model.save(tmp_path / "landmark_model.safetensors")
    loaded = load_landmark_model(tmp_path / "landmark_model.safetensors")
    for name, array in vars(model).items():
        assert getattr(loaded, name).dtype == np.float64
        assert np.allclose(getattr(loaded, name), array, rtol=1e-6), name


# --- the minimum within bounds ---


def test_minimum_within_bounds_is_that_of_scipy():
    rng = np.random.default_rng(0)
    basis, seen = rng.normal(size=(20, 30, 12)), rng.normal(size=(20, 30))
    curvature = basis.mT @ basis
    found = known_face._minimum_within_bounds(
        curvature, (seen[:, None] @ basis)[:, 0], rng.uniform(-1, 2, (20, 12))
    )
    for row in range(20):
        expected = lsq_linear(basis[row], seen[row], (0, 1), method="bvls").x
        assert np.allclose(found[row], expected, atol=1e-3)
    assert (found == 0).any() and (found > 0).any()


# --- one person ---


def test_movement_is_read_that_the_search_did_not_see(faces):
    result, truth = faces
    rest = face_at_rest(result)
    theta, _ = read_movement(result, rest)
    moves = truth[:, AT].max(1) > 0
    assert 0.2 < moves.mean() < 0.5
    assert np.abs(theta[moves][:, AT] - truth[moves][:, AT]).mean() < 0.25 * truth[moves][:, AT].mean()
    assert theta[~moves][:, AT].max() < 0.05
    others = np.delete(np.arange(SPACE.size), np.arange(SPACE.size)[AT])
    assert np.array_equal(theta[:, others], result.theta[:, others]), "pose and identity stay"


def test_a_neutral_picture_tells_as_much(faces):
    result, truth = faces
    still = int(np.flatnonzero(truth[:, AT].max(1) == 0)[0])
    theta, _ = read_movement(result, rest_of(result[[still]]))
    assert np.corrcoef(theta[:, AT].ravel(), truth[:, AT].ravel())[0, 1] > 0.9


def test_what_minimises_the_objective_is_found(faces):
    """No small step of any parameter makes the sum of search, landmarks and sparsity smaller."""
    result, _ = faces
    rest = face_at_rest(result)
    theta, _ = read_movement(result, rest)
    evidence = evidence_of(result, np.ones(PICTURES))

    def objective(x):
        off = x - evidence.theta
        left = evidence.displacement - rest.displacement - (x[:, None, AT] @ evidence.movements)[:, 0]
        search = (evidence.slope * off).sum(1) + 0.5 * (off[:, None] @ evidence.curvature @ off[..., None])[
            :, 0, 0
        ]
        landmarks = 0.5 * (left @ evidence.precision * left).sum(1)
        return search + landmarks + known_face.SPARSITY * x[:, AT].sum(1)

    least = objective(theta.astype(float))
    for k in range(AT.start, AT.stop):
        for step in (-0.02, 0.02):
            other = theta.astype(float)
            other[:, k] = np.clip(other[:, k] + step, 0, 1)
            assert (objective(other) >= least - 1e-4).all()


def test_landmarks_make_surer(faces):
    result, _ = faces
    _, sure = read_movement(result, face_at_rest(result))
    _, unsure = read_movement(result, replace(face_at_rest(result), variance=1e6))
    expressed = load_action_units().expressible
    assert (sure[:, expressed, 1] < 0.7 * unsure[:, expressed, 1]).all()
    assert np.isnan(sure[:, ~expressed]).all()


def test_rows_are_read_each_for_itself(faces, monkeypatch):
    result, _ = faces
    rest = face_at_rest(result)
    theta, posterior = read_movement(result, rest)
    monkeypatch.setattr(known_face, "FACES_AT_ONCE", 5)
    for part, whole in zip(read_movement(result, rest), (theta, posterior), strict=True):
        assert np.array_equal(part, whole, equal_nan=True)
    alone, _ = read_movement(result[[7]], rest)
    assert np.array_equal(alone[0], theta[7])


def test_landmarks_of_a_spoilt_picture_count_less(faces):
    result, truth = faces
    moving = int(truth[:, AT].sum(1).argmax())
    result = replace(result, misfit=np.ones(PICTURES))
    misfit = np.where(np.arange(PICTURES) == moving, 1e6, 1.0)
    trusted, doubted = (
        read_movement(x, face_at_rest(x))[0][moving, AT].sum()
        for x in (result, replace(result, misfit=misfit))
    )
    assert doubted < 0.1 * trusted


def test_landmarks_on_one_spot_tell_nothing(faces):
    result, _ = faces
    landmarks = result.landmarks.copy()
    landmarks[4] = 60.0
    spoilt = replace(result, landmarks=landmarks)
    rest = face_at_rest(spoilt)
    assert rest.known
    theta, posterior = read_movement(spoilt, rest)
    assert np.isfinite(theta).all()
    assert np.isfinite(posterior[:, load_action_units().expressible]).all()
    unseen, _ = read_movement(spoilt[[4]], replace(rest, variance=1e12))
    assert np.allclose(theta[4], unseen[0], atol=1e-4)
    nobody = replace(result, landmarks=np.full_like(landmarks, 60.0))
    assert not face_at_rest(nobody).known
    assert np.array_equal(
        share_identity(nobody, [0] * PICTURES).theta, share_head(nobody, [0] * PICTURES).theta
    )


# --- people ---


def test_one_picture_tells_nothing_of_rest(faces):
    result, _ = faces
    one = result[[0]]
    assert np.array_equal(share_identity(one, ["a"]).theta, share_head(one, ["a"]).theta)


def test_people_do_not_mix(faces):
    result, _ = faces
    labels = ["a", "b"] * (PICTURES // 2)
    together = share_identity(result, labels)
    for who in "ab":
        rows = [row for row, label in enumerate(labels) if label == who]
        alone = share_identity(result[rows], [who] * len(rows))
        assert np.array_equal(together.theta[rows], alone.theta)
        assert np.array_equal(together.posterior[rows], alone.posterior, equal_nan=True)
        assert np.array_equal(together.baseline[rows], alone.baseline)


def test_costs_are_those_of_where_the_faces_are(faces):
    result, _ = faces
    shared, head = (share(result, [0] * PICTURES) for share in (share_identity, share_head))
    assert np.isfinite(shared.loss).all()
    assert not np.allclose(shared.misfit, head.misfit)
    assert shared.status == head.status
    assert np.array_equal(shared.iterations, head.iterations)


@pytest.mark.parametrize("shared", [False, True])
def test_nothing_is_left_of_the_neutral_picture_itself(faces, shared):
    result, truth = faces
    still = int(np.flatnonzero(truth[:, AT].max(1) == 0)[0])
    labels, neutral = [0] * PICTURES, {0: result[[still]]}
    tie = share_identity if shared else subtract_neutral
    tied = tie(result, labels, neutral=neutral)
    assert np.nanmax(tied.aus.to_numpy()[still]) == 0
    assert np.nanmax(tied.aus.to_numpy()[truth[:, AT].sum(1).argmax()]) > 0.2


def test_uncertainty_can_be_left_out(faces):
    result, _ = faces
    bare = replace(result, posterior=np.full_like(result.posterior, np.nan))
    tied = share_identity(bare, [0] * PICTURES, uncertainty=False)
    assert np.isnan(tied.posterior).all()
    assert np.array_equal(tied.theta, share_identity(result, [0] * PICTURES).theta)
