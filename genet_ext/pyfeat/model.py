"""Frames and face boxes -> rows of AU columns: what py-feat calls an AU detector."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch

NAME = "genet"
AU_NUMBERS = (1, 2, 4, 5, 6, 7, 9, 10, 11, 12, 14, 15, 17, 20, 23, 24, 25, 26, 28, 43)
AU_COLUMNS = [f"AU{number:02d}" for number in AU_NUMBERS]  # py-feat's AU_LANDMARK_MAP["Feat"]
LOSS_COLUMN, STATUS_COLUMN = f"{NAME}_loss", f"{NAME}_status"
DEVIATION_COLUMNS = [f"{NAME}_sd_{number:02d}" for number in AU_NUMBERS]
EXTRA_COLUMNS = [LOSS_COLUMN, STATUS_COLUMN, *DEVIATION_COLUMNS]
NO_FACE = "no_face"


class GenetAUModel:
    """The AU model of a detector made with `au_model="genet"` (its `au_detector`).

    It holds options only, the networks being loaded once per process and device: so it is cheap to pickle.

    Args:
        device: where the fit runs: "cpu", "cuda", "cuda:1", ... or "auto". Apple's "mps" means the CPU.
        extra_columns: whether rows also have `genet_loss`, `genet_status`, `genet_sd_01` ... `genet_sd_43`.
        fit_options: passed to `genet_ext.fit`, e.g. `iterations=100` or `objective="image"`.

    Raises:
        TypeError: an option that `genet_ext.fit` does not have, or that is not for a user of py-feat to set.
        ValueError: a search setting out of its range.
    """

    def __init__(
        self, device: torch.device | str = "auto", *, extra_columns: bool = True, **fit_options: Any
    ) -> None:
        from genet_ext.solver import SETTING_NAMES, SearchSettings

        allowed = {*SETTING_NAMES, "init", "uncertainty", "batch_size"}
        if unknown := sorted(set(fit_options) - allowed):
            expected = ", ".join(sorted([*allowed, "device", "extra_columns"]))
            raise TypeError(f"au_kwargs: expected some of {expected}; got {', '.join(unknown)}")
        SearchSettings(**{name: value for name, value in fit_options.items() if name in SETTING_NAMES})
        self.device = _fit_device(str(device))
        self.extra_columns = extra_columns
        self.fit_options = fit_options

    def __repr__(self) -> str:
        options = "".join(f", {name}={value!r}" for name, value in self.fit_options.items())
        return f"GenetAUModel(device={self.device!r}, extra_columns={self.extra_columns}{options})"

    @property
    def columns(self) -> list[str]:
        """The columns of :meth:`rows`, AUs first."""
        return AU_COLUMNS + (EXTRA_COLUMNS if self.extra_columns else [])

    def detect_au_from_frames(
        self, frames: Sequence[torch.Tensor] | torch.Tensor, boxes: Sequence[torch.Tensor]
    ) -> pd.DataFrame:
        """:meth:`rows` with the boxes as py-feat has them, integer tensors on its device."""
        return self.rows(frames, [box.detach().cpu().numpy().astype(np.float32) for box in boxes])

    def rows(
        self, frames: Sequence[torch.Tensor] | torch.Tensor, boxes: Sequence[npt.NDArray[np.float32]]
    ) -> pd.DataFrame:
        """Fit every face of every frame, in one call of `genet_ext.fit`.

        Args:
            frames: per frame [3, H, W] in [0, 255] (uint8, or float as py-feat takes it), of any size.
            boxes: per frame [n, 4], left, top, right, bottom in pixels; NaN where py-feat found no face.

        Returns:
            One row per box, in the order of the boxes: AUs in [0, 1] and, with `extra_columns`, the distance
            left at the optimum, how the fit ended and the AUs' standard deviations. The row of a NaN box is
            NaN and its status is "no_face".
        """
        present = [~np.isnan(frame_boxes).any(axis=1) for frame_boxes in boxes]
        is_face = np.concatenate([np.empty(0, dtype=bool), *present])
        some = [index for index, faces in enumerate(present) if faces.any()]
        if some:
            fitted = self._fit([_pixels(frames[i]) for i in some], [boxes[i][present[i]] for i in some])
        else:
            fitted = pd.DataFrame(columns=AU_COLUMNS + EXTRA_COLUMNS, dtype=np.float32)
        if len(fitted) != is_face.sum():
            raise RuntimeError(f"genet_ext.fit returned {len(fitted)} rows for {is_face.sum()} boxes")
        fitted.index = pd.Index(np.flatnonzero(is_face))
        table = fitted.reindex(range(is_face.size))
        table[STATUS_COLUMN] = table[STATUS_COLUMN].astype(object).where(is_face, NO_FACE)
        return table[self.columns]

    def _fit(self, images: list[npt.NDArray[np.uint8]], boxes: list[npt.NDArray[np.float32]]) -> pd.DataFrame:
        """`genet_ext.fit` on images [H, W, 3] and their boxes, as rows: the only reader of a FitResult."""
        import genet_ext

        # The caller may be in inference mode, or in a process where RetinaFace has switched autograd off.
        with torch.inference_mode(False), torch.enable_grad():
            result = genet_ext.fit(
                images,
                boxes=boxes,
                device=self.device,
                keep_crops=0,
                progress=False,
                **self.fit_options,
            )
        rows = result.aus[AU_COLUMNS].astype(np.float32).reset_index(drop=True)
        rows[LOSS_COLUMN] = np.asarray(result.loss, dtype=np.float32)
        rows[STATUS_COLUMN] = [str(status) for status in result.status]
        rows[DEVIATION_COLUMNS] = result.aus_sd.to_numpy(np.float32)
        return rows

    def detect_au(self, *_: Any, **__: Any) -> None:
        """What py-feat's own `forward` calls: reached only where that function is no longer wrapped."""
        raise RuntimeError(
            'this detector was made with au_model="genet", but genet_ext.unregister() has been called since; '
            "call genet_ext.register()"
        )


def _fit_device(device: str) -> str:
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device.startswith("mps"):
        warnings.warn("genet-ext has no kernels for Apple's MPS: the AUs are fitted on the CPU", stacklevel=4)
        return "cpu"
    return device


def _pixels(frame: torch.Tensor) -> npt.NDArray[np.uint8]:
    """A frame [3, H, W] in [0, 255] -> uint8 [H, W, 3], without a copy where it is uint8 already."""
    if frame.dtype != torch.uint8:
        frame = frame.float().round().clamp(0, 255).to(torch.uint8)
    return frame.permute(1, 2, 0).cpu().numpy()
