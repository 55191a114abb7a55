"""From the end of a search to a :class:`FitResult`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from genet_ext.action_units import load_action_units
from genet_ext.faces import DISPLAY_SIZE, FaceBatch
from genet_ext.images import UInt8Array
from genet_ext.models import Models
from genet_ext.objective import Target, feature_distance_of, misfit_of, prior_mean
from genet_ext.result import FitResult
from genet_ext.similarity import invert, transform
from genet_ext.solver import SearchOutcome, SearchSettings, search
from genet_ext.status import Status
from genet_ext.uncertainty import au_posterior


def kept_crops_of(batch: FaceBatch, keep: int) -> list[UInt8Array | None]:
    """The aligned photographs of the first ``keep`` faces, for plots; None for the others."""
    return [
        face.patch.crop(batch.similarity[row], DISPLAY_SIZE) if face.patch and row < keep else None
        for row, face in enumerate(batch.faces)
    ]


def assemble(
    batch: FaceBatch,
    target: Target,
    outcome: SearchOutcome,
    crops: list[UInt8Array | None],
    models: Models,
    settings: SearchSettings,
    uncertainty: bool,
) -> FitResult:
    """Everything on the host, NaN where there is no face."""
    faces, valid = batch.faces, batch.valid
    landmarks = target.landmarks.double().cpu().numpy()
    in_photo = np.full_like(landmarks, np.nan)
    in_photo[valid] = transform(invert(batch.similarity[valid]), landmarks[valid])
    given_status = [face.status for face in faces]
    return FitResult(
        source=[face.source for face in faces],
        image=np.array([face.image for face in faces], np.int64),
        face=np.array([face.number for face in faces], np.int64),
        box=np.stack([face.box for face in faces]),
        face_score=np.array([face.score for face in faces]),
        landmarks=in_photo,
        regressed=_nan_rows(target.regressed, valid),
        appearance=_nan_rows(target.appearance, valid),
        features=_nan_rows(target.features, valid),
        similarity=batch.similarity,
        baseline=np.zeros((len(faces), len(load_action_units().names))),
        crops=crops,
        models=models,
        settings=settings,
        **_search_fields(
            models, target, outcome, settings, uncertainty, given_status, [face.message for face in faces]
        ),
    )


def _search_fields(
    models: Models,
    target: Target,
    outcome: SearchOutcome,
    settings: SearchSettings,
    uncertainty: bool,
    given_status: Sequence[Status | None],
    given_message: Sequence[str],
) -> dict[str, Any]:
    """The fields of a :class:`FitResult` that come from the search."""
    table, kind, delta = load_action_units(), settings.kind, settings.delta
    loss = outcome.loss.double().cpu().numpy()
    status = [
        given or _search_status(bool(np.isfinite(loss[row])), bool(outcome.converged[row]))
        for row, given in enumerate(given_status)
    ]
    message = [
        text or ("loss or gradient not finite" if s is Status.FAILED else "")
        for text, s in zip(given_message, status, strict=True)
    ]
    fitted = np.array([s.fitted for s in status], bool)
    distance = feature_distance_of(models, outcome.theta, target.features, kind, delta, settings.ops)
    misfit = misfit_of(models, outcome.theta, target.features, settings.ops)
    posterior = np.full((len(status), len(table.names), 2), np.nan)
    if uncertainty:
        mean = prior_mean(models, target.regressed)
        posterior = au_posterior(models, table, outcome.theta, target.features, mean, kind, delta)
    return {
        "status": status,
        "message": message,
        "theta": _nan_rows(outcome.theta, fitted),
        "loss": np.where(fitted, loss, np.nan),
        "distance": np.where(fitted, distance.double().cpu().numpy(), np.nan),
        "misfit": np.where(fitted, misfit.double().cpu().numpy(), np.nan),
        "iterations": outcome.iterations.cpu().numpy().astype(np.int64),
        "posterior": np.where(fitted[:, None, None], posterior, np.nan),
    }


def _search_status(finite: bool, converged: bool) -> Status:
    if not finite:
        return Status.FAILED
    return Status.CONVERGED if converged else Status.MAX_ITERATIONS


def _nan_rows(values: Tensor, kept: np.ndarray[Any, np.dtype[np.bool_]]) -> Any:
    array = values.cpu().numpy().copy()
    array[~kept] = np.nan
    return array


def search_again(result: FitResult, lower: Tensor, upper: Tensor, uncertainty: bool) -> FitResult:
    """The same faces searched from where they are, within other bounds."""
    models, settings = result.models, result.settings
    valid = torch.from_numpy(np.isfinite(result.features).all(1)).to(models.device)
    arrays = (result.features, result.regressed, result.appearance, result.landmarks, result.theta)
    tensors = [torch.from_numpy(np.nan_to_num(x)).to(models.device) for x in arrays]
    features, regressed, appearance, landmarks, theta = tensors
    target = Target(features, regressed, appearance, landmarks, valid)
    outcome = search(models, target, theta, settings, lower, upper)
    given = [None if ok else status for ok, status in zip(valid.tolist(), result.status, strict=True)]
    found = _search_fields(models, target, outcome, settings, uncertainty, given, result.message)
    found["iterations"] = result.iterations + found["iterations"]
    return replace(result, **found)
