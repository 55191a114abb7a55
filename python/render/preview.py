"""Contact sheet of a data set: ``python -m python.render.preview DATASET sheet.png``."""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np

from .geometry import CANVAS, CROP_SIZE, MARGIN
from .reader import RenderDataset, load_dataset


def contact_sheet(
    data: RenderDataset, rows: int, columns: int, first: int = 0, crop: bool = False, marks: bool = False
) -> np.ndarray:
    """uint8 [rows * side, columns * side, 3] RGB on a plain background; `marks` draws landmarks."""
    side = CROP_SIZE if crop else CANVAS
    sheet = np.full((rows * side, columns * side, 3), 110, np.uint8)
    for i in range(min(rows * columns, len(data) - first)):
        rgba = data.images(first + i)[0].astype(np.float32)
        cover = rgba[..., 3:] / 255
        tile = (rgba[..., :3] * cover + np.array([124, 140, 150]) * (1 - cover)).astype(np.uint8)
        if marks:
            for points, colour in (
                (data.dense[first + i], (0, 200, 255)),
                (data.landmarks[first + i], (0, 255, 0)),
            ):
                for x, y in points:
                    cv2.circle(tile, (round(float(x)), round(float(y))), 0, colour, -1)
        if crop:
            tile = tile[MARGIN : MARGIN + CROP_SIZE, MARGIN : MARGIN + CROP_SIZE]
        r, c = divmod(i, columns)
        sheet[r * side : (r + 1) * side, c * side : (c + 1) * side] = tile
    return sheet


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m python.render.preview", description=__doc__)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("picture", type=Path)
    parser.add_argument("--rows", type=int, default=5)
    parser.add_argument("--columns", type=int, default=8)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--crop", action="store_true", help="the 128-px crop instead of the canvas")
    parser.add_argument("--marks", action="store_true", help="draw landmarks (green) and dense points (blue)")
    args = parser.parse_args()
    sheet = contact_sheet(
        load_dataset(args.dataset), args.rows, args.columns, args.first, args.crop, args.marks
    )
    if not cv2.imwrite(str(args.picture), sheet[..., ::-1]):
        raise OSError(f"picture: cannot write {args.picture}")


if __name__ == "__main__":
    main()
