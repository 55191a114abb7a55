"""What the networks that look at faces are made of."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval


class ConvNorm(nn.Module):
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
        self.first = ConvNorm(width, width, fused=fused)
        self.second = ConvNorm(width, width, fused=fused)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.second(torch.relu(self.first(x))))


class Trunk(nn.Module):
    """Pictures [B, 3, H, W] in [0, 1] to maps at strides 4, 8 and 16.

    Args:
        widths: channels at strides 2, 4, 8, 16.
        blocks: residual blocks at strides 4, 8, 16.
        fused: build without batch norms.
    """

    def __init__(self, widths: tuple[int, int, int, int], blocks: tuple[int, int, int], fused: bool) -> None:
        super().__init__()
        a, b, c, d = widths
        self.stem = ConvNorm(3, a, stride=2, fused=fused)
        self.stem2 = ConvNorm(a, a, fused=fused)
        self.down = nn.ModuleList(
            [ConvNorm(i, o, stride=2, fused=fused) for i, o in ((a, b), (b, c), (c, d))]
        )
        self.blocks = nn.ModuleList(
            nn.Sequential(*(_Residual(width, fused) for _ in range(count)))
            for width, count in zip((b, c, d), blocks, strict=True)
        )

    def forward(self, pixels: Tensor) -> list[Tensor]:
        x = torch.relu(self.stem(pixels * 2 - 1))
        x = torch.relu(self.stem2(x))
        maps = []
        for down, block in zip(self.down, self.blocks, strict=True):
            x = block(torch.relu(down(x)))
            maps.append(x)
        return maps
