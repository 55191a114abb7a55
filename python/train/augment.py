"""From a render with coverage to what a camera, a file and a loose face box make of it.

One image at a time with OpenCV, about 2 ms each, everything drawn from the generator it is given. Strengths
follow photographs: noise that hides the brows teaches nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from genet_ext.extractors.face_cnn import CROP_SIZE

MARGIN = 32  # px of the render around the crop
ROLL = 2  # index of roll in theta

Floats = NDArray[np.floating[Any]]
Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class Jitter:
    """Standard deviations of a crop from the aligned one: shift (px), log scale, rotation (rad)."""

    shift: float
    log_scale: float
    rotation: float


ALIGNED = Jitter(0.0, 0.0, 0.0)
SECOND_PASS = Jitter(1.3, 0.03, 0.03)  # what F's own landmarks leave
LOOSE_BOX = Jitter(8.0, 0.14, 0.16)  # what a face finder's box leaves


@dataclass(frozen=True)
class CropFrame:
    """A similarity from crop pixels to render pixels: render = scale * R(angle) (crop - centre) + origin."""

    matrix: Floats  # [2, 3]
    angle: float  # rad, clockwise on screen

    def cut(self, image: Bytes, size: int = CROP_SIZE) -> Bytes:
        """The crop [size, size, C] of a render."""
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        out = cv2.warpAffine(image, self.matrix, (size, size), flags=flags, borderMode=cv2.BORDER_REPLICATE)
        return np.asarray(out, np.uint8)

    def points(self, points: Floats) -> Floats:
        """Render pixels [..., 2] -> crop pixels."""
        return (points - self.matrix[:, 2]) @ np.linalg.inv(self.matrix[:, :2]).T

    def theta(self, theta: Floats) -> Floats:
        """Parameters [P] of the render -> of the crop: roll is relative to it.

        A crop turned clockwise shows its face turned the other way, and positive roll tilts the crown to the
        image's left, which is counter-clockwise.
        """
        turned = theta.copy()
        turned[ROLL] += self.angle
        return turned


def crop_frame(jitter: Jitter, rng: np.random.Generator) -> CropFrame:
    """A frame as far from the aligned crop as ``jitter`` says (normal, cut off at two deviations)."""
    x, y, size, turn = rng.standard_normal(4).clip(-2, 2)
    shift = jitter.shift * np.array([x, y])
    scale, angle = math.exp(jitter.log_scale * size), jitter.rotation * turn
    cos, sin = scale * math.cos(angle), scale * math.sin(angle)
    linear = np.array([[cos, -sin], [sin, cos]])
    centre = np.full(2, (CROP_SIZE - 1) / 2)
    return CropFrame(np.column_stack([linear, centre + MARGIN + shift - linear @ centre]), float(angle))


def composite(rgba: Bytes, background: Bytes | int) -> Bytes:
    """The render [H, W, 4] over a background [H, W, 3], or over grey of one value."""
    coverage = rgba[..., 3:].astype(np.uint16)
    behind = np.uint16(background) if isinstance(background, int) else background.astype(np.uint16)
    mixed = (rgba[..., :3] * coverage + behind * (255 - coverage) + 127) // 255
    return mixed.astype(np.uint8)


def photograph(rgba: Bytes, other: Bytes, rng: np.random.Generator) -> Bytes:
    """Background, occluders, light, colour, blur, resolution, noise and compression of photographs.

    Args:
        rgba: [H, W, 4] the face.
        other: [>= H, >= W, 3 or 4] another picture, used as background now and then.
        rng: where every choice comes from.

    Returns:
        RGB uint8 [H, W, 3].
    """
    image = composite(rgba, _background(rgba.shape[0], other, rng)).astype(np.float32)
    if rng.random() < 0.12:
        image = _occlude(image, rng)
    if rng.random() < 0.3:
        image = _shade(image, rng)
    image = _colour(image, rng)
    image = _blur(image, rng)
    if rng.random() < 0.6:
        image += rng.standard_normal(image.shape, np.float32) * np.float32(8 * rng.random() ** 2)
    done = image.clip(0, 255).astype(np.uint8)
    if rng.random() < 0.4:
        quality = int(rng.integers(25, 95))
        done = cv2.imdecode(cv2.imencode(".jpg", done, [cv2.IMWRITE_JPEG_QUALITY, quality])[1], 1)
    return np.asarray(done, np.uint8)


def _background(size: int, other: Bytes, rng: np.random.Generator) -> Bytes:
    """A smooth random colour field, or another picture turned round."""
    if rng.random() < 0.33:
        picture = cv2.resize(other[::-1, ::-1, :3], (size, size), interpolation=cv2.INTER_AREA)
        return np.asarray(picture, np.uint8)
    base = rng.uniform(0, 255, 3)
    contrast = 200 * rng.random() * (rng.random() < 0.7)
    cells = int(rng.choice([3, 5, 9, 24]))
    field = base + contrast * (rng.random((cells, cells, 3)) - 0.5)
    smooth = cv2.resize(field.clip(0, 255).astype(np.uint8), (size, size), interpolation=cv2.INTER_CUBIC)
    return np.asarray(smooth, np.uint8)


def _grid(size: int) -> tuple[Floats, Floats]:
    axis = np.linspace(-1, 1, size, dtype=np.float32)
    return axis[None, :], axis[:, None]


def _occlude(image: Floats, rng: np.random.Generator) -> Floats:
    """A soft ellipse of one colour (hand, microphone, cup), mostly over the rim of the face."""
    x, y = _grid(len(image))
    angle, radius, turn = rng.uniform(0, 2 * math.pi), rng.uniform(0.5, 1.1), rng.uniform(0, math.pi)
    dx, dy = x - radius * math.cos(angle), y - radius * math.sin(angle)
    u = (dx * math.cos(turn) + dy * math.sin(turn)) / rng.uniform(0.1, 0.45)
    v = (dy * math.cos(turn) - dx * math.sin(turn)) / rng.uniform(0.08, 0.3)
    inside = np.clip(6 * (1 - u * u - v * v), 0, 1)[..., None]
    colour = rng.uniform(0, 255, 3).astype(np.float32) * (1 + 0.2 * u.clip(-1, 1)[..., None])
    return image + inside * (colour - image)


def _shade(image: Floats, rng: np.random.Generator) -> Floats:
    """A shadow or a light over a half plane, its edge sharp or soft."""
    x, y = _grid(len(image))
    angle = rng.uniform(0, 2 * math.pi)
    edge = x * math.cos(angle) + y * math.sin(angle) - rng.uniform(-0.7, 0.7)
    mask = np.clip(0.5 + edge * rng.uniform(0.5, 8), 0, 1)
    return image * (1 + np.float32(rng.uniform(-0.5, 0.25)) * mask)[..., None]


def _colour(image: Floats, rng: np.random.Generator) -> Floats:
    """White balance, exposure, contrast, saturation (12 % are grey) and gamma."""
    grey = image @ np.array([0.299, 0.587, 0.114], np.float32)
    saturation = 0.0 if rng.random() < 0.12 else rng.uniform(0.5, 1.4)
    image = grey[..., None] + np.float32(saturation) * (image - grey[..., None])
    gain = (1 + 0.07 * rng.standard_normal(3).clip(-2, 2)) * math.exp(rng.uniform(-0.25, 0.25))
    contrast, mean = rng.uniform(0.7, 1.3), float(grey.mean())
    image = mean + (image * gain.astype(np.float32) - mean) * np.float32(contrast)
    gamma = math.exp(rng.uniform(-0.3, 0.3))
    table = (255 * (np.arange(256) / 255) ** gamma).astype(np.float32)
    return table[image.clip(0, 255).astype(np.uint8)]


def _blur(image: Floats, rng: np.random.Generator) -> Floats:
    """Defocus, motion, and the loss of a smaller picture."""
    if rng.random() < 0.5:
        sigma = 0.3 + 1.3 * rng.random() ** 2
        sideways, longer = rng.random() < 0.5, 1 + 2 * rng.random() * (rng.random() < 0.15)
        across, along = sigma * (longer if sideways else 1), sigma * (1 if sideways else longer)
        image = cv2.GaussianBlur(image, (0, 0), across, sigmaY=along, borderType=cv2.BORDER_REPLICATE)
    if rng.random() < 0.25:
        size, small = len(image), int(rng.uniform(40, 112))
        image = cv2.resize(image, (small, small), interpolation=cv2.INTER_AREA)
        image = cv2.resize(image, (size, size), interpolation=cv2.INTER_CUBIC)
    return image
