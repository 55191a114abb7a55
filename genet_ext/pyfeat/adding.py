"""`add_aus`: AU columns for a Fex that another detector made."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from genet_ext.pyfeat.model import AU_COLUMNS, EXTRA_COLUMNS, NAME, GenetAUModel

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
    among the 20 (`Detectorv2` has more); everything else stays.

    Args:
        fex: rows with `FaceRectX`, `FaceRectY`, `FaceRectWidth`, `FaceRectHeight`, `input` and `frame`.
        inputs: what was passed to `detect`. None reads the files that `fex["input"]` names.
        data_type: "image", "tensor" or "video", as for `detect`.
        device: where the fit runs: "cpu", "cuda" or "auto".
        batch_size: frames per call of `genet_ext.fit`; it does not change the numbers.
        progress_bar: show one.
        au_kwargs: as in `Detectorv1(au_model="genet", au_kwargs=...)`.

    Raises:
        ValueError: `fex` lacks a column, `data_type` is none of the three, or `inputs` lacks a frame.
    """
    missing = [column for column in (*BOX_COLUMNS, "input", "frame") if column not in fex.columns]
    if missing:
        raise ValueError(f"fex: expected the columns {missing}; it has {len(fex.columns)} others")
    au_model = GenetAUModel(device, **au_kwargs)
    read_frame = _frame_reader(fex, inputs, data_type)
    left, top, width, height = (fex[column].to_numpy(np.float32) for column in BOX_COLUMNS)
    boxes = np.stack([left, top, left + width, top + height], axis=1)
    # Every frame is read once, whatever the number of its faces.
    positions = pd.DataFrame(fex[["input", "frame"]]).reset_index(drop=True)
    frames = list(positions.groupby(["input", "frame"], sort=False, dropna=False).indices.items())
    tables = []
    for start in tqdm(range(0, len(frames), batch_size), disable=not progress_bar):
        batch = frames[start : start + batch_size]
        pixels = [read_frame(str(name), int(frame)) for (name, frame), _ in batch]
        table = au_model.rows(pixels, [boxes[rows] for _, rows in batch])
        tables.append(table.set_index(np.concatenate([rows for _, rows in batch])))
    table = pd.concat(tables).sort_index() if tables else au_model.rows([], [])
    return _with_rows(fex, table.set_index(fex.index))


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
    replaced = {*(fex.au_columns or []), *AU_COLUMNS, *EXTRA_COLUMNS}
    kept = pd.DataFrame(fex.drop(columns=[column for column in fex.columns if column in replaced]))
    at = next((i for i, column in enumerate(fex.columns) if column in replaced), len(kept.columns))
    parts = [kept.iloc[:, :at], rows[AU_COLUMNS], kept.iloc[:, at:], rows.drop(columns=AU_COLUMNS)]
    out = type(fex)(pd.concat(parts, axis=1)).__finalize__(fex)
    out.au_columns, out.au_model = list(AU_COLUMNS), NAME
    return out
