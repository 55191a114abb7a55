"""Landmarks of a known face: how far they are from where this person's are at rest is movement.

How high somebody's brows sit cannot be told from one picture, so the extractor hardly reads from where they
are whether they are raised, although its landmarks follow them. Several pictures of a person tell, and so
does a picture of the face at rest. Of picture t the landmarks are

    d_t = D_t e_t + u + noise        noise ~ N(0, C)

from where those of the face model would be at this pose and identity, at rest: D_t e_t by the movements of
the expression parameters e_t, u because this person's face at rest is not quite the model's. The search for
itself has ended in a minimum that is near to a parabola, g_t(e). Both together say that e_t is where

    TRUST g_t(e) + 1/2 (d_t - D_t e - u)' C^-1 (d_t - D_t e - u) + SPARSITY sum(e)        0 <= e <= 1

is smallest; pose and identity stay. u is what is left of the landmarks in most pictures, the median of
d_t - D_t e_t, found with the e_t in turns. One picture tells nothing of u and stays as it is.

TRUST is below 1, since the parabola is narrower than the search's errors on other people's faces. SPARSITY
says that most movements are absent, which landmarks, unlike the networks, would not know.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from genet_ext.action_units import load_action_units
from genet_ext.batching import in_chunks
from genet_ext.landmark_model import COORDINATES, Floats
from genet_ext.objective import prior_mean
from genet_ext.parameters import EXPRESSION
from genet_ext.result import FitResult
from genet_ext.uncertainty import au_posterior_at, expand_objective

# Chosen on renders and films of the validation split and on people of another face model.
TRUST = 0.4  # of the search's curvature
SPARSITY = 0.75
SETTLED = 1e-4  # of the unit of length or of a parameter's range: changes below end an iteration
MOST_TURNS, MOST_SWEEPS = 20, 80
FACES_AT_ONCE = 256  # a face takes 150 KB on the way


@dataclass(frozen=True)
class Evidence:
    """What search and landmarks say of T faces of one person; float64.

    Attributes:
        theta: [T, P], where the search ended.
        curvature: [T, P, P], of its parabola, times TRUST.
        slope: [T, P], at theta, times TRUST.
        displacement: [T, D], of the landmarks from the face model's at rest; NaN where they tell nothing.
        movements: [T, E, D], see :class:`genet_ext.landmark_model.LandmarkModel`.
        precision: [D, D], of the landmarks.
    """

    theta: Floats
    curvature: Floats
    slope: Floats
    displacement: Floats
    movements: Floats
    precision: Floats


def evidence_of(faces: FitResult, landmark_variance: float = 1.0) -> Evidence:
    """Of the fitted faces of one person; the landmarks' variance may be several times the usual one."""
    models, settings = faces.models, faces.settings
    tensors = [torch.from_numpy(x).to(models.device) for x in (faces.theta, faces.features, faces.regressed)]
    theta, features, regressed = tensors

    def run(theta: Tensor, features: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
        return expand_objective(models, theta, features, mean, settings.kind, settings.delta)

    with torch.no_grad():
        expanded = in_chunks(run, theta, features, prior_mean(models, regressed))
    curvature, slope = (TRUST * x.cpu().numpy() for x in expanded)
    displacement = models.landmark_model.displacement(faces.landmarks, faces.theta)
    movements = models.landmark_model.movements(faces.theta)
    movements[~np.isfinite(displacement).all(1)] = 0  # all landmarks on one spot, as of no face
    precision = models.landmark_model.precision / landmark_variance
    return Evidence(faces.theta.astype(np.float64), curvature, slope, displacement, movements, precision)


def face_at_rest(faces: FitResult) -> Floats:
    """u [D]: where a person's landmarks are at rest, off the face model's, as all of its fitted faces say.

    NaN if no face's landmarks tell anything.
    """
    evidence = evidence_of(faces)
    telling = np.isfinite(evidence.displacement).all(1)
    if not telling.any():
        return np.full(COORDINATES, np.nan)
    at = faces.models.space.indices(EXPRESSION)
    expression, rest = evidence.theta[:, at], np.zeros(COORDINATES)
    for _ in range(MOST_TURNS):
        moved = (expression[:, None] @ evidence.movements)[:, 0]
        before, rest = rest, np.median((evidence.displacement - moved)[telling], axis=0)
        if np.abs(rest - before).max() < SETTLED:
            break
        expression = _most_probable(evidence, at, rest, expression)[0]
    return rest


def rest_of(face: FitResult) -> Floats:
    """u [D] of one fitted face that is known to be at rest; NaN if its landmarks tell nothing."""
    rest: Floats = face.models.landmark_model.displacement(face.landmarks, face.theta)[0]
    return rest


def read_movement(faces: FitResult, rest: Floats, landmark_variance: float = 1.0) -> tuple[Floats, Floats]:
    """Parameters and AUs of the fitted faces of a person whose landmarks at rest are known.

    Args:
        faces: T faces.
        rest: [D], see :func:`face_at_rest` and :func:`rest_of`.
        landmark_variance: times the usual one: 2 where `rest` comes from a single picture.

    Returns:
        theta float32 [T, P] and posterior [T, A, 2] as :func:`genet_ext.uncertainty.au_posterior`.
    """
    at = faces.models.space.indices(EXPRESSION)
    parts = []
    for start in range(0, len(faces), FACES_AT_ONCE):
        evidence = evidence_of(faces[start : start + FACES_AT_ONCE], landmark_variance)
        theta, curvature = evidence.theta.copy(), evidence.curvature.copy()
        theta[:, at], seen = _most_probable(evidence, at, rest, theta[:, at])
        curvature[:, at, at] += seen
        slope = evidence.slope + (evidence.curvature @ (theta - evidence.theta)[..., None])[..., 0]
        left = np.nan_to_num(evidence.displacement - rest) - (theta[:, None, at] @ evidence.movements)[:, 0]
        slope[:, at] += SPARSITY - (evidence.movements @ (left @ evidence.precision)[..., None])[..., 0]
        posterior = au_posterior_at(faces.models, load_action_units(), theta, curvature, slope)
        parts.append((theta.astype(np.float32), posterior))
    thetas, posteriors = zip(*parts, strict=True)
    return np.concatenate(thetas), np.concatenate(posteriors)


def _most_probable(evidence: Evidence, at: slice, rest: Floats, start: Floats) -> tuple[Floats, Floats]:
    """Expressions [T, E] with `rest` known, and the landmarks' curvature [T, E, E]."""
    weighted = evidence.movements @ evidence.precision
    seen = weighted @ evidence.movements.mT
    own = evidence.curvature[:, at, at]
    pull = (weighted @ np.nan_to_num(evidence.displacement - rest)[..., None])[..., 0]
    pull += (own @ evidence.theta[:, at, None])[..., 0] - evidence.slope[:, at] - SPARSITY
    return _minimum_within_bounds(own + seen, pull, start), seen


def _minimum_within_bounds(curvature: Floats, pull: Floats, start: Floats) -> Floats:
    """The x [T, E] in [0, 1] at which x' curvature x / 2 - pull x is smallest, each row for itself.

    By coordinate descent, which for a convex parabola ends in its minimum.
    """
    x = np.clip(start, 0, 1)
    slope = (curvature @ x[..., None])[..., 0] - pull
    diagonal = np.diagonal(curvature, axis1=1, axis2=2)
    moving = np.ones(len(x), bool)
    for _ in range(MOST_SWEEPS):
        largest = np.zeros(len(x))
        for k in range(x.shape[1]):
            step = np.clip(x[:, k] - slope[:, k] / diagonal[:, k], 0, 1) - x[:, k]
            step *= moving  # a row that has settled stays, whatever the others do
            x[:, k] += step
            slope += curvature[:, :, k] * step[:, None]
            largest = np.maximum(largest, np.abs(step))
        moving &= largest >= SETTLED
        if not moving.any():
            break
    return x
