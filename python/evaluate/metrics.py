"""Figures of merit for AU intensities, pose and landmarks. Arrays in, numbers out; no files, no torch.

Shapes: N faces, A AUs. Truth and prediction lie in [0, 1]; an AU that is NaN in either (not expressible, or
a face that was not fitted) is left out of that AU's figures, and a figure that cannot be computed is NaN.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import ndtri

Array = npt.NDArray[np.float64]

FACS_LEVELS = 5.0
FALSE_POSITIVE = 0.3  # an AU at or above this on a neutral face is one
PRESENT = 0.5  # from here on py-feat calls an AU present


def pearson(truth: npt.ArrayLike, prediction: npt.ArrayLike) -> float:
    """Correlation over the pairs that are both known; NaN for fewer than 3 of them or a constant."""
    x, y = _known(truth, prediction)
    if len(x) < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return float("nan")
    x, y = x - x.mean(), y - y.mean()
    return float(x @ y / np.sqrt((x @ x) * (y @ y)))


def icc31(truth: npt.ArrayLike, prediction: npt.ArrayLike) -> float:
    """ICC(3,1): two-way mixed effects, consistency, single rating (Shrout & Fleiss 1979), with two raters.

    (MSR - MSE) / (MSR + MSE) for targets (rows) and residual mean squares; unchanged by a constant offset of
    either rater, lowered by a difference in scale.
    """
    x, y = _known(truth, prediction)
    if len(x) < 3:
        return float("nan")
    ratings = np.stack([x, y], 1)
    n, k = ratings.shape
    grand = ratings.mean()
    rows = k * ((ratings.mean(1) - grand) ** 2).sum()
    columns = n * ((ratings.mean(0) - grand) ** 2).sum()
    error = ((ratings - grand) ** 2).sum() - rows - columns
    msr, mse = rows / (n - 1), error / ((n - 1) * (k - 1))
    total = msr + (k - 1) * mse
    return float((msr - mse) / total) if total > 0 else float("nan")


def mean_absolute_error(truth: npt.ArrayLike, prediction: npt.ArrayLike) -> float:
    """Mean of |prediction - truth| over the known pairs."""
    x, y = _known(truth, prediction)
    return float(np.abs(y - x).mean()) if len(x) else float("nan")


def rising_steps(level: npt.ArrayLike, prediction: npt.ArrayLike, group: npt.ArrayLike) -> float:
    """Share of steps to the next higher level of a group (a person's ramp) on which the prediction rises.

    Faces of equal level are averaged first. A step on which the prediction stays the same does not rise;
    chance is 0.5.
    """
    level, prediction, group = np.asarray(level, float), np.asarray(prediction, float), np.asarray(group)
    rises = steps = 0
    for name in np.unique(group):
        rows = (group == name) & np.isfinite(prediction)
        means = [prediction[rows & (level == value)].mean() for value in np.unique(level[rows])]
        difference = np.diff(means)
        rises += int((difference > 0).sum())
        steps += len(difference)
    return rises / steps if steps else float("nan")


def within_person(truth: npt.ArrayLike, prediction: npt.ArrayLike, person: npt.ArrayLike) -> float:
    """Correlation after each person's mean is taken off both: do they follow a person's own changes?"""
    truth, prediction = np.array(truth, float), np.array(prediction, float)
    known = np.isfinite(truth) & np.isfinite(prediction)
    x, y, who = truth[known], prediction[known], np.asarray(person)[known]
    _, index, counts = np.unique(who, return_inverse=True, return_counts=True)
    x -= (np.bincount(index, x) / counts)[index] if len(x) else 0
    y -= (np.bincount(index, y) / counts)[index] if len(y) else 0
    several = counts[index] > 1
    return pearson(x[several], y[several])


def concordance(
    truth: npt.ArrayLike, prediction: npt.ArrayLike, person: npt.ArrayLike, gap: float = 0.2
) -> float:
    """Share of a person's pairs of faces that the prediction puts in order, if truth is `gap` apart.

    Equal predictions count half; chance is 0.5. Every pair counts once, whoever it is of.
    """
    truth, prediction = np.asarray(truth, float), np.asarray(prediction, float)
    person = np.asarray(person)
    right = pairs = 0.0
    for name in np.unique(person):
        rows = (person == name) & np.isfinite(truth) & np.isfinite(prediction)
        t, p = truth[rows], prediction[rows]
        apart = (t[None] - t[:, None]) >= gap
        difference = p[None] - p[:, None]
        right += float((difference[apart] > 0).sum() + 0.5 * (difference[apart] == 0).sum())
        pairs += int(apart.sum())
    return right / pairs if pairs else float("nan")


def cross_talk(truth: Array, prediction: Array) -> Array:
    """[A, A]: how much predicted AU j (column) rises when true AU i (row) goes from 0 to 1, others held.

    Slopes of one least-squares regression of each predicted AU on all true AUs and a constant. The diagonal
    is the response (1 is right), the rest is cross-talk (0 is right). NaN for AUs that are unknown or never
    move.
    """
    n_au = truth.shape[1]
    usable = np.isfinite(truth).all(0) & (np.ptp(np.nan_to_num(truth), axis=0) > 0)
    slopes = np.full((n_au, n_au), np.nan)
    for j in range(n_au):
        rows = np.isfinite(prediction[:, j])
        if rows.sum() <= usable.sum() + 1:
            continue
        design = np.column_stack([np.ones(rows.sum()), truth[rows][:, usable]])
        # Two AUs that always move together share their slope evenly (the minimum-norm solution).
        slopes[usable, j] = np.linalg.lstsq(design, prediction[rows, j], rcond=None)[0][1:]
    return slopes


def off_diagonal(matrix: Array) -> float:
    """Mean absolute cross-talk: entries off the diagonal that are known."""
    values = matrix[~np.eye(len(matrix), dtype=bool)]
    values = values[np.isfinite(values)]
    return float(np.abs(values).mean()) if len(values) else float("nan")


def false_positives(neutral: Array, threshold: float = FALSE_POSITIVE) -> tuple[Array, float]:
    """Neutral faces' predictions [N, A] -> rate per AU [A], and share of faces with any AU at `threshold`."""
    known = np.isfinite(neutral)
    high = known & (np.nan_to_num(neutral) >= threshold)
    rate = np.where(known.any(0), high.sum(0) / np.maximum(known.sum(0), 1), np.nan)
    faces = known.any(1)
    return rate, float(high.any(1)[faces].mean()) if faces.any() else float("nan")


def auc(label: npt.ArrayLike, score: npt.ArrayLike) -> float:
    """Area under the ROC curve: chance that a random positive scores above a random negative (ties half)."""
    label, score = np.asarray(label, bool), np.asarray(score, float)
    label, score = label[np.isfinite(score)], score[np.isfinite(score)]
    n_positive, n_negative = int(label.sum()), int((~label).sum())
    if not n_positive or not n_negative:
        return float("nan")
    _, inverse, counts = np.unique(score, return_inverse=True, return_counts=True)
    rank = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    return float((rank[label].sum() - n_positive * (n_positive + 1) / 2) / (n_positive * n_negative))


def f1(truth: npt.ArrayLike, prediction: npt.ArrayLike) -> float:
    """F1 of two boolean arrays; NaN where there is neither a positive nor a detection."""
    x, y = np.asarray(truth, bool), np.asarray(prediction, bool)
    both, total = int((x & y).sum()), int(x.sum() + y.sum())
    return 2 * both / total if total else float("nan")


def pose_error(truth: Array, prediction: Array) -> dict[str, float]:
    """Pitch, yaw, roll [N, 3] in radians -> mean absolute errors in degrees, by angle and over all three.

    `offset_removed` is the mean after each angle's median difference is taken off: what remains where two
    face models disagree on which way is straight ahead.
    """
    difference = np.degrees(prediction - truth)
    difference = difference[np.isfinite(difference).all(1)]
    if not len(difference):
        return dict.fromkeys(("pitch", "yaw", "roll", "mean", "offset_removed"), float("nan"))
    error = np.abs(difference).mean(0)
    centred = np.abs(difference - np.median(difference, 0)).mean()
    names = ("pitch", "yaw", "roll")
    angles = {name: float(value) for name, value in zip(names, error, strict=True)}
    return {**angles, "mean": float(error.mean()), "offset_removed": float(centred)}


def landmark_error(truth: Array, prediction: Array, scale: float | Array = 1.0) -> float:
    """Mean distance of landmarks [N, 68, 2], times `scale` (a number, or one per face [N])."""
    distance = np.linalg.norm(prediction - truth, axis=-1).mean(-1) * scale
    distance = distance[np.isfinite(distance)]
    return float(distance.mean()) if len(distance) else float("nan")


def au_table(names: Sequence[str], truth: Array, prediction: Array) -> dict[str, dict[str, float]]:
    """Per AU: Pearson r, ICC(3,1) on the FACS scale 0-5, mean absolute error on [0, 1]."""
    table = {}
    for j, name in enumerate(names):
        t, p = truth[:, j], prediction[:, j]
        table[name] = {
            "r": pearson(t, p),
            "icc": icc31(FACS_LEVELS * t, FACS_LEVELS * p),
            "mae": mean_absolute_error(t, p),
        }
    return table


def mean_of(table: dict[str, dict[str, float]], figure: str) -> float:
    """Mean of a figure over the AUs that have it; NaN if none has."""
    values = np.array([row[figure] for row in table.values()], float)
    values = values[np.isfinite(values)]
    return float(values.mean()) if len(values) else float("nan")


def summary(names: Sequence[str], truth: Array, prediction: Array) -> dict[str, Any]:
    """What is reported for one set of faces: means over AUs and the neutral faces' false AUs.

    A face is neutral if none of its known true AUs is above 0.
    """
    table = au_table(names, truth, prediction)
    neutral = ~(np.nan_to_num(truth) > 0).any(1)
    rate, any_au = false_positives(prediction[neutral])
    known = rate[np.isfinite(rate)]
    return {
        "faces": len(truth),
        "fitted": int(np.isfinite(prediction).any(1).sum()),
        "r": mean_of(table, "r"),
        "icc": mean_of(table, "icc"),
        "mae": mean_of(table, "mae"),
        "neutral_faces": int(neutral.sum()),
        "false_any_au": any_au,
        "false_worst_au": float(known.max()) if len(known) else float("nan"),
    }


def by_group(
    names: Sequence[str], truth: Array, prediction: Array, labels: Sequence[str] | npt.NDArray[np.str_]
) -> dict[str, dict[str, Any]]:
    """`summary` of each group of faces; `labels` [N] in any order, groups in alphabetical order."""
    label = np.asarray(labels)
    return {str(g): summary(names, truth[label == g], prediction[label == g]) for g in np.unique(label)}


def terciles(values: npt.ArrayLike, names: tuple[str, str, str]) -> npt.NDArray[np.str_]:
    """Label each value by the third of the sample it falls in."""
    values = np.asarray(values, float)
    low, high = np.quantile(values, [1 / 3, 2 / 3])
    return np.where(values <= low, names[0], np.where(values <= high, names[1], names[2]))


def bins(values: npt.ArrayLike, edges: Sequence[float], unit: str = "") -> npt.NDArray[np.str_]:
    """Label each value by its interval between `edges`: "00-15 deg", "15-30 deg", ..., "45+ deg"."""
    values = np.asarray(values, float)
    names = [f"{a:02g}-{b:02g} {unit}".strip() for a, b in pairwise(edges)]
    names.append(f"{edges[-1]:02g}+ {unit}".strip())
    return np.array(names)[np.clip(np.digitize(values, edges) - 1, 0, len(names) - 1)]


def reach(truth: Array, posterior: Array) -> Array:
    """How many standard deviations an interval must reach to cover each truth [N, A]; 0 where any would.

    Args:
        truth: [N, A] in [0, 1]; 0 and 1 are covered by an interval that reaches beyond them.
        posterior: [N, A, 2], mean and standard deviation of the normal variable that is clipped to the AU.
    """
    mean, sd = posterior[..., 0], posterior[..., 1]
    gap = np.abs(truth - mean)
    gap = np.where((truth == 0) & (mean < 0) | (truth == 1) & (mean > 1), 0, gap)
    out: Array = gap / sd
    return out


def normal_reach(level: float) -> float:
    """Half the width of a normal variable's central interval, in standard deviations: 1.96 for 0.95."""
    return float(ndtri(0.5 + level / 2))


def coverage(reach: Array, level: float) -> float:
    """Share of the known truths that lie in their central interval; see :func:`reach`."""
    known = reach[np.isfinite(reach)]
    return float((known <= normal_reach(level)).mean()) if known.size else float("nan")


def _known(truth: npt.ArrayLike, prediction: npt.ArrayLike) -> tuple[Array, Array]:
    x, y = np.asarray(truth, float).ravel(), np.asarray(prediction, float).ravel()
    if x.shape != y.shape:
        raise ValueError(f"prediction: expected {len(x)} values as in truth, got {len(y)}")
    known = np.isfinite(x) & np.isfinite(y)
    return x[known], y[known]
