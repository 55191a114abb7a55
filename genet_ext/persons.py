"""Tying the fitted faces of each person together: one identity, the face at rest, smooth movement.

What the faces tell of each other is worked out elsewhere (`sequences.py`, `known_face.py`, `resting.py`);
here it is applied to a result whose faces were each fitted for themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from genet_ext.action_units import load_action_units
from genet_ext.assembly import search_again
from genet_ext.known_face import Rest, face_at_rest, read_movement, rest_of
from genet_ext.parameters import IDENTITY
from genet_ext.resting import resting_aus
from genet_ext.result import FitResult, concatenate
from genet_ext.sequences import common_identity, doubt, groups, smooth_parameters, spread_evenly
from genet_ext.similarity import FloatArray


def share_identity(
    result: FitResult,
    labels: Sequence[Any],
    uncertainty: bool = True,
    neutral: Mapping[Any, FitResult] | None = None,
) -> FitResult:
    """Take what each subject's faces share for who it is.

    They are fitted again with the identity held at what they together say of it, and moved by what their
    landmarks say now that the face at rest is known. The AUs that are left at rest, as all of them show it or
    the subject's neutral photograph, become their ``baseline``.

    Args:
        result: faces fitted with a free identity.
        labels: the subject of each face.
        uncertainty: whether to compute the standard deviation of each AU.
        neutral: each subject's neutral photograph, fitted.
    """

    def share(faces: FitResult, label: Any) -> FitResult:
        if not faces.fitted.any():
            return faces
        return _one_person(faces, None if neutral is None else neutral[label], uncertainty)

    return _each_person(result, labels, share)


def _one_person(faces: FitResult, neutral: FitResult | None, uncertainty: bool) -> FitResult:
    faces, identity = _with_one_head(faces, uncertainty)
    known = faces[faces.fitted]
    if neutral is not None:
        neutral = _with_identity(neutral, identity, uncertainty=False)
        known = concatenate([known, neutral])
    if len(known) > 1:
        rest = face_at_rest(spread_evenly(known))
        faces = _with_rest(faces, rest, uncertainty)
        if neutral is not None:
            neutral = _with_rest(neutral, rest, uncertainty=False)
    return _above(faces, _resting_face(faces) if neutral is None else neutral.aus.to_numpy()[0])


def subtract_neutral(
    result: FitResult, labels: Sequence[Any], neutral: Mapping[Any, FitResult], uncertainty: bool = True
) -> FitResult:
    """Move the faces by how far their landmarks are from those of the subject's neutral photograph, and take
    its AUs off.

    Args:
        result: the fitted faces.
        labels: the subject of each face.
        neutral: each subject's neutral photograph, fitted.
        uncertainty: whether to compute the standard deviation of each AU.
    """

    def subtract(faces: FitResult, label: Any) -> FitResult:
        still = neutral[label]
        rest = rest_of(still)
        faces = _with_rest(faces, rest, uncertainty)
        return _above(faces, _with_rest(still, rest, uncertainty=False).aus.to_numpy()[0])

    return _each_person(result, labels, subtract)


def smooth(result: FitResult, labels: Sequence[Any], frames: Any, smoothing: float) -> FitResult:
    """The same faces, moved to the most probable movement of each subject.

    Loss, distance and misfit are those where they are now, and what is believed of the AUs moves along, no
    surer than before: an error that all frames share does not grow less by smoothing. Status and iterations
    stay.

    Args:
        result: the fitted faces.
        labels: the subject of each face.
        frames: [N], each face's place in time, in frames.
        smoothing: over how many frames neighbours count, above 0.
    """
    there = _moved(result, smooth_parameters(result, labels, frames, smoothing))
    posterior = result.posterior.copy()
    posterior[..., 0] += (there.theta - result.theta).astype(np.float64) @ load_action_units().weights.T
    return replace(there, posterior=posterior)


def share_head(result: FitResult, labels: Sequence[Any], uncertainty: bool = True) -> FitResult:
    """The first step of :func:`share_identity` alone: each subject's faces with one identity."""

    def share(faces: FitResult, _: Any) -> FitResult:
        return _with_one_head(faces, uncertainty)[0] if faces.fitted.any() else faces

    return _each_person(result, labels, share)


def take_resting_aus_off(result: FitResult, labels: Sequence[Any]) -> FitResult:
    """The last step of :func:`share_identity` alone: off comes what each subject's faces show at rest."""

    def take_off(faces: FitResult, _: Any) -> FitResult:
        return _above(faces, _resting_face(faces)) if faces.fitted.any() else faces

    return _each_person(result, labels, take_off)


def _each_person(
    result: FitResult, labels: Sequence[Any], change: Callable[[FitResult, Any], FitResult]
) -> FitResult:
    """The result with the faces of each label changed together."""
    of_each = groups(labels)
    parts = [change(result[rows], labels[rows[0]]) for rows in of_each]
    return concatenate(parts)[np.argsort(np.concatenate(of_each), kind="stable")]


def _with_one_head(faces: FitResult, uncertainty: bool) -> tuple[FitResult, Tensor]:
    """One person's faces searched again with the identity [K] held on which they agree, and that."""
    identity = common_identity(spread_evenly(faces[faces.fitted]))
    return _with_identity(faces, identity, uncertainty), identity


def _with_identity(faces: FitResult, identity: Tensor, uncertainty: bool) -> FitResult:
    """The same faces searched again with the identity [K] held."""
    space = faces.models.space
    at, lower, upper = space.indices(IDENTITY), space.lower.clone(), space.upper.clone()
    lower[at] = upper[at] = identity.to(lower).clamp(lower[at], upper[at])
    return search_again(faces, lower, upper, uncertainty)


def _with_rest(faces: FitResult, rest: Rest, uncertainty: bool) -> FitResult:
    """The same faces moved by what their landmarks say, where those at rest are known."""
    fitted = np.flatnonzero(faces.fitted)
    if not (len(fitted) and rest.known):
        return faces
    theta, posterior = faces.theta.copy(), faces.posterior.copy()
    theta[fitted], believed = read_movement(faces[fitted], rest)
    if uncertainty:
        posterior[fitted] = believed
    return replace(_moved(faces, theta), posterior=posterior)


def _moved(faces: FitResult, theta: npt.NDArray[np.float32]) -> FitResult:
    """The same faces at other parameters [N, P], with loss, distance and misfit there; the rest stays."""
    space, nowhere = faces.models.space, replace(faces.settings, iterations=0)
    there = search_again(
        replace(faces, theta=theta, settings=nowhere), space.lower, space.upper, uncertainty=False
    )
    costs = {name: getattr(there, name) for name in ("loss", "distance", "misfit")}
    return replace(faces, theta=there.theta, **costs)


def _resting_face(faces: FitResult) -> FloatArray:
    """AUs [A] that are read on the resting face of the one person that all faces are of."""
    some = spread_evenly(faces[faces.fitted])
    spread = faces.models.prior.rest_spread.double().cpu().numpy()
    return resting_aus(load_action_units().values(some.theta), doubt(some.misfit), spread)


def _above(faces: FitResult, resting: FloatArray) -> FitResult:
    """The same faces with AUs [A] of the face at rest for a baseline."""
    return replace(faces, baseline=np.tile(np.nan_to_num(resting), (len(faces), 1)))
