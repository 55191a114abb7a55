"""The extractor F: a small residual CNN from an aligned face crop to features and regressed parameters."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

CROP_SIZE = 128  # px, side of the aligned face crop
FEATURES = 256  # D
LANDMARKS = 68
POINT_SCALE = 10.0  # px per unit of the landmark head: its outputs then have unit spread
COLOUR_GRID = 4  # the crop's mean colours on a 4 x 4 grid tell skin and light, which the features forget
APPEARANCE = 16  # A: skin, light, exposure and tint coefficients, as in python/render
WIDTHS = (16, 40, 96, 176)  # channels at strides 2, 4, 8, 16
BLOCKS = (2, 3, 3)  # residual blocks at strides 4, 8, 16: 331 million multiply-adds per look in all
FLATTEN_CHANNELS = 64  # the 8 x 8 map is reduced to this before it is flattened: position must survive


class ExtractorOutput(NamedTuple):
    """What F says of a batch of crops."""

    features: Tensor  # [B, D] deep features, unwhitened
    parameters: Tensor  # [B, P] regressed parameters (the start of the search), not yet clipped to bounds
    landmarks: Tensor  # [B, 68, 2] x, y in crop pixels, pixel centres at integers
    appearance: Tensor  # [B, A] skin, light, exposure and tint for the image generator


class _ConvNorm(nn.Module):
    """3 x 3 convolution and batch norm; the norm is folded into the convolution by ``fuse``."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1, fused: bool = False) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=fused)
        self.norm: nn.Module = nn.Identity() if fused else nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.norm(self.conv(x))
        return out

    def fuse(self) -> None:
        if isinstance(self.norm, nn.BatchNorm2d):
            self.conv = fuse_conv_bn_eval(self.conv, self.norm)
            self.norm = nn.Identity()


class _Residual(nn.Module):
    def __init__(self, width: int, fused: bool) -> None:
        super().__init__()
        self.first = _ConvNorm(width, width, fused=fused)
        self.second = _ConvNorm(width, width, fused=fused)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.second(torch.relu(self.first(x))))


class Extractor(nn.Module):
    """F: face crops to features, regressed parameters, landmarks and appearance.

    Args:
        parameters: P, the number of regressed parameters.
        dense: extra 2-D points predicted in training only (denser supervision); 0 at run time.
        widths: channels of the four stages.
        blocks: residual blocks of the last three.
        fused: build without batch norms, for weights saved by :meth:`fuse`.
    """

    def __init__(
        self,
        parameters: int,
        dense: int = 0,
        widths: tuple[int, int, int, int] = WIDTHS,
        blocks: tuple[int, int, int] = BLOCKS,
        fused: bool = True,
    ) -> None:
        super().__init__()
        a, b, c, d = widths
        self.stem = _ConvNorm(3, a, stride=2, fused=fused)
        self.stem2 = _ConvNorm(a, a, fused=fused)
        self.down = nn.ModuleList(
            [_ConvNorm(i, o, stride=2, fused=fused) for i, o in ((a, b), (b, c), (c, d))]
        )
        self.blocks = nn.ModuleList(
            nn.Sequential(*(_Residual(width, fused) for _ in range(count)))
            for width, count in zip((b, c, d), blocks, strict=True)
        )
        self.reduce = nn.Conv2d(d, FLATTEN_CHANNELS, 1)
        self.embed = nn.Linear(FLATTEN_CHANNELS * (CROP_SIZE // 16) ** 2, FEATURES)
        self.points = nn.Linear(FEATURES, 2 * LANDMARKS)
        self.dense = nn.Linear(FEATURES, 2 * dense) if dense else None
        self.hidden = nn.Linear(FEATURES, FEATURES)
        self.parameters_head = nn.Linear(FEATURES, parameters)
        self.appearance_head = nn.Linear(FEATURES + 3 * COLOUR_GRID**2, APPEARANCE)

    def features(self, pixels: Tensor) -> Tensor:
        """pixels [B, 3, 128, 128] in [0, 1] -> features [B, D]."""
        x = torch.relu(self.stem(pixels * 2 - 1))
        x = torch.relu(self.stem2(x))
        for down, block in zip(self.down, self.blocks, strict=True):
            x = block(torch.relu(down(x)))
        features: Tensor = self.embed(torch.relu(self.reduce(x)).flatten(1))
        return features

    def heads(self, features: Tensor, pixels: Tensor) -> ExtractorOutput:
        """features [B, D] of pixels [B, 3, 128, 128] -> what is regressed from them."""
        points = self.points(features).reshape(-1, LANDMARKS, 2) * POINT_SCALE
        hidden = torch.relu(self.hidden(features))
        appearance = self.appearance_head(appearance_inputs(features, pixels))
        return ExtractorOutput(features, self.parameters_head(hidden), points, appearance)

    def forward(self, pixels: Tensor) -> ExtractorOutput:
        """pixels float [B, 3, 128, 128] in [0, 1] -> :class:`ExtractorOutput`."""
        return self.heads(self.features(pixels), pixels)

    def fuse(self) -> None:
        """Fold every batch norm into its convolution, in place (evaluation mode only)."""
        if self.training:
            raise RuntimeError("fuse() expects the extractor in evaluation mode: call .eval() first")
        for module in list(self.modules()):
            if isinstance(module, _ConvNorm):
                module.fuse()


def appearance_inputs(features: Tensor, pixels: Tensor) -> Tensor:
    """What the appearance is regressed from: features [B, D] and the mean colours of a grid, [B, D + 48]."""
    colours = functional.avg_pool2d(pixels, CROP_SIZE // COLOUR_GRID).flatten(1)
    return torch.cat([features, colours], 1)
