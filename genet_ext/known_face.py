"""Landmarks of a known face: how far they are from where this person's are at rest is movement.

How high somebody's brows sit cannot be told from one picture, so the extractor hardly reads from where they
are whether they are raised, although its landmarks follow them. Several pictures of a person tell, and so
does a picture of the face at rest. Of picture t the landmarks are

    d_t = D_t e_t + u + noise        noise ~ N(0, v_t C)

from where those of the face model would be at this pose and identity, at rest: D_t e_t by the movements of
the expression parameters e_t, u because this person's face at rest is not quite the model's. The search for
itself has ended in a minimum that is near to a parabola, g_t(e). Both together say that e_t is where

    TRUST g_t(e) + 1/2 (d_t - D_t e - u)' (v_t C)^-1 (d_t - D_t e - u) + SPARSITY sum(e)        0 <= e <= 1

is smallest; pose and identity stay. u is what is left of the landmarks in most pictures, the median of
d_t - D_t e_t, found with the e_t in turns. One picture tells nothing of u and stays as it is. v_t is 1 for a
usual picture, more for one that the face model explains worse than most of the person's.

TRUST is below 1, since the parabola is narrower than the search's errors on other people's faces. SPARSITY
says that most movements are absent, which landmarks, unlike the networks, would not know.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from genet_ext.action_units import load_action_units
from genet_ext.batching import in_chunks
from genet_ext.landmark_model import COORDINATES
from genet_ext.objective import prior_mean
from genet_ext.parameters import EXPRESSION
from genet_ext.result import FitResult
from genet_ext.sequences import doubt
from genet_ext.similarity import FloatArray
from genet_ext.uncertainty import au_posterior_at, expand_objective

# Chosen on renders and films of the validation split and on people of another face model.
TRUST = 0.4  # of the search's curvature
SPARSITY = 0.75
SETTLED = 1e-4  # of the unit of length or of a parameter's range: changes below end an iteration
MOST_TURNS, MOST_SWEEPS = 20, 80
FACES_AT_ONCE = 256  # a face takes 200 KB on the way


@dataclass(frozen=True)
class Rest:
    """A person's landmarks at rest, and how far pictures are to be compared with them.

    Attributes:
        displacement: u, [D], off those of the face model; NaN if no picture's landmarks tell anything.
        misfit: of a usual picture of the person.
        variance: of the landmarks of a usual picture from u, over their usual one: 2 if u is as noisy.
    """

    displacement: FloatArray
    misfit: float
    variance: float = 1.0

    @property
    def known(self) -> bool:
        """Whether it tells anything."""
        return bool(np.isfinite(self.displacement).all())


@dataclass(frozen=True)
class Evidence:
    """What search and landmarks say of T faces of one person; float64.

    Attributes:
        theta: [T, P], where the search ended.
        curvature: [T, P, P], of its parabola, times TRUST.
        slope: [T, P], at theta, times TRUST.
        displacement: [T, D], of the landmarks from the face model's at rest; NaN where they tell nothing.
        movements: [T, E, D], see :class:`genet_ext.landmark_model.LandmarkModel`.
        precision: [D, D], of usual landmarks.
        variance: [T], of each face's landmarks over that of usual ones.
    """

    theta: FloatArray
    curvature: FloatArray
    slope: FloatArray
    displacement: FloatArray
    movements: FloatArray
    precision: FloatArray
    variance: FloatArray

    @cached_property
    def weighted(self) -> FloatArray:
        """[T, E, D]: the movements, by how sure the landmarks are."""
        return self.movements @ self.precision / self.variance[:, None, None]

    @cached_property
    def seen(self) -> FloatArray:
        """[T, E, E]: the landmarks' curvature."""
        return self.weighted @ self.movements.mT


def evidence_of(faces: FitResult, variance: FloatArray) -> Evidence:
    """Of the fitted faces [T] of one person, their landmarks of that variance [T], over the usual one."""
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
    theta64, precision = faces.theta.astype(np.float64), models.landmark_model.precision
    return Evidence(theta64, curvature, slope, displacement, movements, precision, variance)


def face_at_rest(faces: FitResult) -> Rest:
    """Where the landmarks of a person are at rest, as all of its fitted faces say."""
    rest = Rest(np.full(COORDINATES, np.nan), float(np.median(faces.misfit)))
    evidence = evidence_of(faces, doubt(faces.misfit))
    telling = np.isfinite(evidence.displacement).all(1)
    if not telling.any():
        return rest
    at = faces.models.space.indices(EXPRESSION)
    expression, displacement = evidence.theta[:, at], np.zeros(COORDINATES)
    for _ in range(MOST_TURNS):
        moved = (expression[:, None] @ evidence.movements)[:, 0]
        before = displacement
        displacement = np.median((evidence.displacement - moved)[telling], axis=0)
        if np.abs(displacement - before).max() < SETTLED:
            break
        expression = _most_probable(evidence, at, displacement, expression)
    return replace(rest, displacement=displacement)


def rest_of(face: FitResult) -> Rest:
    """Where the landmarks of a person are at rest, as one fitted face says that is known to be."""
    displacement = face.models.landmark_model.displacement(face.landmarks, face.theta)[0]
    return Rest(displacement, float(face.misfit[0]), variance=2.0)


def read_movement(faces: FitResult, rest: Rest) -> tuple[FloatArray, FloatArray]:
    """Parameters and AUs of the fitted faces of a person whose landmarks at rest are known.

    Returns:
        theta float32 [T, P] and posterior [T, A, 2] as :func:`genet_ext.uncertainty.au_posterior`.
    """
    at = faces.models.space.indices(EXPRESSION)
    parts = []
    for start in range(0, len(faces), FACES_AT_ONCE):
        some = faces[start : start + FACES_AT_ONCE]
        evidence = evidence_of(some, rest.variance * doubt(some.misfit, rest.misfit))
        theta, curvature = evidence.theta.copy(), evidence.curvature.copy()
        theta[:, at] = _most_probable(evidence, at, rest.displacement, theta[:, at])
        curvature[:, at, at] += evidence.seen
        slope = evidence.slope + (evidence.curvature @ (theta - evidence.theta)[..., None])[..., 0]
        moved = (theta[:, None, at] @ evidence.movements)[:, 0]
        left = np.nan_to_num(evidence.displacement - rest.displacement) - moved
        slope[:, at] += SPARSITY - (evidence.weighted @ left[..., None])[..., 0]
        posterior = au_posterior_at(faces.models, load_action_units(), theta, curvature, slope)
        parts.append((theta.astype(np.float32), posterior))
    thetas, posteriors = zip(*parts, strict=True)
    return np.concatenate(thetas), np.concatenate(posteriors)


def _most_probable(evidence: Evidence, at: slice, rest: FloatArray, start: FloatArray) -> FloatArray:
    """Expressions [T, E] where u [D] is known."""
    own = evidence.curvature[:, at, at]
    pull = (evidence.weighted @ np.nan_to_num(evidence.displacement - rest)[..., None])[..., 0]
    pull += (own @ evidence.theta[:, at, None])[..., 0] - evidence.slope[:, at] - SPARSITY
    return _minimum_within_bounds(own + evidence.seen, pull, start)


def _minimum_within_bounds(curvature: FloatArray, pull: FloatArray, start: FloatArray) -> FloatArray:
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
