"""``fit``: from photographs to AU intensities.

    images -> faces -> aligned crops -> target features -> search -> FitResult

one call per stage, in this order; no stage reaches back.
"""

from __future__ import annotations

import os
import warnings
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from typing import Any, Literal, get_args

import numpy as np
import torch
from tqdm import tqdm

from genet_ext.assembly import assemble, kept_crops_of
from genet_ext.faces import Face, align_faces, faces_of, iter_given
from genet_ext.images import Source, iter_sources
from genet_ext.models import Models, load_models
from genet_ext.objective import target_of
from genet_ext.persons import share_identity, smooth, subtract_neutral
from genet_ext.result import FitResult, concatenate
from genet_ext.sequences import check_smoothing, tell_apart
from genet_ext.similarity import FloatArray
from genet_ext.solver import SETTING_NAMES, Objective, SearchSettings, search

Init = Literal["regressor", "mean"]
Identity = Literal["free", "shared"]

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
    identity: Identity = "free",
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
            head is held fixed, landmarks count as movement that are not where they mostly are (see
            :mod:`genet_ext.known_face`), and what is read as an AU on the face at rest is subtracted, as the
            photographs themselves tell it (see :mod:`genet_ext.resting`), or ``neutral``.
        subject: who is in each image, one label per image; for ``identity="shared"``, ``smoothing`` and
            ``neutral``. Without it all are of one person; where an image has several faces, the first two
            follow each of them by its box.
        smoothing: for the frames of a film, one after the other: over how many frames to both sides a
            subject's neighbouring frames count (0: not at all; see :mod:`genet_ext.sequences`). 0.5 takes
            jitter away and leaves blinks; the AUs' uncertainty stays that of single frames.
        neutral: a photograph of the subject at rest (anything ``imgs`` can be), or a dictionary from subject
            to such a photograph: how far landmarks are from its own is movement, and its AUs are subtracted.
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
    if identity not in get_args(Identity):
        raise ValueError(f"identity: expected 'free' or 'shared', got {identity!r}")
    check_smoothing(smoothing)
    if subject is not None:
        _check_subject(subject, iter_sources(imgs)[1])
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
    resting = (
        None if neutral is None else fit_neutral(neutral, [None] if subject is None else subject, **options)
    )
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
    people = tell_apart(labels, result.image, result.box) if identity == "shared" or smoothing else labels
    if resting is not None:
        resting = {who: resting[label] for who, label in zip(people, labels, strict=True)}
    if identity == "shared":
        result = share_identity(result, people, uncertainty, resting)
    elif resting is not None:
        result = subtract_neutral(result, people, resting, uncertainty)
    if smoothing:
        result = smooth(result, people, result.image, smoothing)
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
    crops = kept_crops_of(batch, keep_crops)
    return assemble(batch, target, outcome, crops, models, settings, uncertainty)


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


# --- around the fit -------------------------------------------------------------------------------


def fit_neutral(neutral: Any, subjects: Iterable[Any], **options: Any) -> dict[Any, FitResult]:
    """Every subject's neutral photograph, fitted.

    Args:
        neutral: one photograph for all, or a dictionary from subject to photograph.
        subjects: who there is.
        **options: how to fit, see :func:`fit_stream`.

    Raises ValueError where a subject has no photograph, or the photograph no face.
    """
    subjects = list(dict.fromkeys(subjects))
    photos = neutral if isinstance(neutral, dict) else dict.fromkeys(subjects, neutral)
    if missing := [subject for subject in subjects if subject not in photos]:
        raise ValueError(f"neutral: expected a photograph for every subject, got none for {missing[0]!r}")
    fits: dict[int, FitResult] = {}
    for photo in (photos[subject] for subject in subjects):
        if id(photo) not in fits:
            fits[id(photo)] = next(fit_stream(photo, **options))[:1]
            if not fits[id(photo)].fitted[0]:
                raise ValueError(f"neutral: expected a photograph with a face; {fits[id(photo)].message[0]}")
    return {subject: fits[id(photos[subject])] for subject in subjects}


def _labels(result: FitResult, subject: Sequence[Any] | None) -> list[Any]:
    """The subject of each face; None for all of them if none were given."""
    if subject is None:
        return [None] * len(result)
    _check_subject(subject, int(result.image.max()) + 1)
    return [subject[i] for i in result.image]


def _check_subject(subject: Sequence[Any], images: int | None) -> None:
    """ValueError unless there is a label for each image, as far as their number is known."""
    if isinstance(subject, str) or (images is not None and len(subject) != images):
        got = repr(subject) if isinstance(subject, str) else str(len(subject))
        of_how_many = "" if images is None else f" ({images})"
        raise ValueError(f"subject: expected one label per image{of_how_many}, got {got}")


def _warn_of_failures(result: FitResult) -> None:
    failed = np.flatnonzero(~result.fitted)
    if not len(failed):
        return
    shown = [f"{result.source[row]}: {result.message[row]}" for row in failed[:MESSAGES_SHOWN]]
    if len(failed) > MESSAGES_SHOWN:
        shown.append(f"... {len(failed) - MESSAGES_SHOWN} more in .status and .message")
    lines = "\n  ".join(shown)
    warnings.warn(f"{len(failed)} of {len(result)} faces were not fitted:\n  {lines}", stacklevel=3)
