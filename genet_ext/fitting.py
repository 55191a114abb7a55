"""``fit``: from photographs to AU intensities.

    images -> faces -> aligned crops -> target features -> search -> FitResult

one call per stage, in this order; no stage reaches back.
"""

from __future__ import annotations

import os
import warnings
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import cache
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from tqdm import tqdm

from genet_ext.action_units import load_action_units
from genet_ext.faces import (
    DISPLAY_SIZE,
    Face,
    FaceBatch,
    FloatArray,
    align_faces,
    faces_of,
    invert,
    iter_given,
    transform,
)
from genet_ext.images import Source, UInt8Array, iter_sources
from genet_ext.models import Models, load_models
from genet_ext.objective import Target, feature_distance_of, misfit_of, prior_mean, target_of
from genet_ext.parameters import IDENTITY
from genet_ext.resting import resting_aus
from genet_ext.result import FitResult, concatenate
from genet_ext.sequences import (
    check_smoothing,
    common_identity,
    doubt,
    groups,
    smooth_parameters,
    spread_evenly,
    tell_apart,
)
from genet_ext.solver import SETTING_NAMES, Objective, SearchOutcome, SearchSettings, search
from genet_ext.status import Status
from genet_ext.uncertainty import au_posterior

Init = Literal["regressor", "mean"]

BATCH_SIZE = {"cpu": 64, "cuda": 1024}  # faces per search; has no influence on the numbers
KEEP_CROPS = 256  # faces whose photograph is kept for plots: 192 KB each
DECODERS = min(4, os.cpu_count() or 1)  # threads that decode photographs and find faces ahead of the networks
MESSAGES_SHOWN = 5


def fit(
    imgs: Any,
    boxes: Any = None,
    landmarks: Any = None,
    *,
    objective: Objective = "feature",
    iterations: int = SearchSettings.iterations,
    lr: float = SearchSettings.lr,
    init: Init = "regressor",
    device: str | torch.device = "auto",
    identity: Literal["free", "shared"] = "free",
    subject: Sequence[Any] | None = None,
    smoothing: float = 0.0,
    neutral: Any = None,
    uncertainty: bool = True,
    batch_size: int | None = None,
    keep_crops: int = KEEP_CROPS,
    progress: bool = True,
    models: Models | None = None,
    **search_options: Any,
) -> FitResult:
    """Fit every face of the given photographs.

    >>> result = genet_ext.fit(["a.jpg", "b.png"])                               # doctest: +SKIP
    >>> result = genet_ext.fit(frame, boxes=[[120, 80, 260, 250]])               # doctest: +SKIP
    >>> result = genet_ext.fit(frames, identity="shared", smoothing=0.5)         # doctest: +SKIP

    The numbers of a face depend on its photograph alone: not on the other images, their order or
    ``batch_size``. (``identity="shared"``, ``smoothing`` and ``neutral`` tie photographs of one person
    together, because they are asked to.)

    Args:
        imgs: a path, a PIL image, a numpy array (H x W, H x W x 3 or 4, or N x H x W x 3; uint8, uint16, or
            float in [0, 1]), a torch tensor ([N, 3, H, W] or [3, H, W]; uint8, or float in [0, 1]), or a list
            or iterator of these. An iterator is read as it is needed.
        boxes: face boxes, x1 y1 x2 y2 in px: [N, 4] with one per image, or a list with an array [n, 4] per
            image. A loose box will do; a NaN box says that there is no face. Without boxes all frontal faces
            are searched for.
        landmarks: 68 points per face in px, [N, 68, 2] or a list of [n, 68, 2]: used for alignment instead of
            the extractor's own.
        objective: ``"feature"`` (the distilled network, fused, fast) or ``"image"`` (through the rendering,
            as published; some hundred times slower).
        iterations: search steps at most.
        lr: Adam's learning rate.
        init: where the search starts: the regressor's estimate, or the average face (``"mean"``).
        device: ``"auto"`` (CUDA where there is any), ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ...
        identity: ``"shared"`` takes what all photographs of a subject share for who it is: the shape of the
            head is held fixed, and what is read as an AU on the face at rest is subtracted, as the
            photographs themselves tell it (see :mod:`genet_ext.resting`), or ``neutral``.
        subject: who is in each image, one label per image; for ``identity="shared"``, ``smoothing`` and
            ``neutral``. Without it all are of one person; where an image has several faces, the first two
            follow each of them by its box.
        smoothing: for the frames of a film, one after the other: over how many frames to both sides a
            subject's neighbouring frames count (0: not at all; see :mod:`genet_ext.sequences`). 0.5 takes
            jitter away and leaves blinks; the AUs' uncertainty stays that of single frames.
        neutral: a photograph of the subject at rest (anything ``imgs`` can be), or a dictionary from subject
            to such a photograph: its AUs are subtracted.
        uncertainty: whether to compute the standard deviation of each AU.
        batch_size: faces per search; has no influence on the numbers.
        keep_crops: of how many faces, from the first, the photograph is kept for plots.
        progress: show a progress bar on a terminal.
        models: other models than the shipped ones; they bring their device with them.
        **search_options: lr_decay, tol, kind, ...: see :class:`SearchSettings`.

    Returns:
        A :class:`FitResult` with a row per face, and at least one row per image: an image that cannot be
        read, or has no face, is a row of NaN whose ``status`` says so, and is counted in a warning at the
        end.

    Raises:
        TypeError, ValueError, FileNotFoundError: for a wrong argument, naming it, what was expected and what
            came.
        Any exception that stops a fit half-way (``KeyboardInterrupt`` too) carries the faces fitted so far in
        its attribute ``partial_result``.
    """
    if identity not in ("free", "shared"):
        raise ValueError(f"identity: expected 'free' or 'shared', got {identity!r}")
    check_smoothing(smoothing)
    options = {
        "objective": objective,
        "iterations": iterations,
        "lr": lr,
        "init": init,
        "device": device,
        "uncertainty": uncertainty,
        "batch_size": batch_size,
        "models": models,
        **search_options,
    }
    parts: list[FitResult] = []
    try:
        parts.extend(fit_stream(imgs, boxes, landmarks, keep_crops=keep_crops, progress=progress, **options))
    except BaseException as error:
        if parts:
            error.partial_result = concatenate(parts)  # type: ignore[attr-defined]
            error.add_note("The faces fitted so far are in this exception's .partial_result.")
        raise
    if not parts:
        raise ValueError("imgs: expected at least one image, got an empty iterator")
    result = concatenate(parts)
    labels = _labels(result, subject)
    if identity == "shared" or smoothing:
        people = tell_apart(labels, result.image, result.box)
        if identity == "shared":
            result = share_identity(result, people, uncertainty)
        if smoothing:
            result = smooth(result, people, result.image, smoothing)
    if neutral is not None:
        result = subtract_neutral(result, labels, neutral, identity == "shared", **options)
    _warn_of_failures(result)
    return result


def fit_stream(
    imgs: Any,
    boxes: Any = None,
    landmarks: Any = None,
    *,
    init: Init = "regressor",
    device: str | torch.device = "auto",
    uncertainty: bool = True,
    batch_size: int | None = None,
    keep_crops: int = KEEP_CROPS,
    progress: bool = False,
    models: Models | None = None,
    **search_options: Any,
) -> Iterator[FitResult]:
    """The same, given out batch by batch as soon as it is fitted: memory stays flat however many images come.

    The arguments are those of :func:`fit`, and are checked before the first batch is asked for.

    Yields:
        :class:`FitResult` of about ``batch_size`` faces, in order; the faces of one image stay together.
    """
    if init not in get_args(Init):
        raise ValueError(f"init: expected one of {', '.join(map(repr, get_args(Init)))}; got {init!r}")
    if unknown := sorted(set(search_options) - set(SETTING_NAMES)):
        raise TypeError(f"unknown argument {unknown[0]!r}; search settings are {', '.join(SETTING_NAMES)}")
    if batch_size is not None and (not isinstance(batch_size, int) or batch_size < 1):
        raise ValueError(f"batch_size: expected an integer of at least 1, or None; got {batch_size!r}")
    if not isinstance(keep_crops, int) or keep_crops < 0:
        raise ValueError(f"keep_crops: expected an integer of at least 0, got {keep_crops!r}")
    settings = SearchSettings(**search_options)
    sources, count = iter_sources(imgs)
    given_boxes = iter_given(boxes, (4,), count, "boxes")
    given_landmarks = iter_given(landmarks, (68, 2), count, "landmarks")
    models = models or shipped_models(resolve_device(device))
    size = batch_size or BATCH_SIZE[models.device.type]

    def stream() -> Iterator[FitResult]:
        kept = 0
        with tqdm(total=count, unit="image", desc="fit", disable=None if progress else True) as bar:
            for faces in _batches(_faces_ahead(sources, given_boxes, given_landmarks), size):
                result = fit_faces(faces, models, settings, init, uncertainty, max(0, keep_crops - kept))
                kept += len(result)
                bar.update(len(set(result.image)))
                yield result

    return stream()


@torch.inference_mode(False)  # the caller's would forbid the gradients that the image objective takes
def fit_faces(
    faces: list[Face],
    models: Models,
    settings: SearchSettings,
    init: Init = "regressor",
    uncertainty: bool = True,
    keep_crops: int = KEEP_CROPS,
) -> FitResult:
    """The stages for one batch of faces that were already cut out of their photographs."""
    batch = align_faces(faces, models.extractor, models.device)
    target = target_of(models, batch.seen, torch.from_numpy(batch.valid).to(models.device))
    start = target.regressed if init == "regressor" else torch.zeros_like(target.regressed)
    outcome = search(models, target, start, settings)
    crops = _kept_crops(batch, keep_crops)
    return _assemble(batch, target, outcome, crops, models, settings, uncertainty)


@cache
def shipped_models(device: torch.device) -> Models:
    """The shipped models on a device, loaded once per process."""
    return load_models(device)


def resolve_device(device: str | torch.device) -> torch.device:
    """``"auto"``, or a device that torch knows and has."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        resolved = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"device: expected 'auto', 'cpu' or 'cuda', got {device!r}") from error
    if resolved.type not in BATCH_SIZE:
        raise ValueError(f"device: expected 'auto', 'cpu' or 'cuda', got {device!r}")
    if resolved.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            f"device: {device!r} was asked for, but torch {torch.__version__} sees no CUDA device"
        )
    return resolved


# --- images to batches of faces -------------------------------------------------------------------


def _faces_ahead(
    sources: Iterator[Source], boxes: Iterator[FloatArray | None], landmarks: Iterator[FloatArray | None]
) -> Iterator[list[Face]]:
    """The faces of each image, in order, decoded and found in threads a few images ahead of their use."""
    waiting: deque[Future[list[Face]]] = deque()
    with ThreadPoolExecutor(DECODERS, thread_name_prefix="genet-decode") as pool:
        try:
            for source in sources:
                given = (_next_given(boxes, source, "boxes"), _next_given(landmarks, source, "landmarks"))
                _check_counts(*given, source)
                waiting.append(pool.submit(faces_of, source, *given))
                if len(waiting) > 2 * DECODERS:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def _next_given(values: Iterator[FloatArray | None], source: Source, argument: str) -> FloatArray | None:
    try:
        return next(values)
    except StopIteration:
        raise ValueError(f"{argument}: expected one entry per image, got only {source.index}") from None


def _check_counts(boxes: FloatArray | None, landmarks: FloatArray | None, source: Source) -> None:
    if boxes is not None and landmarks is not None and len(boxes) != len(landmarks):
        raise ValueError(
            f"landmarks: expected as many faces as boxes for {source.name} ({len(boxes)}), "
            f"got {len(landmarks)}"
        )


def _batches(images: Iterator[list[Face]], size: int) -> Iterator[list[Face]]:
    batch: list[Face] = []
    for faces in images:
        batch += faces
        if len(batch) >= size:
            yield batch
            batch = []
    if batch:
        yield batch


# --- from the search to a result ------------------------------------------------------------------


def _kept_crops(batch: FaceBatch, keep: int) -> list[UInt8Array | None]:
    """The aligned photographs of the first ``keep`` faces, for plots; None for the others."""
    return [
        face.patch.crop(batch.similarity[row], DISPLAY_SIZE) if face.patch and row < keep else None
        for row, face in enumerate(batch.faces)
    ]


def _assemble(
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


def _warn_of_failures(result: FitResult) -> None:
    failed = np.flatnonzero(~result.fitted)
    if not len(failed):
        return
    shown = [f"{result.source[row]}: {result.message[row]}" for row in failed[:MESSAGES_SHOWN]]
    if len(failed) > MESSAGES_SHOWN:
        shown.append(f"... {len(failed) - MESSAGES_SHOWN} more in .status and .message")
    lines = "\n  ".join(shown)
    warnings.warn(f"{len(failed)} of {len(result)} faces were not fitted:\n  {lines}", stacklevel=3)


# --- several photographs of one person ------------------------------------------------------------


def _labels(result: FitResult, subject: Sequence[Any] | None) -> list[Any]:
    """The subject of each face; None for all of them if none were given."""
    images = int(result.image.max()) + 1
    if subject is None:
        return [None] * len(result)
    if isinstance(subject, str) or len(subject) != images:
        got = repr(subject) if isinstance(subject, str) else str(len(subject))
        raise ValueError(f"subject: expected one label per image ({images}), got {got}")
    return [subject[i] for i in result.image]


def share_identity(result: FitResult, labels: Sequence[Any], uncertainty: bool = True) -> FitResult:
    """Take what each subject's faces share for who it is.

    They are fitted again with the identity held at what they together say of it; then the AUs of the face at
    rest, as all of them show it, become their ``baseline``.

    Args:
        result: faces fitted with a free identity.
        labels: the subject of each face.
        uncertainty: whether to compute the standard deviation of each AU.
    """
    of_each = groups(labels)
    parts = []
    for rows in of_each:
        faces = result[rows]
        if faces.fitted.any():
            identity = common_identity(spread_evenly(faces[faces.fitted]))
            faces = _with_identity(faces, identity, uncertainty)
            faces = replace(faces, baseline=np.tile(_resting_face(faces), (len(faces), 1)))
        parts.append(faces)
    order = np.argsort(np.concatenate(of_each), kind="stable")
    return concatenate(parts)[order]


def _resting_face(result: FitResult) -> npt.NDArray[np.float64]:
    """AUs [A] that are read on the resting face of the one person that all faces are of."""
    some = spread_evenly(result[result.fitted])
    spread = result.models.prior.rest_spread.double().cpu().numpy()
    return resting_aus(load_action_units().values(some.theta), doubt(some.misfit), spread)


def _with_identity(result: FitResult, identity: Tensor, uncertainty: bool) -> FitResult:
    """The same faces searched again with the identity [K] held."""
    space = result.models.space
    at, lower, upper = space.indices(IDENTITY), space.lower.clone(), space.upper.clone()
    lower[at] = upper[at] = identity.to(lower).clamp(lower[at], upper[at])
    return _search_again(result, lower, upper, uncertainty)


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
    space, settings = result.models.space, replace(result.settings, iterations=0)
    moved = replace(result, theta=smooth_parameters(result, labels, frames, smoothing), settings=settings)
    there = _search_again(moved, space.lower, space.upper, uncertainty=False)
    posterior = result.posterior.copy()
    posterior[..., 0] += (there.theta - result.theta).astype(np.float64) @ load_action_units().weights.T
    costs = {name: getattr(there, name) for name in ("loss", "distance", "misfit")}
    return replace(result, theta=there.theta, posterior=posterior, **costs)


def _search_again(result: FitResult, lower: Tensor, upper: Tensor, uncertainty: bool) -> FitResult:
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


def subtract_neutral(
    result: FitResult, labels: Sequence[Any], neutral: Any, shared: bool = False, **options: Any
) -> FitResult:
    """Take the AUs of a subject's neutral photograph off those of its other photographs.

    Args:
        result: the fitted faces.
        labels: the subject of each face.
        neutral: one photograph for all, or a dictionary from subject to photograph.
        shared: whether each subject's faces have one identity, which the neutral face is then fitted with.
        **options: how to fit it, see :func:`fit_stream`.
    """
    photos = neutral if isinstance(neutral, dict) else dict.fromkeys(labels, neutral)
    if missing := [label for label in dict.fromkeys(labels) if label not in photos]:
        raise ValueError(f"neutral: expected a photograph for every subject, got none for {missing[0]!r}")
    baseline = np.zeros_like(result.baseline)
    fits: dict[int, FitResult] = {}
    for label in dict.fromkeys(labels):
        photo = photos[label]
        if id(photo) not in fits:
            fits[id(photo)] = next(fit_stream(photo, **options))[:1]
        resting = fits[id(photo)]
        if not resting.fitted[0]:
            raise ValueError(f"neutral: expected a photograph with a face; {resting.message[0]}")
        rows = [row for row, other in enumerate(labels) if other == label]
        fitted = [row for row in rows if result.status[row].fitted]
        if shared and fitted:
            identity = result.theta[fitted[0], result.models.space.indices(IDENTITY)]
            resting = _with_identity(resting, torch.from_numpy(identity), uncertainty=False)
        baseline[rows] = np.nan_to_num(resting.aus.to_numpy())
    return replace(result, baseline=baseline)
