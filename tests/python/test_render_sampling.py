"""What is sampled: frequencies, exclusions, splits. No assets needed."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("numba", reason="the renderer needs numba (pip install genet-ext[train])")
pytest.importorskip("cv2", reason="the renderer needs opencv-python-headless (pip install genet-ext[train])")

from python.render import sampling
from python.render.assets import ParameterTable, _brow_band, read_parameters
from python.render.plain import plain
from python.render.renderer import _BROW_SHIFT
from python.render.sampling import SamplingConfig

N = 4000


@pytest.fixture(scope="module")
def table() -> ParameterTable:
    return read_parameters()


@pytest.fixture(scope="module")
def expressions(table: ParameterTable) -> list[dict[str, float]]:
    rng = np.random.default_rng(3)
    return [sampling.sample_expression(rng, table, SamplingConfig()) for _ in range(N)]


def test_every_expression_parameter_is_frequent_and_in_range(
    table: ParameterTable, expressions: list[dict[str, float]]
) -> None:
    for name in table.expression:
        values = [e[name] for e in expressions if name in e]
        assert len(values) >= 0.06 * N, f"{name}: {len(values) / N:.3f}"
        assert min(values) > 0
        assert max(values) <= 1
        assert max(values) > 0.8, name


def test_neutral_faces_are_as_frequent_as_asked(table: ParameterTable) -> None:
    rng = np.random.default_rng(5)
    config = SamplingConfig(neutral_share=0.5)
    gaze = {g for pair in sampling.GAZE for g in pair}
    drawn = [set(sampling.sample_expression(rng, table, config)) - gaze for _ in range(1000)]
    assert 0.44 < np.mean([not d for d in drawn]) < 0.56


def test_left_and_right_are_mostly_alike(expressions: list[dict[str, float]]) -> None:
    both = [(e["AU12_L"], e.get("AU12_R", 0.0)) for e in expressions if e.get("AU12_L", 0) > 0.2]
    alike = np.mean([abs(a - b) < 0.2 for a, b in both])
    assert 0.75 < alike < 0.98


@pytest.mark.parametrize(
    ("a", "b"),
    [("AU61", "AU62"), ("AU63", "AU64"), ("AU05_L", "AU43_L"), ("AU24", "AU25"), ("AU30_L", "AU30_R")],
)
def test_what_faces_cannot_do_together(expressions: list[dict[str, float]], a: str, b: str) -> None:
    together = sum(min(e.get(a, 0), e.get(b, 0)) > 0.02 for e in expressions)
    # Two random extras may both be one-sided and meet; antagonists on one side must not.
    assert together <= 0.002 * N


def test_co_occurring_units_co_occur(expressions: list[dict[str, float]]) -> None:
    smile = np.array([e.get("AU12_L", 0) > 0 for e in expressions])
    cheek = np.array([e.get("AU06_L", 0) > 0 for e in expressions])
    assert cheek[smile].mean() > 2 * cheek[~smile].mean()


def test_brows_sit_and_tilt_as_photographed_ones_do() -> None:
    rng = np.random.default_rng(11)
    drawn = np.array([sampling.sample_brows(rng) for _ in range(N)])
    for values, (mean, sd, low, high) in zip(
        drawn.T, (sampling.BROW_HEIGHT, sampling.BROW_TILT), strict=True
    ):
        assert values.mean() == pytest.approx(mean, abs=sd / 10)
        assert values.std() == pytest.approx(sd, rel=0.1)
        assert low <= values.min() and values.max() <= high


def test_a_brow_takes_the_skin_around_it_along_but_not_the_lids() -> None:
    brow = np.array([[1.0, 6.0, 9.0], [2, 6.5, 8.8], [3, 6.6, 8.5], [4, 6.4, 8], [5, 6, 7]], np.float32)
    lid, cheek, ear = [3, 4.4, 8], [3, 1, 8], [7.5, 5, -1]
    points = np.array([*brow, *(brow * [-1, 1, 1]), [0, 6, 9.5], lid, cheek, ear], np.float32)
    moved = _brow_band(points, brow)
    np.testing.assert_allclose(moved[:10], 1, atol=1e-6)
    assert moved[10] > 0.99, "the skin between the brows"
    np.testing.assert_array_less(moved[11:], 0.03)
    # No fold: a point above another stays above it, even for the lowest brows.
    column = np.array([[3, y, 8.5] for y in np.linspace(2, 12, 200)], np.float32)
    assert np.all(np.diff(column[:, 1] + _BROW_SHIFT[0, 0] * _brow_band(column, brow)) > 0)


def test_splits_share_no_skin() -> None:
    parts = [sampling.split_skins(51, split) for split in sampling.SPLITS]
    assert [len(p) for p in parts] == [39, 6, 6]
    np.testing.assert_array_equal(np.sort(np.concatenate(parts)), np.arange(51))
    np.testing.assert_array_equal(parts[0], sampling.split_skins(51, "train"))
    with pytest.raises(ValueError, match="split"):
        sampling.split_skins(51, "eval")


def test_a_sample_depends_on_seed_split_and_index_alone(table: ParameterTable) -> None:
    darkness, rows = np.linspace(0, 1, 5).astype(np.float32), np.arange(5)

    def theta(seed: int, split: str, index: int) -> np.ndarray:
        return sampling.sample_one(seed, split, index, table, darkness, rows, SamplingConfig()).theta

    np.testing.assert_array_equal(theta(1, "train", 7), theta(1, "train", 7))
    for other in ((2, "train", 7), (1, "test", 7), (1, "train", 8)):
        assert not np.array_equal(theta(1, "train", 7), theta(*other))


def test_images_of_one_identity_share_identity_and_look_only(table: ParameterTable) -> None:
    darkness, rows = np.linspace(0, 1, 5).astype(np.float32), np.arange(5)
    config = SamplingConfig(images_per_identity=3)
    a, b, c = (sampling.sample_one(1, "train", i, table, darkness, rows, config) for i in (3, 5, 6))
    first = table.index("id_00")
    np.testing.assert_array_equal(a.theta[first:], b.theta[first:])
    assert (a.identity_index, b.identity_index, c.identity_index) == (1, 1, 2)
    assert a.hidden_shapes == b.hidden_shapes
    assert a.seed != b.seed
    assert not np.array_equal(a.theta[first:], c.theta[first:])


def test_plain_people_differ_in_what_has_a_label_only(table: ParameterTable) -> None:
    darkness, rows = np.linspace(0, 1, 5).astype(np.float32), np.arange(5)
    drawn = [sampling.sample_one(1, "train", i, table, darkness, rows, SamplingConfig()) for i in range(40)]
    faces = [plain(sample) for sample in drawn]
    for before, face in zip(drawn, faces, strict=True):
        np.testing.assert_array_equal(before.theta, face.theta)
        assert (before.light.direction, before.light.share) == (face.light.direction, face.light.share)
        assert (before.skin.people, before.skin.darkness) == (face.skin.people, face.skin.darkness)
    for name in ("hidden_shapes", "brows", "hair", "eyes", "clothes", "glasses", "distance", "strangeness"):
        assert all(getattr(face, name) == getattr(faces[0], name) for face in faces[1:]), name
    assert faces[0].hair is not drawn[0].hair
    assert {face.skin.beard for face in faces} == {0.0}
    assert len({face.skin.darkness for face in faces}) == len(faces)
    # At rest they look as others do on average.
    mean = {name: np.mean([d.hidden_shapes[name] for d in drawn]) for name in sampling.RESTING}
    assert all(abs(mean[name] - value) < 0.06 for name, value in sampling.RESTING.items())


def test_habits_leave_everything_else_as_it_was(table: ParameterTable) -> None:
    darkness, rows = np.linspace(0, 1, 5).astype(np.float32), np.arange(5)
    for index in range(20):
        without, with_habits = (
            sampling.sample_one(
                1,
                "train",
                index,
                table,
                darkness,
                rows,
                SamplingConfig(strange_shift=0.3, strange_habit=habit),
            )
            for habit in (0.0, 0.4)
        )
        assert with_habits.strangeness is not None and without.strangeness is not None
        assert with_habits.strangeness.habits and not without.strangeness.habits
        np.testing.assert_array_equal(with_habits.theta, without.theta)
        np.testing.assert_array_equal(with_habits.strangeness.even, without.strangeness.even)
        for name in ("hidden_shapes", "brows", "distance", "light", "eyes", "clothes", "seed"):
            assert getattr(with_habits, name) == getattr(without, name)


def test_theta_respects_the_bounds_of_the_table(table: ParameterTable) -> None:
    darkness, rows = np.linspace(0, 1, 5).astype(np.float32), np.arange(5)
    config = SamplingConfig()
    for i in range(300):
        theta = sampling.sample_one(0, "train", i, table, darkness, rows, config).theta
        assert (theta >= table.lower).all()
        assert (theta <= table.upper).all()
