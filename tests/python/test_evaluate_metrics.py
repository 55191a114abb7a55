"""Figures of merit against values computed by hand, by scipy, or by another route."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from python.evaluate import metrics


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(3)


def test_pearson_is_scipys_and_skips_unknown(rng):
    x, y = rng.normal(size=50), rng.normal(size=50)
    x[4], y[9] = np.nan, np.nan
    known = np.isfinite(x) & np.isfinite(y)
    assert metrics.pearson(x, y) == pytest.approx(stats.pearsonr(x[known], y[known]).statistic)
    assert np.isnan(metrics.pearson(np.ones(9), rng.normal(size=9)))
    with pytest.raises(ValueError, match="prediction: expected 3 values"):
        metrics.pearson(np.zeros(3), np.zeros(4))


def test_icc31_of_two_raters_is_their_covariance_over_their_mean_variance():
    a, b = np.array([9, 6, 8, 7, 10, 6.0]), np.array([5, 3, 6, 2, 6, 4.0])
    covariance = np.cov(a, b)
    assert metrics.icc31(a, b) == pytest.approx(2 * covariance[0, 1] / np.trace(covariance))
    assert np.isnan(metrics.icc31([1, 2], [1, 2]))


def test_icc31_forgives_an_offset_and_not_a_scale(rng):
    x = rng.normal(size=200)
    assert metrics.icc31(x, x + 3) == pytest.approx(1)
    assert metrics.icc31(x, 0.5 * x) == pytest.approx(0.8)  # 2 k / (1 + k^2)


def test_rising_steps_by_hand():
    level = [0, 0.5, 1, 0, 0.5, 1]
    prediction = [0.0, 0.2, 0.1, 0.3, 0.3, 0.9]  # up, down; level, up
    group = [1, 1, 1, 2, 2, 2]
    assert metrics.rising_steps(level, prediction, group) == pytest.approx(2 / 4)
    # Order of the rows does not matter, and an unknown prediction takes its step away.
    order = [5, 0, 3, 2, 4, 1]
    shuffled = [np.array(values)[order] for values in (level, prediction, group)]
    assert metrics.rising_steps(*shuffled) == pytest.approx(2 / 4)
    prediction[1] = np.nan
    assert metrics.rising_steps(level, prediction, group) == pytest.approx(2 / 3)
    assert np.isnan(metrics.rising_steps([], [], []))


def test_within_person_ignores_what_differs_between_people(rng):
    person = np.repeat(np.arange(20), 6)
    truth = rng.random(120)
    prediction = truth + 10 * rng.normal(size=20)[person]
    assert metrics.within_person(truth, prediction, person) == pytest.approx(1)
    assert metrics.pearson(truth, prediction) < 0.5
    assert np.isnan(metrics.within_person(truth, prediction, np.arange(120)))


def test_concordance_by_hand():
    truth, prediction = [0, 0.1, 0.5, 0.5], [0.2, 0.1, 0.1, 0.3]
    # Pairs at least 0.2 apart: 0-2 wrong, 0-3 right, 1-2 equal (half), 1-3 right.
    assert metrics.concordance(truth, prediction, [7, 7, 7, 7]) == pytest.approx(2.5 / 4)
    assert np.isnan(metrics.concordance(truth, prediction, [1, 2, 3, 4]))


def test_cross_talk_recovers_the_mixing_matrix(rng):
    truth = rng.random((400, 4))
    truth[:, 3] = np.nan
    mixing = np.array([[0.9, 0.2, 0.0], [0.0, 0.7, -0.1], [0.3, 0.0, 1.0]])
    prediction = np.full((400, 4), np.nan)
    prediction[:, :3] = 0.05 + truth[:, :3] @ mixing
    slopes = metrics.cross_talk(truth, prediction)
    np.testing.assert_allclose(slopes[:3, :3], mixing, atol=1e-10)
    assert np.isnan(slopes[3]).all()
    assert np.isnan(slopes[:, 3]).all()
    assert metrics.off_diagonal(slopes) == pytest.approx(0.6 / 6)


def test_false_positives_by_hand():
    neutral = np.array([[0.0, 0.3, np.nan], [0.31, 0.0, np.nan], [0.0, 0.29, np.nan], [np.nan] * 3])
    rate, any_au = metrics.false_positives(neutral)
    np.testing.assert_allclose(rate, [1 / 3, 1 / 3, np.nan])
    assert any_au == pytest.approx(2 / 3)


def test_auc_is_mann_whitneys_with_ties(rng):
    label = rng.random(80) < 0.4
    score = np.round(rng.random(80) + 0.3 * label, 1)
    u = stats.mannwhitneyu(score[label], score[~label]).statistic
    assert metrics.auc(label, score) == pytest.approx(u / (label.sum() * (~label).sum()))
    assert np.isnan(metrics.auc(np.ones(5, bool), score[:5]))


def test_f1_by_hand():
    assert metrics.f1([1, 1, 0, 0, 1], [1, 0, 1, 0, 1]) == pytest.approx(2 * 2 / (3 + 3))
    assert metrics.f1([1, 0], [0, 0]) == 0
    assert np.isnan(metrics.f1([0, 0], [0, 0]))


def test_pose_error_in_degrees():
    truth = np.zeros((4, 3))
    prediction = np.radians([[1, 10, 0], [1, 10, 0], [1, 10, 0], [np.nan] * 3])
    error = metrics.pose_error(truth, prediction)
    assert error == pytest.approx({"pitch": 1, "yaw": 10, "roll": 0, "mean": 11 / 3, "offset_removed": 0})


def test_landmark_error_scales_each_face():
    truth = np.zeros((2, 68, 2))
    prediction = truth + np.array([3.0, 4.0])
    assert metrics.landmark_error(truth, prediction, np.array([1.0, 0.5])) == pytest.approx((5 + 2.5) / 2)


def test_bins_and_terciles():
    assert metrics.bins([0, 14.9, 15, 60], (0, 15, 30, 45), "deg").tolist() == [
        "00-15 deg",
        "00-15 deg",
        "15-30 deg",
        "45+ deg",
    ]
    labels = metrics.terciles(np.arange(9), ("a", "b", "c"))
    assert "".join(labels) == "aaabbbccc"


def test_summary_counts_neutral_faces():
    truth = np.array([[0, 0, np.nan], [0.5, 0, np.nan], [0, 1, np.nan]])
    prediction = np.array([[0.4, 0, np.nan], [0.5, 0, np.nan], [0.1, 0.8, np.nan]])
    out = metrics.summary(("AU01", "AU02", "AU11"), truth, prediction)
    assert (out["faces"], out["fitted"], out["neutral_faces"]) == (3, 3, 1)
    assert out["false_any_au"] == 1
    assert out["mae"] == pytest.approx((0.5 / 3 + 0.2 / 3) / 2)
    groups = metrics.by_group(("AU01", "AU02", "AU11"), truth, prediction, ["b", "a", "a"])
    assert list(groups) == ["a", "b"]
    assert groups["a"]["neutral_faces"] == 0


def test_coverage_of_normal_errors_is_the_level(rng):
    mean, sd = rng.normal(0.3, 0.3, 20_000), rng.uniform(0.05, 0.3, 20_000)
    truth = rng.normal(mean, sd).clip(0, 1)
    reach = metrics.reach(truth[:, None], np.stack([mean, sd], 1)[:, None])
    for level in (0.5, 0.8, 0.95):
        low, high = (np.clip(mean + sign * metrics.normal_reach(level) * sd, 0, 1) for sign in (-1, 1))
        assert metrics.coverage(reach, level) == pytest.approx(((truth >= low) & (truth <= high)).mean())
    assert metrics.normal_reach(0.95) == pytest.approx(1.96, abs=1e-3)
    assert np.isnan(metrics.coverage(np.full((2, 1), np.nan), 0.95))
