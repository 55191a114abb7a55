"""Frames and face boxes -> rows of AU columns: what py-feat calls an AU detector."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch

if TYPE_CHECKING:
    from genet_ext.result import FitResult

NAME = "genet"
AU_NUMBERS = (1, 2, 4, 5, 6, 7, 9, 10, 11, 12, 14, 15, 17, 20, 23, 24, 25, 26, 28, 43)
AU_COLUMNS = [f"AU{number:02d}" for number in AU_NUMBERS]  # py-feat's AU_LANDMARK_MAP["Feat"]
LOSS_COLUMN, STATUS_COLUMN = f"{NAME}_loss", f"{NAME}_status"
MISFIT_COLUMN, QUALITY_COLUMN = f"{NAME}_misfit", f"{NAME}_quality"
DEVIATION_COLUMNS = [f"{NAME}_sd_{number:02d}" for number in AU_NUMBERS]
EXTRA_COLUMNS = [LOSS_COLUMN, STATUS_COLUMN, MISFIT_COLUMN, QUALITY_COLUMN, *DEVIATION_COLUMNS]
NO_FACE = "no_face"


@dataclass(frozen=True)
class FrameFits:
    """The fitted faces of some frames.

    Attributes:
        is_face: bool [N], whether each of the boxes was one.
        result: a row per face, in the order of the boxes; None where there is no face at all.
    """

    is_face: npt.NDArray[np.bool_]
    result: FitResult | None


# The fits of the `detect` that is running in this thread, where they are to be tied together at its end.
_collected: ContextVar[list[FrameFits] | None] = ContextVar("_collected", default=None)


@contextmanager
def collecting() -> Iterator[list[FrameFits]]:
    """Keep what `detect_au_from_frames` fits within the context."""
    fits: list[FrameFits] = []
    token = _collected.set(fits)
    try:
        yield fits
    finally:
        _collected.reset(token)


class GenetAUModel:
    """The AU model of a detector made with `au_model="genet"` (its `au_detector`).

    It holds options only, the networks being loaded once per process and device: so it is cheap to pickle.

    Args:
        device: where the fit runs: "cpu", "cuda", "cuda:1", ... or "auto". Apple's "mps" means the CPU.
        extra_columns: whether rows also have `genet_loss`, `genet_status`, `genet_misfit`, `genet_quality`,
            `genet_sd_01` ... `genet_sd_43`.
        identity: "shared" takes what all frames of a person share for who it is: the shape of the head, and
            what is read as an AU on the face at rest.
        smoothing: over how many frames to both sides a person's neighbouring frames count; 0 for none. For
            both see `tying.py`, and `genet_ext.fit`, which has them too.
        fit_options: passed to `genet_ext.fit`, e.g. `iterations=100` or `objective="image"`.

    Raises:
        TypeError: an option that `genet_ext.fit` does not have, or that is not for a user of py-feat to set.
        ValueError: an option out of its range.
    """

    def __init__(
        self,
        device: torch.device | str = "auto",
        *,
        extra_columns: bool = True,
        identity: str = "free",
        smoothing: float = 0.0,
        **fit_options: Any,
    ) -> None:
        from genet_ext.sequences import check_smoothing
        from genet_ext.solver import SETTING_NAMES, SearchSettings

        allowed = {*SETTING_NAMES, "init", "uncertainty", "batch_size"}
        if unknown := sorted(set(fit_options) - allowed):
            expected = ", ".join(sorted([*allowed, "device", "extra_columns", "identity", "smoothing"]))
            raise TypeError(f"au_kwargs: expected some of {expected}; got {', '.join(unknown)}")
        SearchSettings(**{name: value for name, value in fit_options.items() if name in SETTING_NAMES})
        if identity not in ("free", "shared"):
            raise ValueError(f"identity: expected 'free' or 'shared', got {identity!r}")
        check_smoothing(smoothing)
        self.device = _fit_device(str(device))
        self.extra_columns = extra_columns
        self.identity, self.smoothing = identity, smoothing
        self.fit_options = fit_options

    def __repr__(self) -> str:
        tied = {"identity": self.identity, "smoothing": self.smoothing} if self.ties_frames else {}
        options = "".join(f", {name}={value!r}" for name, value in {**tied, **self.fit_options}.items())
        return f"GenetAUModel(device={self.device!r}, extra_columns={self.extra_columns}{options})"

    @property
    def ties_frames(self) -> bool:
        """Whether a face's numbers are to depend on the other frames of the same person."""
        return self.identity == "shared" or self.smoothing > 0

    @property
    def columns(self) -> list[str]:
        """The columns of :meth:`table`, AUs first."""
        return AU_COLUMNS + (EXTRA_COLUMNS if self.extra_columns else [])

    def detect_au_from_frames(
        self, frames: Sequence[torch.Tensor] | torch.Tensor, boxes: Sequence[torch.Tensor]
    ) -> pd.DataFrame:
        """:meth:`rows` with the boxes as py-feat has them, integer tensors on its device.

        Raises:
            RuntimeError: frames are to be tied together, but nobody will do it.
        """
        collected = _collected.get()
        if self.ties_frames and collected is None:
            raise RuntimeError(
                "au_kwargs: identity='shared' and smoothing need all frames at once, and are applied at the "
                "end of detect() where genet-ext wraps it; call that, or genet_ext.pyfeat.add_aus"
            )
        fits = self.fit(frames, [box.detach().cpu().numpy().astype(np.float32) for box in boxes])
        if collected is not None:
            collected.append(fits)
        return self.table(fits)

    def rows(
        self, frames: Sequence[torch.Tensor] | torch.Tensor, boxes: Sequence[npt.NDArray[np.float32]]
    ) -> pd.DataFrame:
        """Fit every face of every frame for itself: :meth:`table` of :meth:`fit`."""
        return self.table(self.fit(frames, boxes))

    def fit(
        self, frames: Sequence[torch.Tensor] | torch.Tensor, boxes: Sequence[npt.NDArray[np.float32]]
    ) -> FrameFits:
        """Fit every face of every frame for itself, in one call of `genet_ext.fit`.

        Args:
            frames: per frame [3, H, W] in [0, 255] (uint8, or float as py-feat takes it), of any size.
            boxes: per frame [n, 4], left, top, right, bottom in pixels; NaN where py-feat found no face.
        """
        import genet_ext

        present = [~np.isnan(frame_boxes).any(axis=1) for frame_boxes in boxes]
        is_face = np.concatenate([np.empty(0, dtype=bool), *present])
        some = [index for index, faces in enumerate(present) if faces.any()]
        if not some:
            return FrameFits(is_face, None)
        with _autograd():
            result = genet_ext.fit(
                [_pixels(frames[i]) for i in some],
                boxes=[boxes[i][present[i]] for i in some],
                device=self.device,
                keep_crops=0,
                progress=False,
                **self.fit_options,
            )
        if len(result) != is_face.sum():
            raise RuntimeError(f"genet_ext.fit returned {len(result)} rows for {is_face.sum()} boxes")
        return FrameFits(is_face, result)

    def tie(
        self, result: FitResult, labels: Sequence[Any], frames: npt.NDArray[np.integer[Any]]
    ) -> FitResult:
        """The same faces with the identity shared and the movement smoothed, as this model's options say.

        Args:
            result: faces fitted for themselves.
            labels: who each of them is.
            frames: [N], the frame of each.
        """
        from genet_ext.persons import share_identity, smooth

        with _autograd():
            if self.identity == "shared":
                result = share_identity(result, labels, self.fit_options.get("uncertainty", True))
            if self.smoothing > 0:
                result = smooth(result, labels, frames, self.smoothing)
        return result

    def table(self, fits: FrameFits) -> pd.DataFrame:
        """One row per box, in the order of the boxes: the only reader of a FitResult.

        AUs in [0, 1] and, with `extra_columns`, the distance left at the optimum, how the fit ended, how well
        it explains the picture and the AUs' standard deviations. The row of a box that is no face is NaN and
        its status is "no_face".
        """
        is_face, result = fits.is_face, fits.result
        if result is None:
            found = pd.DataFrame(columns=AU_COLUMNS + EXTRA_COLUMNS, dtype=np.float32)
        else:
            found = result.aus[AU_COLUMNS].astype(np.float32)
            found[LOSS_COLUMN] = np.asarray(result.loss, dtype=np.float32)
            found[STATUS_COLUMN] = [str(status) for status in result.status]
            found[MISFIT_COLUMN] = np.asarray(result.misfit, dtype=np.float32)
            # An empty word would come back from a CSV file as NaN.
            found[QUALITY_COLUMN] = np.array([word or np.nan for word in result.quality], dtype=object)
            found[DEVIATION_COLUMNS] = result.aus_sd.to_numpy(np.float32)
        found.index = pd.Index(np.flatnonzero(is_face))
        table = found.reindex(range(is_face.size))
        table[STATUS_COLUMN] = table[STATUS_COLUMN].astype(object).where(is_face, NO_FACE)
        table[QUALITY_COLUMN] = table[QUALITY_COLUMN].astype(object)
        return table[self.columns]

    def detect_au(self, *_: Any, **__: Any) -> None:
        """What py-feat's own `forward` calls: reached only where that function is no longer wrapped."""
        raise RuntimeError(
            'this detector was made with au_model="genet", but genet_ext.unregister() has been called since; '
            "call genet_ext.register()"
        )


@contextmanager
def _autograd() -> Iterator[None]:
    """The caller may be in inference mode, or in a process where RetinaFace has switched autograd off."""
    with torch.inference_mode(False), torch.enable_grad():
        yield


def _fit_device(device: str) -> str:
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device.startswith("mps"):
        warnings.warn("genet-ext has no kernels for Apple's MPS: the AUs are fitted on the CPU", stacklevel=5)
        return "cpu"
    return device


def _pixels(frame: torch.Tensor) -> npt.NDArray[np.uint8]:
    """A frame [3, H, W] in [0, 255] -> uint8 [H, W, 3], without a copy where it is uint8 already."""
    if frame.dtype != torch.uint8:
        frame = frame.float().round().clamp(0, 255).to(torch.uint8)
    return frame.permute(1, 2, 0).cpu().numpy()
