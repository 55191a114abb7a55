"""What several pictures of one person tell of each other.

Every face is fitted for itself first (:mod:`genet_ext.fitting`). What is here works on those fits, near whose
optimum the objective is a parabola, so the posterior of a face's parameters is taken as normal.

**One head.** All pictures of a person have the same identity z. Face t, its pose and expression integrated
out, says that z is normal around z_t with precision S_t; the prior (mean 0, precision L) is in every S_t.
Together they say, the prior being counted once,

    z = (L + n mean((S_t - L) / v_t))^-1  n mean(S_t z_t / v_t)        n = T / (1 + (T - 1) CORRELATION)

The pictures also share skin, glasses and often light, and with them part of their error: T of them count as
n. v_t is 1 for a usual picture, more for one that the face model explains worse than most of the person's
(a hand in front of the face, a blurred frame). What they share beyond the identity is in `known_face.py` and
`resting.py`.

**Smooth movement.** A person's parameters are a random walk seen through the fits: for frames t and t + g

    theta_t+g ~ N(theta_t, g / smoothing^2 * C)        fit_t ~ N(theta_t, v_t * C)

with one covariance C for all of a person's frames. C cancels: a Kalman filter and a Rauch-Tung-Striebel pass
with scalar gains give the most probable walk. Where all v_t = 1, that is a moving average whose weights fall
off over about `smoothing` frames to both sides. (C and v_t C instead of the Laplace covariance of each frame:
on renders the two came to the same, but for spoilt frames, which the Laplace covariance does not see.)

**Who is who.** Where names do not tell, overlapping face boxes from frame to frame do.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from genet_ext.batching import in_chunks
from genet_ext.face_finder import overlaps
from genet_ext.objective import prior_mean
from genet_ext.parameters import IDENTITY
from genet_ext.result import FitResult
from genet_ext.similarity import rotation_of
from genet_ext.uncertainty import expand_objective

CORRELATION = 0.1  # between what two pictures of a person say of the identity; chosen on validation renders
MOST_PICTURES = 128  # of a person
SAME_FACE_IOU = 0.3  # boxes of successive frames that overlap less are not of one face
LOST_AFTER = 10  # a face that was not seen in so many frames is a new one when it comes back

Floats = npt.NDArray[np.float64]


def check_smoothing(smoothing: float) -> None:
    """ValueError unless it is a number of frames, 0 for none."""
    if isinstance(smoothing, bool) or not isinstance(smoothing, (int, float)) or not 0 <= smoothing < 1e6:
        raise ValueError(f"smoothing: expected a number of frames, 0 for none; got {smoothing!r}")


# --- one head -------------------------------------------------------------------------------------


def common_identity(faces: FitResult) -> Tensor:
    """The identity [K] that all `faces`, fitted ones of one person, agree on; float64."""
    models = faces.models
    tensors = [torch.from_numpy(x).to(models.device) for x in (faces.theta, faces.features, faces.regressed)]
    theta, features, regressed = tensors
    identity = models.space.indices(IDENTITY)
    kind, delta = faces.settings.kind, faces.settings.delta

    def run(theta: Tensor, features: Tensor, mean: Tensor) -> Tensor:
        curvature, _ = expand_objective(models, theta, features, mean, kind, delta)
        return _marginal(curvature, identity)

    with torch.no_grad():
        (precision,) = in_chunks(run, theta, features, prior_mean(models, regressed))  # [T, K, K]
        prior = _marginal(models.prior.precision.double(), identity)
        weight = 1 / torch.from_numpy(doubt(faces.misfit)).to(prior)[:, None, None]
        count = len(faces) / (1 + (len(faces) - 1) * CORRELATION)
        said = precision @ theta.double()[:, identity, None]
        total = prior + count * (weight * (precision - prior)).mean(0)
        identity_of_all: Tensor = torch.linalg.solve(total, count * (weight * said).mean(0))[:, 0]
    return identity_of_all


def spread_evenly(faces: FitResult, most: int = MOST_PICTURES) -> FitResult:
    """Some of a person's faces, if there are more than `most`: by their correlation more would add little."""
    return faces[np.linspace(0, len(faces) - 1, min(len(faces), most)).round().astype(int)]


def _marginal(precision: Tensor, kept: slice) -> Tensor:
    """Precision [..., K, K] of the parameters `kept`, of [..., P, P], the others integrated out."""
    others = torch.ones(precision.shape[-1], dtype=torch.bool, device=precision.device)
    others[kept] = False
    across = precision[..., others, :][..., kept]
    explained = torch.linalg.solve(precision[..., others, :][..., others], across)
    left: Tensor = precision[..., kept, kept] - across.mT @ explained
    return left


def doubt(misfit: Floats, usual: float | None = None) -> Floats:
    """How many times the usual variance each fit of a person has: 1, or more if it is worse than usual.

    Args:
        misfit: [T].
        usual: of a usual fit; the median if not given.
    """
    usual = float(np.median(misfit)) if usual is None else usual
    times: Floats = np.maximum(1.0, misfit / usual) if usual > 0 else np.ones(len(misfit))
    return times


# --- smooth movement ------------------------------------------------------------------------------


def smooth_parameters(
    result: FitResult, labels: Sequence[Hashable], frames: npt.ArrayLike, smoothing: float
) -> npt.NDArray[np.float32]:
    """Parameters [N, P] of the most probable movement of every person; rows without a fit stay NaN.

    Args:
        result: the fitted faces.
        labels: who each face is of.
        frames: [N], each face's place in time, counted in frames; they may have gaps.
        smoothing: over how many frames to both sides a frame's neighbours count.
    """
    space = result.models.space
    roll, turned = space.index("roll"), rotation_of(result.similarity)
    theta = result.theta.astype(np.float64)
    theta[:, roll] += turned  # alignment turns every crop by its own angle: smooth the head's, not the rest
    time = np.asarray(frames, np.float64)
    for rows in groups(labels):
        rows = rows[result.fitted[rows]]
        rows = rows[np.argsort(time[rows], kind="stable")]
        if len(rows):
            theta[rows] = most_probable_walk(theta[rows], doubt(result.misfit[rows]), time[rows], smoothing)
    theta[:, roll] -= turned
    return np.clip(theta, space.lower.numpy(), space.upper.numpy()).astype(np.float32)


def most_probable_walk(values: Floats, variance: Floats, time: Floats, smoothing: float) -> Floats:
    """The smoothed course [T, K] of `values` [T, K] seen at `time` [T] with `variance` [T].

    Exact for a random walk whose steps have variance 1 / smoothing^2 per unit of time.
    """
    filtered, predicted, spread = values.copy(), np.zeros(len(values)), np.array(variance)
    for t in range(1, len(values)):
        predicted[t] = spread[t - 1] + (time[t] - time[t - 1]) / smoothing**2
        gain = predicted[t] / (predicted[t] + variance[t])
        filtered[t] = filtered[t - 1] + gain * (values[t] - filtered[t - 1])
        spread[t] = (1 - gain) * predicted[t]
    for t in range(len(values) - 2, -1, -1):
        filtered[t] += spread[t] / predicted[t + 1] * (filtered[t + 1] - filtered[t])
    return filtered


# --- who is who -----------------------------------------------------------------------------------


def groups(labels: Sequence[Hashable]) -> list[npt.NDArray[np.int64]]:
    """The rows of each label, labels in the order in which they come."""
    rows: dict[Hashable, list[int]] = {}
    for row, label in enumerate(labels):
        rows.setdefault(label, []).append(row)
    return [np.array(found, np.int64) for found in rows.values()]


def tell_apart(labels: Sequence[Hashable], frames: npt.ArrayLike, boxes: Floats) -> list[Hashable]:
    """The labels, those split that several faces of one frame have: a person is in a frame once.

    Args:
        labels: who each face is said to be of.
        frames: [N].
        boxes: [N, 4], NaN where there is no face; by these the faces of such a label are followed.
    """
    frames, out = np.asarray(frames), list(labels)
    for rows in groups(labels):
        rows = rows[np.isfinite(boxes[rows]).all(axis=1)]
        if len(np.unique(frames[rows])) < len(rows):
            for row, number in zip(rows, follow_boxes(frames[rows], boxes[rows]), strict=True):
                out[row] = (labels[row], int(number))
    return out


def follow_boxes(frames: npt.ArrayLike, boxes: Floats) -> npt.NDArray[np.int64]:
    """Number each face [N] by its box [N, 4] (x1 y1 x2 y2), in the order in which they appear.

    A face goes on from the last box that it overlaps most; -1 where a box is NaN.
    """
    frames = np.asarray(frames)
    numbers = np.full(len(frames), -1, np.int64)
    last_box: dict[int, Floats] = {}
    last_seen: dict[int, int] = {}
    for position, rows in enumerate(_by_frame(frames)):
        rows = rows[np.isfinite(boxes[rows]).all(1)]
        known = [n for n, seen in last_seen.items() if position - seen <= LOST_AFTER]
        if known and len(rows):
            overlap = overlaps(np.concatenate([[last_box[n] for n in known], boxes[rows]]))
            overlap = overlap[: len(known), len(known) :]
            for one, other in zip(*linear_sum_assignment(-overlap), strict=True):
                if overlap[one, other] >= SAME_FACE_IOU:
                    numbers[rows[other]] = known[one]
        for row in rows:
            if numbers[row] < 0:
                numbers[row] = len(last_seen)
            last_box[int(numbers[row])], last_seen[int(numbers[row])] = boxes[row], position
    return numbers


def _by_frame(frames: npt.NDArray[Any]) -> Iterator[npt.NDArray[np.int64]]:
    """The rows of each frame, in the order of the frames."""
    order = np.argsort(frames, kind="stable")
    starts = np.flatnonzero(np.diff(frames[order])) + 1
    yield from np.split(order, starts)
