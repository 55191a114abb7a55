r"""Do rendered faces at rest have the proportions of photographed ones, seen with somebody else's ruler?

MediaPipe's face mesh finds the landmarks in both, so neither side is measured with its own labels. Everything
is a share of the distance between the outer corners of the eyes; faces turned by more than some 15 degrees
and, of the renders, those with an expression are left out. Photographs of one person, or with raised brows,
tilt the mean: choose them before looking at the figures.

Writes proportions.json and proportions.md into --out. MediaPipe is not a dependency of this project; its
later releases come without the models:

    pip install mediapipe==0.10.14
    python -m python.evaluate.proportions --photos photos/ --renders data/test data/second_model \
        --out runs/proportions
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from tqdm import tqdm

from genet_ext.images import UInt8Array, iter_sources, list_photos
from python.evaluate.common import markdown_table, provenance, write_json
from python.evaluate.metrics import Array
from python.evaluate.pictures import load_test_set, over_grey

Finder = Callable[[UInt8Array], list[Array]]  # a picture -> landmarks [478, 2] px of every face in it

ENLARGED = 3  # renders and small photographs are enlarged: the mesh was made for larger faces
SMALL_PHOTO = 600  # px, the longer side
MOST_TURN = 0.15  # of the nose from the middle between the eyes, about 15 degrees
RENDERS = 100  # of each folder

# Landmarks of the mesh, right and left; a height is that of their mean above the middle of the eyes' corners.
EYE_CORNERS = (33, 133, 362, 263)
HEIGHTS = {
    "brow, inner end": (107, 55, 336, 285),
    "brow, middle of the upper edge": (105, 334),
    "brow, middle of the lower edge": (52, 282),
    "brow, outer end": (70, 46, 300, 276),
    "foot of the nose": (2,),
}
BREADTHS = {"eyes": (33, 133), "nose": (98, 327), "between the eyes": (133, 362)}
PROPORTIONS = (*HEIGHTS, *(f"breadth: {name}" for name in BREADTHS))


def proportions(points: Array) -> Array | None:
    """PROPORTIONS of landmarks [478, 2] in px, y down; None where the face is turned too far."""
    across = points[263] - points[33]
    unit = float(np.hypot(*across))
    right = across / unit
    up = np.array([right[1], -right[0]])
    origin = points[list(EYE_CORNERS)].mean(0)
    if abs((points[1] - origin) @ right) > MOST_TURN * unit:
        return None
    heights = [float(((points[list(at)].mean(0) - origin) @ up) / unit) for at in HEIGHTS.values()]
    breadths = [float(np.hypot(*(points[b] - points[a])) / unit) for a, b in BREADTHS.values()]
    return np.array([*heights, *breadths])


def mediapipe_finder() -> Finder:
    """MediaPipe's face mesh. Raises SystemExit with what to install where it or its models are missing."""
    try:
        import mediapipe

        mesh = mediapipe.solutions.face_mesh.FaceMesh(
            static_image_mode=True, max_num_faces=10, refine_landmarks=True, min_detection_confidence=0.4
        )
    except (ImportError, AttributeError) as error:
        raise SystemExit(f"needs MediaPipe's face mesh: pip install mediapipe==0.10.14 ({error})") from error

    def find(image: UInt8Array) -> list[Array]:
        size = np.array([image.shape[1], image.shape[0]])
        found = mesh.process(image).multi_face_landmarks or []
        return [np.array([[p.x, p.y] for p in face.landmark]) * size for face in found]

    return find


def photographs(places: Iterable[Path]) -> Iterator[UInt8Array]:
    """The photographs of files and folders, RGB.

    Raises FileNotFoundError for a missing one and UnreadableImage for one that cannot be decoded.
    """
    for place in places:
        if not place.exists():
            raise FileNotFoundError(f"photos: expected pictures or folders of them; no such file: {place}")
        sources, _ = iter_sources(list_photos(place))
        for source in sources:
            image = source.read()
            yield _enlarge(image, ENLARGED if max(image.shape) < SMALL_PHOTO else 1)


def resting_renders(folder: Path, count: int) -> Iterator[UInt8Array]:
    """Up to ``count`` renders without any AU, over grey."""
    test = load_test_set(folder)
    for row in test.rows[test.neutral][:count]:
        (rgba,) = test.renders.images([row])
        yield _enlarge(over_grey(rgba), ENLARGED)


def _enlarge(image: UInt8Array, factor: int) -> UInt8Array:
    if factor == 1:
        return image
    return np.asarray(cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC), np.uint8)


def measure(name: str, images: Iterable[UInt8Array], find: Finder) -> dict[str, Any]:
    """Mean and standard deviation of every proportion over the faces of some pictures."""
    rows = [
        row
        for image in tqdm(images, desc=name, unit="picture", disable=None)
        for points in find(image)
        if (row := proportions(points)) is not None
    ]
    table = np.array(rows).reshape(len(rows), len(PROPORTIONS))
    return {"faces": len(rows)} | {
        name: {"mean": float(column.mean()), "sd": float(column.std())} if rows else None
        for name, column in zip(PROPORTIONS, table.T, strict=True)
    }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--photos", type=Path, nargs="+", required=True, help="photographs, or folders of them"
    )
    parser.add_argument("--renders", type=Path, nargs="+", required=True, help="folders of renders")
    parser.add_argument("--count", type=int, default=RENDERS, help=f"renders of each (default {RENDERS})")
    parser.add_argument("--out", type=Path, required=True, help="folder for the figures")
    arguments = parser.parse_args()
    find = mediapipe_finder()
    sources = {"photographs": photographs(arguments.photos)}
    sources |= {folder.name: resting_renders(folder, arguments.count) for folder in arguments.renders}
    report = {name: measure(name, images, find) for name, images in sources.items()}
    rows = [
        [what, *(f"{r[what]['mean']:.3f} ± {r[what]['sd']:.3f}" if r[what] else "-" for r in report.values())]
        for what in PROPORTIONS
    ]
    header = ["share of the eyes' outer distance", *(f"{name} ({r['faces']})" for name, r in report.items())]
    table = markdown_table(header, rows)
    write_json(arguments.out / "proportions.json", {"provenance": provenance("cpu"), **report})
    (arguments.out / "proportions.md").write_text(f"# Proportions of resting faces\n\n{table}\n")
    print(table)


if __name__ == "__main__":
    main()
