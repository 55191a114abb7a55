"""From renders with coverage to what a camera, a file and a loose face box make of them.

Whole batches at a time, on the device of the renders, everything drawn from the generator it is given: on a
GPU this is far faster than the network that learns from it, so that every example is a new photograph.
Strengths follow photographs: noise that hides the brows teaches nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import astuple, dataclass
from functools import cache

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from genet_ext.extractors.face_cnn import CROP_SIZE

MARGIN = 32  # px of the render around the crop
ROLL = 2  # index of roll in theta
BACKGROUND_CELLS = (3, 5, 9, 24)  # cells per side of a random colour field
SMALLEST = 40 / 128  # the smallest picture that a face is taken from, of its side in the crop
LUMA = (0.299, 0.587, 0.114)


@dataclass(frozen=True)
class Jitter:
    """Standard deviations of a crop from the aligned one: shift (px), log scale, rotation (rad), log stretch.

    The stretch makes a face wider and shorter, or the opposite: faces that the face model does not know.
    """

    shift: float
    log_scale: float
    rotation: float
    log_stretch: float


ALIGNED = Jitter(0.0, 0.0, 0.0, 0.0)
SECOND_PASS = Jitter(1.3, 0.03, 0.03, 0.03)  # what F's own landmarks leave
LOOSE_BOX = Jitter(8.0, 0.14, 0.16, 0.03)  # what a face finder's box leaves


@dataclass(frozen=True)
class CropFrames:
    """From crop pixels to render pixels: render = stretch * scale * R(angle) (crop - centre) + origin."""

    linear: Tensor  # [B, 2, 2]
    offset: Tensor  # [B, 2]
    angle: Tensor  # [B] rad, clockwise on screen

    def cut(self, images: Tensor, size: int = CROP_SIZE) -> Tensor:
        """The crops [B, C, size, size] of renders [B, C, H, W], bilinear."""
        axis = torch.arange(size, dtype=images.dtype, device=images.device)
        y, x = torch.meshgrid(axis, axis, indexing="ij")
        points = torch.stack([x, y], -1).reshape(1, -1, 2) @ self.linear.mT + self.offset[:, None]
        extent = torch.tensor([images.shape[3] - 1, images.shape[2] - 1], device=images.device)
        grid = (2 * points / extent - 1).reshape(-1, size, size, 2)
        return functional.grid_sample(images, grid, "bilinear", "border", align_corners=True)

    def points(self, points: Tensor) -> Tensor:
        """Render pixels [B, K, 2] -> crop pixels."""
        return (points - self.offset[:, None]) @ torch.linalg.inv(self.linear).mT

    def theta(self, theta: Tensor) -> Tensor:
        """Parameters [B, P] of the renders -> of the crops: roll is relative to them.

        A crop turned clockwise shows its face turned the other way, and positive roll tilts the crown to the
        image's left, which is counter-clockwise.
        """
        turned = theta.clone()
        turned[:, ROLL] += self.angle
        return turned


class Draw:
    """Random numbers for a batch, one per example unless a shape is given; all from one generator."""

    def __init__(self, batch: int, generator: torch.Generator) -> None:
        self.batch, self.generator, self.device = batch, generator, generator.device

    def uniform(self, low: float = 0.0, high: float = 1.0, *shape: int) -> Tensor:
        size = (self.batch, *(shape or (1, 1, 1)))
        return low + (high - low) * torch.rand(size, generator=self.generator, device=self.device)

    def normal(self, *shape: int) -> Tensor:
        size = (self.batch, *(shape or (1, 1, 1)))
        return torch.randn(size, generator=self.generator, device=self.device)

    def happens(self, share: float) -> Tensor:
        """True for about that share of the examples, [B, 1, 1, 1]."""
        return self.uniform() < share


def crop_frames(jitters: list[tuple[float, Jitter]], draw: Draw) -> CropFrames:
    """Frames as far from the aligned crop as the jitters say (normal, cut off at two deviations).

    Args:
        jitters: (share of the examples, how far from alignment); the shares add up to 1.
        draw: random numbers; says how many frames.
    """
    shares = torch.tensor([share for share, _ in jitters], device=draw.device).cumsum(0)
    kind = torch.searchsorted(shares, draw.uniform(0, 1, 1)[:, 0]).clamp(max=len(jitters) - 1)
    table = torch.tensor([[j.shift, *astuple(j)] for _, j in jitters]).to(draw.device)
    x, y, log_scale, angle, log_stretch = (draw.normal(5).clamp(-2, 2) * table[kind]).unbind(1)
    cos, sin = log_scale.exp() * angle.cos(), log_scale.exp() * angle.sin()
    turned = torch.stack([torch.stack([cos, -sin], 1), torch.stack([sin, cos], 1)], 1)
    # Along the upright face's own axes, so that it leans by the angle still.
    linear = turned * torch.stack([log_stretch, -log_stretch], 1).exp()[:, :, None]
    centre = (CROP_SIZE - 1) / 2
    offset = centre + MARGIN + torch.stack([x, y], 1) - centre * linear.sum(2)
    return CropFrames(linear, offset, angle)


def composite(rgba: Tensor, background: Tensor | float) -> Tensor:
    """Renders [B, 4, H, W] in [0, 1] over backgrounds [B, 3, H, W], or over one grey -> [B, 3, H, W]."""
    coverage = rgba[:, 3:]
    return rgba[:, :3] * coverage + background * (1 - coverage)


def photographs(rgba: Tensor, others: Tensor, draw: Draw) -> Tensor:
    """Background, occluders, light, colour, blur, resolution, noise and compression of photographs.

    Args:
        rgba: [B, 4, S, S] the faces, in [0, 1].
        others: [B, >= 3, H, W] other pictures, used as background now and then.
        draw: where every choice comes from.

    Returns:
        [B, 3, S, S], multiples of 1/255 in [0, 1].
    """
    images = composite(rgba, _backgrounds(rgba.shape[2], others, draw))
    images = _colour(_shade(_occlude(images, draw), draw), draw)
    images = _blur(images, draw)
    noise = 8 / 255 * draw.uniform() ** 2 * draw.happens(0.6)
    images = images + noise * draw.normal(*images.shape[1:])
    images = (images.clamp(0, 1) * 255).round() / 255
    quality = draw.uniform(25, 95)
    return _changed(images, draw.happens(0.4), lambda rows: jpeg(images[rows], quality[rows]))


def _rows(chosen: Tensor) -> Tensor:
    """The numbers of the chosen examples, of chosen [B, 1, 1, 1]."""
    return chosen.flatten().nonzero()[:, 0]


def _changed(images: Tensor, chosen: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
    """The images, the chosen ones ([B, 1, 1, 1]) as ``change`` makes them from their numbers.

    What happens to few is computed for few: on a CPU that is half of the time.
    """
    rows = _rows(chosen)
    return images.index_copy(0, rows, change(rows)) if len(rows) else images


def _backgrounds(size: int, others: Tensor, draw: Draw) -> Tensor:
    """Smooth random colour fields, or other pictures turned round."""
    base = draw.uniform(0, 1, 3, 1, 1)
    contrast = 200 / 255 * draw.uniform() * draw.happens(0.7)
    choice = (draw.uniform() * len(BACKGROUND_CELLS)).long()
    coarse = [base + contrast * draw.uniform(-0.5, 0.5, 3, n, n) for n in BACKGROUND_CELLS]
    choice = torch.where(draw.happens(0.33), len(BACKGROUND_CELLS), choice)
    out = others.new_empty(len(others), 3, size, size)
    for number, cells in enumerate(BACKGROUND_CELLS):
        rows, up = _rows(choice == number), _enlarging(cells, size).to(out.device)
        out[rows] = up @ coarse[number][rows].clamp(0, 1) @ up.T
    rows = _rows(choice == len(BACKGROUND_CELLS))
    if len(rows):
        out[rows] = functional.interpolate(others[rows, :3].flip(2, 3), (size, size), mode="bilinear")
    return out.clamp(0, 1)


def _grid(size: int, device: torch.device) -> tuple[Tensor, Tensor]:
    axis = torch.linspace(-1, 1, size, device=device)
    return axis[None, None, None, :], axis[None, None, :, None]


def _occlude(images: Tensor, draw: Draw) -> Tensor:
    """A soft ellipse of one colour (hand, microphone, cup) in 12 %, mostly over the rim of the face."""
    angle, radius, turn = draw.uniform(0, 2 * math.pi), draw.uniform(0.5, 1.1), draw.uniform(0, math.pi)
    half_width, half_height = draw.uniform(0.1, 0.45), draw.uniform(0.08, 0.3)
    chosen, colour = draw.happens(0.12), draw.uniform(0, 1, 3, 1, 1)
    x, y = _grid(images.shape[2], images.device)

    def covered(rows: Tensor) -> Tensor:
        dx, dy = x - (radius * angle.cos())[rows], y - (radius * angle.sin())[rows]
        cos, sin = turn[rows].cos(), turn[rows].sin()
        u, v = (dx * cos + dy * sin) / half_width[rows], (dy * cos - dx * sin) / half_height[rows]
        inside = (6 * (1 - u * u - v * v)).clamp(0, 1)
        return images[rows] + inside * (colour[rows] * (1 + 0.2 * u.clamp(-1, 1)) - images[rows])

    return _changed(images, chosen, covered)


def _shade(images: Tensor, draw: Draw) -> Tensor:
    """A shadow or a light over a half plane in 30 %, its edge sharp or soft."""
    x, y = _grid(images.shape[2], images.device)
    angle = draw.uniform(0, 2 * math.pi)
    edge = x * angle.cos() + y * angle.sin() - draw.uniform(-0.7, 0.7)
    mask = (0.5 + edge * draw.uniform(0.5, 8)).clamp(0, 1)
    return images * (1 + draw.uniform(-0.5, 0.25) * draw.happens(0.3) * mask)


def _colour(images: Tensor, draw: Draw) -> Tensor:
    """White balance, exposure, contrast, saturation (12 % are grey) and gamma."""
    luma = torch.tensor(LUMA, device=images.device).reshape(1, 3, 1, 1)
    grey = (images * luma).sum(1, keepdim=True)
    saturation = draw.uniform(0.5, 1.4) * ~draw.happens(0.12)
    images = grey + saturation * (images - grey)
    gain = (1 + 0.1 * draw.normal(3, 1, 1).clamp(-2, 2)) * draw.uniform(-0.25, 0.25).exp()
    mean = grey.mean((2, 3), keepdim=True)
    images = mean + (images * gain - mean) * draw.uniform(0.7, 1.3)
    return images.clamp(0, 1) ** draw.uniform(-0.3, 0.3).exp()


def _blur(images: Tensor, draw: Draw) -> Tensor:
    """Defocus and motion in half of them, the loss of a smaller picture in a quarter.

    All of it is linear along rows and columns, so it is one matrix per axis and example.
    """
    size = images.shape[2]
    sigma = (0.3 + 1.3 * draw.uniform(0, 1, 1, 1) ** 2) * (draw.uniform(0, 1, 1, 1) < 0.5)
    longer = 1 + 2 * draw.uniform(0, 1, 1, 1) * (draw.uniform(0, 1, 1, 1) < 0.15)
    sideways = draw.uniform(0, 1, 1, 1) < 0.5
    across = torch.where(sideways, sigma * longer, sigma)
    along = torch.where(sideways, sigma, sigma * longer)
    least, most = int(SMALLEST * size), int(0.875 * size)
    table = _resampling(size, least, most).to(images.device)
    small = (draw.uniform(0, 1, 1) * (most - least)).long()[:, 0]
    small = torch.where(draw.uniform(0, 1, 1)[:, 0] < 0.25, small, len(table) - 1)

    def softened(rows: Tensor) -> Tensor:
        down = table[small[rows]]
        vertical, horizontal = down @ _gaussians(along[rows], size), down @ _gaussians(across[rows], size)
        # One product per example and axis: far faster on a CPU than one per channel.
        packed = images[rows].transpose(1, 2).reshape(-1, size, 3 * size)
        packed = (vertical @ packed).reshape(-1, 3 * size, size) @ horizontal.mT
        return packed.reshape(-1, size, 3, size).transpose(1, 2)

    return _changed(images, (sigma.flatten() > 0) | (small < len(table) - 1), softened)


def _gaussians(sigma: Tensor, size: int) -> Tensor:
    """Blur matrices [B, size, size] of standard deviations [B, 1, 1] px; 0 is no blur."""
    axis = torch.arange(size, dtype=torch.float32, device=sigma.device)
    squared = (axis[:, None] - axis[None, :]).square()
    kernels = (-0.5 * squared / sigma.clamp(min=0.05).square()).exp()
    # Nothing of a tail is seen, and on a CPU its denormal numbers would cost most of the augmentation.
    kernels = torch.where(kernels < 1e-6, 0.0, kernels)
    return kernels / kernels.sum(2, keepdim=True)


@cache
def _enlarging(cells: int, size: int) -> Tensor:
    """[size, cells]: from cells to as many pixels, smoothly."""
    unit = np.eye(cells, dtype=np.float32)
    return torch.from_numpy(cv2.resize(unit, (cells, size), interpolation=cv2.INTER_CUBIC))


@cache
def _resampling(size: int, least: int, most: int) -> Tensor:
    """Down to each smaller side and up again, [most - least + 1, size, size]; the last is the identity."""
    unit = np.eye(size, dtype=np.float32)
    matrices = []
    for side in range(least, most):
        down = cv2.resize(unit, (size, side), interpolation=cv2.INTER_AREA)
        matrices.append(cv2.resize(down, (size, size), interpolation=cv2.INTER_CUBIC))
    return torch.from_numpy(np.stack([*matrices, unit]))


# Quantisation tables of the JPEG standard (ITU-T T.81, annex K), luminance and chrominance.
_QUANTA = (
    (
        (16, 11, 10, 16, 24, 40, 51, 61), (12, 12, 14, 19, 26, 58, 60, 55), (14, 13, 16, 24, 40, 57, 69, 56),
        (14, 17, 22, 29, 51, 87, 80, 62), (18, 22, 37, 56, 68, 109, 103, 77),
        (24, 35, 55, 64, 81, 104, 113, 92), (49, 64, 78, 87, 103, 121, 120, 101),
        (72, 92, 95, 98, 112, 100, 103, 99),
    ),
    (
        (17, 18, 24, 47, 99, 99, 99, 99), (18, 21, 26, 66, 99, 99, 99, 99), (24, 26, 56, 99, 99, 99, 99, 99),
        (47, 66, 99, 99, 99, 99, 99, 99), *((99,) * 8 for _ in range(4)),
    ),
)  # fmt: skip
_TO_YCBCR = ((0.299, 0.587, 0.114), (-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312))


def jpeg(images: Tensor, quality: Tensor) -> Tensor:
    """What JPEG keeps of images: 4:2:0 chroma, 8 x 8 cosine transforms, rounded to the quantisation table.

    Args:
        images: [B, 3, H, W] in [0, 1]; sides are multiples of 16.
        quality: [B, 1, 1, 1], 1 to 100, as libjpeg takes it.
    """
    to_ycbcr = torch.tensor(_TO_YCBCR, device=images.device)
    y, cb, cr = (255 * torch.einsum("ck,bkhw->bchw", to_ycbcr, images)).split(1, 1)
    chroma = functional.avg_pool2d(torch.cat([cb, cr], 1), 2)
    # libjpeg's rule from quality to the scale of the table, in per cent.
    percent = torch.where(quality < 50, 5000 / quality, 200 - 2 * quality)
    tables = torch.tensor(_QUANTA, dtype=torch.float32, device=images.device)
    steps = ((tables * percent.reshape(-1, 1, 1, 1) + 50) / 100).floor().clamp(1, 255)
    y = _quantised(y - 128, steps[:, 0]) + 128
    chroma = _quantised(chroma, steps[:, 1])
    chroma = functional.interpolate(chroma, scale_factor=2.0, mode="bilinear")
    rgb = torch.einsum("ck,bkhw->bchw", torch.linalg.inv(to_ycbcr), torch.cat([y, chroma], 1))
    return rgb.round().clamp(0, 255) / 255


def _quantised(planes: Tensor, steps: Tensor) -> Tensor:
    """Planes [B, C, H, W] with the cosine transforms of their 8 x 8 blocks rounded to steps [B, 8, 8]."""
    k = torch.arange(8, dtype=torch.float32, device=planes.device)
    basis = 0.5 * torch.cos((2 * k[None, :] + 1) * k[:, None] * math.pi / 16)
    basis[0] /= math.sqrt(2)
    b, c, h, w = planes.shape
    blocks = planes.reshape(b, c, h // 8, 8, w // 8, 8).transpose(3, 4)
    table = steps[:, None, None, None]
    frequencies = (basis @ blocks @ basis.T / table).round() * table
    return (basis.T @ frequencies @ basis).transpose(3, 4).reshape(b, c, h, w)
