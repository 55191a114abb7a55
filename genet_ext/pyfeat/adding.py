"""`add_aus`: AU columns for a Fex that another detector made."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from tqdm import tqdm

from genet_ext.pyfeat.model import AU_COLUMNS, EXTRA_COLUMNS, NAME, GenetAUModel
from genet_ext.pyfeat.tying import PERSON_COLUMN, raise_if_nobody_can_tell, tied_rows

if TYPE_CHECKING:
    from feat.data import Fex

FrameReader: TypeAlias = Callable[[str, int], torch.Tensor]

BOX_COLUMNS = ["FaceRectX", "FaceRectY", "FaceRectWidth", "FaceRectHeight"]


def add_aus(
    fex: Fex,
    inputs: str | Sequence[str] | torch.Tensor | None = None,
    *,
    data_type: str = "image",
    device: torch.device | str = "auto",
    batch_size: int = 16,
    progress_bar: bool = False,
    **au_kwargs: Any,
) -> Fex:
    """A copy of `fex` with this package's AUs: for `Detectorv2`, `MPDetector` and files with face boxes.

    `fex.aus` of the copy gives the 20 AUs. AU columns that `fex` had are replaced, also those that are not
    among the 20 (`Detectorv2` can have more); everything else stays. With `identity="shared"` or `smoothing`
    the people are those of `fex["Identity"]`, or in a film faces that are followed by their boxes.

    Args:
        fex: rows with `FaceRectX`, `FaceRectY`, `FaceRectWidth`, `FaceRectHeight`, `input` and `frame`.
        inputs: what was passed to `detect`. None reads the files that `fex["input"]` names.
        data_type: "image", "tensor" or "video", as for `detect`.
        device: where the fit runs: "cpu", "cuda" or "auto".
        batch_size: frames per call of `genet_ext.fit`; it does not change the numbers.
        progress_bar: show one.
        au_kwargs: as in `Detectorv1(au_model="genet", au_kwargs=...)`.

    Raises:
        ValueError: `fex` lacks a column, `data_type` is none of the three, `inputs` lacks a frame, or people
            are to be told apart and nothing tells who is who.
    """
    missing = [column for column in (*BOX_COLUMNS, "input", "frame") if column not in fex.columns]
    if missing:
        raise ValueError(f"fex: expected the columns {missing}; it has {len(fex.columns)} others")
    au_model = GenetAUModel(device, **au_kwargs)
    read_frame = _frame_reader(fex, inputs, data_type)
    if au_model.ties_frames:
        raise_if_nobody_can_tell("Identity" in fex and bool(fex["Identity"].notna().any()), data_type)
    boxes = _boxes(fex)
    # Every frame is read once, whatever the number of its faces.
    positions = pd.DataFrame(fex[["input", "frame"]]).reset_index(drop=True)
    frames = list(positions.groupby(["input", "frame"], sort=False, dropna=False).indices.items())
    order = np.concatenate([np.empty(0, np.int64), *(rows for _, rows in frames)])
    fits = []
    for start in tqdm(range(0, len(frames), batch_size), disable=not progress_bar):
        batch = frames[start : start + batch_size]
        pixels = [read_frame(str(name), int(frame)) for (name, frame), _ in batch]
        fits.append(au_model.fit(pixels, [boxes[rows] for _, rows in batch]))
    if au_model.ties_frames:
        table = tied_rows(au_model, fits, fex.iloc[order], data_type)
    else:
        table = pd.concat([au_model.rows([], []), *map(au_model.table, fits)])
    table = table.set_index(order).sort_index()
    return _with_rows(fex, table.set_index(fex.index))


def _boxes(fex: Fex) -> npt.NDArray[np.float32]:
    """[N, 4]: left, top, right, bottom; NaN where there is no face."""
    left, top, width, height = (fex[column].to_numpy(np.float32) for column in BOX_COLUMNS)
    boxes = np.stack([left, top, left + width, top + height], axis=1)
    boxes[~((width > 0) & (height > 0))] = np.nan  # MPDetector's box of no face has no size
    return boxes


def _frame_reader(fex: Fex, inputs: Any, data_type: str) -> FrameReader:
    """A function of a row's `input` and `frame`: the frame's pixels, read as `detect` reads them."""
    from feat.data import ImageDataset, TensorDataset, VideoDataset

    dataset: Any
    if data_type == "image" and inputs is None:
        return lambda name, _: ImageDataset(name)[0]["Image"]
    if data_type == "image":
        dataset = ImageDataset(inputs)
    elif data_type == "tensor" and inputs is not None:
        dataset = TensorDataset(inputs)
    elif data_type == "tensor":
        raise ValueError("inputs: expected the tensor passed to detect, as data_type is 'tensor'; got None")
    elif data_type == "video":
        dataset = VideoDataset(str(fex["input"].iloc[0]) if inputs is None else inputs)
    else:
        raise ValueError(f"data_type: expected 'image', 'tensor' or 'video', not {data_type!r}")

    def read_frame(_: str, frame: int) -> torch.Tensor:
        if not 0 <= frame < len(dataset):
            raise ValueError(
                f"inputs: expected more than {frame} frames, because fex has that frame; "
                f"there are {len(dataset)}"
            )
        pixels: torch.Tensor = dataset[frame]["Image"]
        return pixels

    return read_frame


def _with_rows(fex: Fex, rows: pd.DataFrame) -> Fex:
    """`fex` with the AU columns of `rows` where its own were, and the extra columns at the end."""
    replaced = {*(fex.au_columns or []), *AU_COLUMNS, *EXTRA_COLUMNS, PERSON_COLUMN}
    kept = pd.DataFrame(fex.drop(columns=[column for column in fex.columns if column in replaced]))
    at = next((i for i, column in enumerate(fex.columns) if column in replaced), len(kept.columns))
    parts = [kept.iloc[:, :at], rows[AU_COLUMNS], kept.iloc[:, at:], rows.drop(columns=AU_COLUMNS)]
    out = type(fex)(pd.concat(parts, axis=1)).__finalize__(fex)
    out.au_columns, out.au_model = list(AU_COLUMNS), NAME
    return out
