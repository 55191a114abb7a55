"""The face finder before YuNet, kept to be compared with: scikit-image's cascade of local binary patterns.

It finds frontal faces; its hits are grouped and scored.
Trying every window takes most of the time of a whole fit. So a first look tries every other position or so,
and only around its hits every window is tried; their number is the score.
"""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
from PIL import Image
from skimage.color import rgb2gray

from genet_ext.face_finder import Array, overlaps
from genet_ext.images import UInt8Array

# px, long side of the searched copy; the larger one only where the first finds nothing
SEARCH_SIDES = (384, 768)
MIN_WINDOW = 24  # px, the cascade's own window: the smallest face in the searched copy
SCALE_STEP = 1.1
FIRST_LOOK_STEP = 1.5  # distance of the first look's windows, in px of the cascade's own; 1 is every window
# Around a hit all windows are tried from this many scale steps below its size to as many above, to half its
# side beyond its edges: those that could overlap it as the same face do.
NEAR_SCALES, NEAR_MARGIN = 4, 0.5
SAME_FACE_IOU = 0.4  # hits that overlap more are one face
# A frontal face in a photograph is hit 11 to 70 times by shifted and scaled windows, everything else 8 times
# at most (27 pictures, 25 of them without a face); the score is 0.5 at this number of hits.
HITS_AT_HALF = 9

_cascades = threading.local()


def find_faces(pixels: UInt8Array) -> tuple[Array, Array]:
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


def _find_at(pixels: UInt8Array, side: int) -> tuple[Array, Array]:
    height, width = pixels.shape[:2]
    scale = min(1.0, side / max(height, width))
    small_size = (round(width * scale), round(height * scale))
    if min(small_size) <= MIN_WINDOW:
        return np.empty((0, 4)), np.empty(0)
    small = rgb2gray(np.asarray(Image.fromarray(pixels).resize(small_size, Image.Resampling.BOX)))
    first, _ = _group(_windows(small, FIRST_LOOK_STEP, MIN_WINDOW, min(small.shape)))
    found = [group for box in first if (group := _look_closely(small, box))]
    boxes = np.array([box for box, _ in found]).reshape(-1, 4)
    boxes, counts = _without_parts(boxes, np.array([count for _, count in found], np.float64))
    scores = counts / (counts + HITS_AT_HALF)
    kept = scores >= 0.5
    return boxes[kept] / scale, scores[kept]


def _look_closely(small: Array, box: Array) -> tuple[Array, int] | None:
    """Mean box of all windows that are the same face as ``box``, and their number."""
    side = box[2] - box[0]
    rung = round(np.log(side / MIN_WINDOW) / np.log(SCALE_STEP))
    scales = SCALE_STEP ** np.arange(max(rung - NEAR_SCALES, 0), rung + NEAR_SCALES + 1)
    # The piece starts where it keeps to the sizes and positions that a search of the whole copy would try.
    grid = np.lcm.reduce(np.rint(scales).astype(int))
    corner = np.maximum(np.floor(box[:2] - NEAR_MARGIN * side).astype(int), 0) // grid * grid
    x2, y2 = np.ceil(box[2:] + NEAR_MARGIN * side).astype(int)
    piece = small[corner[1] : y2, corner[0] : x2]
    largest = min(MIN_WINDOW * scales[-1] * SCALE_STEP**0.5, *piece.shape)
    windows = _windows(piece, 1, MIN_WINDOW * scales[0], largest) + np.tile(corner, 2)
    boxes, counts = _group(windows[overlaps(np.vstack([box, windows]))[0, 1:] > SAME_FACE_IOU])
    return (boxes[0], int(counts[0])) if len(boxes) else None


def _windows(grey: Array, step: float, smallest: float, largest: float) -> Array:
    """The windows [n, 4] (x1, y1, x2, y2) that the cascade takes for a face, of sides in a range.

    Args:
        grey: float [H, W] in [0, 1].
        step: distance of the windows tried, in px of the cascade's own; rounded to whole px of ``grey``.
        smallest, largest: sides in px.
    """
    hits = _cascade().detect_multi_scale(
        img=grey,
        scale_factor=SCALE_STEP,
        step_ratio=step,
        min_size=(smallest, smallest),
        max_size=(largest, largest),
        min_neighbor_number=1,
        intersection_score_threshold=1.1,  # above 1: the cascade itself groups nothing
    )
    corners = [(h["c"], h["r"], h["c"] + h["width"], h["r"] + h["height"]) for h in hits]
    return np.array(corners, np.float64).reshape(-1, 4)


def _cascade() -> Any:
    """One cascade per thread: its scratch memory is not shared."""
    if not hasattr(_cascades, "cascade"):
        from skimage import data
        from skimage.feature import Cascade

        trained = data.lbp_frontal_face_cascade_filename()  # type: ignore[no-untyped-call]
        _cascades.cascade = Cascade(trained)
    return _cascades.cascade


def _group(windows: Array) -> tuple[Array, Array]:
    """Windows [n, 4] -> mean box and number of hits of each group, best first, parts of faces dropped."""
    overlap = overlaps(windows) > SAME_FACE_IOU
    left = np.ones(len(windows), bool)
    boxes: list[Array] = []
    counts: list[int] = []
    while left.any():
        neighbours = (overlap & left).sum(1) * left
        seed = int(neighbours.argmax())
        members = overlap[seed] & left
        left &= ~members
        boxes.append(windows[members].mean(0))
        counts.append(int(members.sum()))
    return _without_parts(np.array(boxes).reshape(-1, 4), np.array(counts, np.float64))


def _without_parts(boxes: Array, counts: Array) -> tuple[Array, Array]:
    """Most hits first, without boxes whose centre lies in one with more hits: a nose, a mouth."""
    order = np.argsort(-counts, kind="stable")
    kept: list[int] = []
    for row in order:
        x, y = (boxes[row, :2] + boxes[row, 2:]) / 2
        if not any(b[0] <= x <= b[2] and b[1] <= y <= b[3] for b in boxes[kept]):
            kept.append(int(row))
    return boxes[kept], counts[kept]
