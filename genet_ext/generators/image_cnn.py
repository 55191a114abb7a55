"""The image generator G: a convolutional decoder from parameters and appearance to a face crop."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

WIDTHS = (160, 128, 96, 64, 32)  # channels at 4, 8, 16, 32 and 64 px
SHUFFLE = 2  # the last layer makes 2 x 2 pixels at each place: convolutions at 128 px would cost most time


class _UpBlock(nn.Module):
    """Upsample twofold, convolve, and scale and shift each channel by the parameters (FiLM)."""

    def __init__(self, inputs: int, outputs: int, conditions: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, 1, 1)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1)
        self.film = nn.Linear(conditions, 2 * outputs)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        x = functional.interpolate(x, scale_factor=2.0, mode="nearest")
        scale, shift = self.film(condition)[:, :, None, None].chunk(2, 1)
        x = functional.silu(self.conv(x) * (1 + scale) + shift)
        return functional.silu(x + self.conv2(x))


class ImageGenerator(nn.Module):
    """G: theta [B, P] and appearance [B, A] -> RGB crop [B, 3, 128, 128] in [0, 1], on a grey background."""

    def __init__(self, parameters: int, appearance: int, widths: tuple[int, ...] = WIDTHS) -> None:
        super().__init__()
        self.width = widths[0]
        self.condition = nn.Linear(parameters + appearance, 256)
        self.start = nn.Linear(256, 16 * widths[0])
        self.blocks = nn.ModuleList([_UpBlock(i, o, 256) for i, o in pairwise(widths)])
        self.rgb = nn.Conv2d(widths[-1], 3 * SHUFFLE**2, 3, 1, 1)

    def forward(self, theta: Tensor, appearance: Tensor) -> Tensor:
        """theta [B, P], appearance [B, A] -> pixels [B, 3, 128, 128] in [0, 1]."""
        condition = functional.silu(self.condition(torch.cat([theta, appearance], 1)))
        x = functional.silu(self.start(condition)).reshape(-1, self.width, 4, 4)
        for block in self.blocks:
            x = block(x, condition)
        return torch.sigmoid(functional.pixel_shuffle(self.rgb(x), SHUFFLE))
