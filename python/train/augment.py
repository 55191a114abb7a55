"""From a render with coverage to what a camera, a file and a loose face box make of it, on the device.

Everything is drawn per image from one generator, so a step's batch is a function of its seed. Strengths
follow photographs: noise that hides the brows teaches nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from genet_ext.extractors.face_cnn import CROP_SIZE

MARGIN = 32  # px of the render around the crop
ROLL = 2  # index of roll in theta


@dataclass
class Jitter:
    """How far a crop is from the aligned one: in-plane shift (px), log scale and rotation (rad)."""

    shift: float
    log_scale: float
    rotation: float


ALIGNED = Jitter(0.0, 0.0, 0.0)
SECOND_PASS = Jitter(1.3, 0.03, 0.03)  # what F's own landmarks leave
LOOSE_BOX = Jitter(8.0, 0.14, 0.16)  # what a face finder's box leaves


def crop(
    images: Tensor, theta: Tensor, points: Tensor, jitters: list[tuple[float, Jitter]], rng: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Cut jittered crops from renders.

    Args:
        images: uint8 [B, 192, 192, 4].
        theta: [B, P]; roll is relative to the crop, so it follows the rotation.
        points: [B, K, 2] pixels of the render.
        jitters: (share of the batch, jitter) pairs; shares add up to 1.

    Returns:
        RGBA float [B, 4, 128, 128] in [0, 1], theta [B, P], points [B, K, 2] in crop pixels.
    """
    batch, device = len(images), images.device
    # Consecutive rows get one jitter: the batch itself is in random order.
    shift = torch.zeros(batch, 1, device=device)
    log_scale, rotation = shift.clone(), shift.clone()
    start = 0.0
    for share, jitter in jitters:
        rows = slice(round(start * batch), round((start + share) * batch))
        shift[rows], log_scale[rows], rotation[rows] = jitter.shift, jitter.log_scale, jitter.rotation
        start += share
    offset = shift * torch.randn(batch, 2, device=device, generator=rng).clamp(-2, 2)
    scale = torch.exp(log_scale * torch.randn(batch, 1, device=device, generator=rng).clamp(-2, 2))
    angle = rotation * torch.randn(batch, 1, device=device, generator=rng).clamp(-2, 2)
    # Crop to render: the crop's axes turned clockwise on screen (y down) and scaled.
    cos, sin = torch.cos(angle) * scale, torch.sin(angle) * scale
    matrix = torch.stack([torch.cat([cos, -sin], 1), torch.cat([sin, cos], 1)], 1)  # [B, 2, 2]

    centre = (CROP_SIZE - 1) / 2
    axis = torch.arange(CROP_SIZE, device=device) - centre
    grid = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), -1).reshape(1, -1, 2)
    middle = MARGIN + centre
    sample = grid @ matrix.transpose(1, 2) + middle + offset[:, None]
    size = images.shape[1]
    sample = (sample + 0.5) / size * 2 - 1  # grid_sample's convention without corner alignment
    rgba = functional.grid_sample(
        images.permute(0, 3, 1, 2).float() / 255,
        sample.reshape(batch, CROP_SIZE, CROP_SIZE, 2),
        mode="bilinear",
        padding_mode="border",
        align_corners=False,
    )
    points = (points - middle - offset[:, None]) @ torch.linalg.inv(matrix).transpose(1, 2) + centre
    theta = theta.clone()
    # The crop's axes are turned clockwise on screen (y down) by angle, so the head in it turns the other way;
    # positive roll tilts the crown to the image's left, which is counter-clockwise on screen.
    theta[:, ROLL] += angle[:, 0]
    return rgba, theta, points


def composite_grey(rgba: Tensor) -> Tensor:
    """The clean look: the render over mid grey. [B, 4, H, W] -> [B, 3, H, W]."""
    return rgba[:, :3] * rgba[:, 3:] + 0.5 * (1 - rgba[:, 3:])


def photograph(rgba: Tensor, rng: torch.Generator) -> Tensor:
    """Background, occluders, light, colour, blur, resolution, compression and noise of photographs.

    RGBA [B, 4, H, W] in [0, 1] -> RGB [B, 3, H, W] in [0, 1].
    """
    pixels = rgba[:, :3] * rgba[:, 3:] + _background(rgba, rng) * (1 - rgba[:, 3:])
    pixels = _occlude(pixels, rng)
    pixels = _shade(pixels, rng)
    pixels = _colour(pixels, rng)
    pixels = _blur(pixels, rng)
    pixels = _resolution(pixels, rng)
    pixels = _compress(pixels, rng)
    sd = 0.03 * _uniform(pixels, rng) ** 2 * _chance(pixels, 0.6, rng)
    pixels = pixels + sd * torch.randn(pixels.shape, device=pixels.device, generator=rng)
    return pixels.clamp(0, 1)


def _uniform(
    x: Tensor, rng: torch.Generator, low: float = 0.0, high: float = 1.0, channels: int = 1
) -> Tensor:
    return low + (high - low) * torch.rand(len(x), channels, 1, 1, device=x.device, generator=rng)


def _chance(x: Tensor, probability: float, rng: torch.Generator) -> Tensor:
    return (_uniform(x, rng) < probability).to(x.dtype)


def _background(rgba: Tensor, rng: torch.Generator) -> Tensor:
    """Smooth random colour fields; for a third of the images, another render of the batch, shifted."""
    batch, _, height, width = rgba.shape
    coarse = torch.rand(batch, 3, 5, 5, device=rgba.device, generator=rng)
    fine = torch.rand(batch, 3, 24, 24, device=rgba.device, generator=rng)
    contrast = _uniform(rgba, rng) * _chance(rgba, 0.7, rng)
    base = _uniform(rgba, rng, channels=3)
    field = base + contrast * (functional.interpolate(coarse, (height, width), mode="bicubic") - 0.5)
    detail = functional.interpolate(fine, (height, width), mode="bilinear") - 0.5
    field = field + 0.5 * contrast * _uniform(rgba, rng) * detail
    other = rgba[:, :3].roll(1, 0).roll((37, 53), (2, 3)).flip(3)
    use = _chance(rgba, 0.33, rng)
    return (use * other + (1 - use) * field).clamp(0, 1)


def _occlude(pixels: Tensor, rng: torch.Generator) -> Tensor:
    """An ellipse of one colour (hand, microphone, cup) over part of 12 % of the faces, mostly at the rim."""
    _, _, height, width = pixels.shape
    y, x = torch.meshgrid(
        torch.linspace(-1, 1, height, device=pixels.device),
        torch.linspace(-1, 1, width, device=pixels.device),
        indexing="ij",
    )
    angle = _uniform(pixels, rng, 0, 2 * math.pi)
    radius = _uniform(pixels, rng, 0.55, 1.1)
    cx, cy = radius * torch.cos(angle), radius * torch.sin(angle)
    turn = _uniform(pixels, rng, 0, math.pi)
    a, b = _uniform(pixels, rng, 0.1, 0.45), _uniform(pixels, rng, 0.08, 0.3)
    u = (x - cx) * torch.cos(turn) + (y - cy) * torch.sin(turn)
    v = -(x - cx) * torch.sin(turn) + (y - cy) * torch.cos(turn)
    inside = torch.sigmoid((1 - (u / a) ** 2 - (v / b) ** 2) * 12) * _chance(pixels, 0.12, rng)
    colour = _uniform(pixels, rng, channels=3) * (1 + 0.2 * (u / a).clamp(-1, 1))
    return pixels * (1 - inside) + colour.clamp(0, 1) * inside


def _shade(pixels: Tensor, rng: torch.Generator) -> Tensor:
    """A soft-edged shadow or light over a half plane, on 30 % of the images."""
    _, _, height, width = pixels.shape
    y, x = torch.meshgrid(
        torch.linspace(-1, 1, height, device=pixels.device),
        torch.linspace(-1, 1, width, device=pixels.device),
        indexing="ij",
    )
    angle = _uniform(pixels, rng, 0, 2 * math.pi)
    edge = x * torch.cos(angle) + y * torch.sin(angle) - _uniform(pixels, rng, -0.7, 0.7)
    mask = torch.sigmoid(edge * _uniform(pixels, rng, 2, 25))
    strength = _uniform(pixels, rng, -0.5, 0.25) * _chance(pixels, 0.3, rng)
    return pixels * (1 + strength * mask)


def _colour(pixels: Tensor, rng: torch.Generator) -> Tensor:
    gain = 1 + 0.07 * torch.randn(len(pixels), 3, 1, 1, device=pixels.device, generator=rng).clamp(-2, 2)
    pixels = pixels * gain * torch.exp(0.25 * (2 * _uniform(pixels, rng) - 1))
    mean = pixels.mean((1, 2, 3), keepdim=True)
    pixels = mean + (pixels - mean) * _uniform(pixels, rng, 0.7, 1.3)
    grey = pixels.mean(1, keepdim=True)
    saturation = _uniform(pixels, rng, 0.5, 1.4) * (1 - _chance(pixels, 0.12, rng))
    pixels = grey + (pixels - grey) * saturation
    return pixels.clamp(0, 1) ** torch.exp(0.3 * (2 * _uniform(pixels, rng) - 1))


def _blur(pixels: Tensor, rng: torch.Generator) -> Tensor:
    """Gaussian blur, on a third of them along one axis more than the other (motion)."""
    batch, channels, height, width = pixels.shape
    sigma = 0.3 + 1.3 * _uniform(pixels, rng) ** 2 * _chance(pixels, 0.5, rng)
    longer = 1 + 2 * _uniform(pixels, rng) * _chance(pixels, 0.15, rng)
    sideways = _chance(pixels, 0.5, rng)
    taps = torch.arange(-6, 7, device=pixels.device, dtype=pixels.dtype)

    def smooth(x: Tensor, sigma: Tensor, vertical: bool) -> Tensor:
        kernel = torch.exp(-0.5 * (taps / sigma.reshape(batch, 1)) ** 2)
        kernel = (kernel / kernel.sum(1, keepdim=True)).repeat_interleave(channels, 0)
        shape = (-1, 1, 13, 1) if vertical else (-1, 1, 1, 13)
        stacked = x.reshape(1, batch * channels, height, width)
        flat = functional.pad(stacked, (0, 0, 6, 6) if vertical else (6, 6, 0, 0), "replicate")
        out = functional.conv2d(flat, kernel.reshape(shape), groups=batch * channels)
        return out.reshape(batch, channels, height, width)

    horizontal = sigma * (1 + (longer - 1) * sideways)
    vertical = sigma * (1 + (longer - 1) * (1 - sideways))
    return smooth(smooth(pixels, horizontal, False), vertical, True)


def _resolution(pixels: Tensor, rng: torch.Generator) -> Tensor:
    """A quarter of the batch goes through a smaller picture (one size per call keeps the shapes fixed)."""
    rows = torch.randperm(len(pixels), device=pixels.device, generator=rng)[: len(pixels) // 4]
    if len(rows) == 0:
        return pixels
    side = 40 + 72 * torch.rand(1, device=pixels.device, generator=rng).item()
    small = functional.interpolate(pixels[rows], (int(side), int(side)), mode="bilinear", antialias=True)
    large = functional.interpolate(small, pixels.shape[2:], mode="bicubic").clamp(0, 1)
    return pixels.index_copy(0, rows, large)


def _compress(pixels: Tensor, rng: torch.Generator) -> Tensor:
    """JPEG's loss: 8 x 8 cosine transform, coefficients rounded more coarsely the higher their frequency."""
    batch, channels, height, width = pixels.shape
    k = torch.arange(8, device=pixels.device, dtype=pixels.dtype)
    basis = torch.cos((2 * k[None] + 1) * k[:, None] * math.pi / 16) * 0.5
    basis[0] /= math.sqrt(2)
    blocks = pixels.reshape(batch, channels, height // 8, 8, width // 8, 8).permute(0, 1, 2, 4, 3, 5)
    coefficients = basis @ blocks @ basis.T
    step = (1 + k[:, None] + k[None]) * (0.04 * _uniform(pixels, rng) ** 2 + 1e-4)[..., None, None]
    rounded = torch.round(coefficients / step) * step
    use = _chance(pixels, 0.4, rng)[..., None, None]
    blocks = basis.T @ (use * rounded + (1 - use) * coefficients) @ basis
    return blocks.permute(0, 1, 2, 4, 3, 5).reshape(batch, channels, height, width)
