"""Finding faces: scikit-image's frontal-face cascade (local binary patterns), its hits grouped and scored."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from genet_ext.images import UInt8Array

SEARCH_SIDES = (
    384,
    768,
)  # px, long side of the searched copy; the larger one only where the first finds nothing
MIN_WINDOW = 24  # px, the cascade's own window: the smallest face in the searched copy
SCALE_STEP = 1.1
SAME_FACE_IOU = 0.4  # hits that overlap more are one face
# A face in a photograph is hit 11 to 70 times by shifted and scaled windows, everything else 7 times at most
# (16 pictures with and without faces); the score is 0.5 at this number of hits.
HITS_AT_HALF = 8

_cascades = threading.local()


def find_faces(pixels: UInt8Array) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """All frontal faces of a photograph, best first.

    Args:
        pixels: uint8 [H, W, 3].

    Returns:
        boxes float64 [n, 4] (x1, y1, x2, y2 in px) and scores [n] in [0.5, 1). n may be 0.
    """
    for side in SEARCH_SIDES:
        boxes, scores = _find_at(pixels, side)
        if len(boxes) or max(pixels.shape[:2]) <= side:
            break
    return boxes, scores


def _find_at(pixels: UInt8Array, side: int) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    height, width = pixels.shape[:2]
    scale = min(1.0, side / max(height, width))
    small_size = (round(width * scale), round(height * scale))
    if min(small_size) <= MIN_WINDOW:
        return np.empty((0, 4)), np.empty(0)
    small = np.asarray(Image.fromarray(pixels).resize(small_size, Image.Resampling.BOX))
    hits = _cascade().detect_multi_scale(
        img=small,
        scale_factor=SCALE_STEP,
        step_ratio=1,
        min_size=(MIN_WINDOW, MIN_WINDOW),
        max_size=small.shape[:2],
        min_neighbor_number=1,
        intersection_score_threshold=1.1,  # above 1: the cascade itself groups nothing
    )
    windows = np.array(
        [(h["c"], h["r"], h["c"] + h["width"], h["r"] + h["height"]) for h in hits], np.float64
    )
    boxes, counts = _group(windows.reshape(-1, 4))
    scores = counts / (counts + HITS_AT_HALF)
    kept = scores >= 0.5
    return boxes[kept] / scale, scores[kept]


def _cascade() -> Any:
    """One cascade per thread: its scratch memory is not shared."""
    if not hasattr(_cascades, "cascade"):
        from skimage import data
        from skimage.feature import Cascade

        trained = data.lbp_frontal_face_cascade_filename()  # type: ignore[no-untyped-call]
        _cascades.cascade = Cascade(trained)
    return _cascades.cascade


def _group(windows: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Windows [n, 4] -> mean box and number of hits of each group, most hits first.

    A group whose centre lies in a box with more hits is a part of that face (a nose, a mouth) and is dropped.
    """
    overlap = _iou(windows) > SAME_FACE_IOU
    left = np.ones(len(windows), bool)
    boxes: list[npt.NDArray[np.float64]] = []
    counts: list[int] = []
    while left.any():
        neighbours = (overlap & left).sum(1) * left
        seed = int(neighbours.argmax())
        members = overlap[seed] & left
        left &= ~members
        box = windows[members].mean(0)
        x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
        if not any(b[0] <= x <= b[2] and b[1] <= y <= b[3] for b in boxes):
            boxes.append(box)
            counts.append(int(members.sum()))
    order = np.argsort(-np.array(counts), kind="stable")
    return np.array(boxes).reshape(-1, 4)[order], np.array(counts, np.float64)[order]


def _iou(boxes: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Intersection over union of every pair of boxes, [n, n]."""
    low = np.maximum(boxes[:, None, :2], boxes[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], boxes[None, :, 2:])
    shared = np.clip(high - low, 0, None).prod(2)
    area = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    iou: npt.NDArray[np.float64] = shared / (area[:, None] + area[None, :] - shared)
    return iou
