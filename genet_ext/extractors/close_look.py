"""The close look: eyes with brows, and the mouth, in a close-up: the face twice as large as in the crop.

In the crop 38 px lie between the eyes, and lids and lips that move do so by a pixel or less. The close look
finds points of the face as the centres of heat maps (integral regression: Sun et al., ECCV 2018), which are
far finer than the maps' cells, takes along what the picture looks like at each of them, and corrects the
parameters that were regressed from the whole face.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from genet_ext.extractors.layers import Trunk

CLOSE_SIZE = 256  # px, side of the close-up; it shows what the crop of 128 px shows
STRIDE = 4  # of the maps that points are found in
PYRAMID = 48  # their channels
DESCRIBED = 8  # numbers kept of what the picture looks like at a point
HIDDEN = 256


class Window(NamedTuple):
    """A part of the close-up, its middle column that of the whole, and the points to be found there."""

    top: int  # px
    left: int
    height: int
    width: int
    landmarks: tuple[int, ...]  # of the 68
    surface: tuple[int, ...]  # of the surface points that renders are labelled with

    @property
    def points(self) -> int:
        """How many points are found, landmarks first."""
        return len(self.landmarks) + len(self.surface)

    def cut(self, pictures: Tensor) -> Tensor:
        """The window of pictures [B, C, 256, 256]: [B, C, height, width]."""
        return pictures[:, :, self.top : self.top + self.height, self.left : self.left + self.width]


EYES = Window(32, 48, 80, 160, (*range(17, 29), *range(36, 48)), tuple(range(72)))
MOUTH = Window(128, 72, 80, 112, (*range(31, 36), *range(48, 68)), tuple(range(72, 117)))
WINDOWS = (EYES, MOUTH)


class CloseLook(nn.Module):
    """What to add to the parameters that were regressed from the whole face.

    Args:
        parameters: P, their number.
        features: D, the number of features of the whole face.
        widths, blocks: of the trunk, see :class:`Trunk`.
    """

    def __init__(
        self, parameters: int, features: int, widths: tuple[int, int, int, int], blocks: tuple[int, int, int]
    ) -> None:
        super().__init__()
        self.trunk = Trunk(widths, blocks, fused=True)
        self.lateral = nn.ModuleList(nn.Conv2d(width, PYRAMID, 1) for width in widths[1:])
        self.mix = nn.ModuleList(nn.Conv2d(PYRAMID, PYRAMID, 3, 1, 1) for _ in range(2))
        self.heat = nn.ModuleList(nn.Conv2d(PYRAMID, window.points, 1) for window in WINDOWS)
        self.describe = nn.ModuleList(nn.Linear(PYRAMID, DESCRIBED) for _ in WINDOWS)
        seen = (2 + DESCRIBED) * sum(window.points for window in WINDOWS)
        # Where points lie differs little from face to face, and by how much differs from point to point.
        self.scale = nn.BatchNorm1d(features + seen, affine=False)
        self.hidden = nn.Linear(features + seen, HIDDEN)
        self.correction = nn.Linear(HIDDEN, parameters)

    def forward(self, features: Tensor, *windows: Tensor) -> tuple[Tensor, ...]:
        """The correction, and the points that it was made from.

        Args:
            features: [B, D] of the whole face.
            windows: of each of ``WINDOWS``, [B, 3, height, width] in [0, 1].

        Returns:
            [B, P]; then for each window [B, points, 2], x and y in px of the window.
        """
        inputs, points = [features], []
        for pixels, heat, describe in zip(windows, self.heat, self.describe, strict=True):
            maps = self._pyramid(pixels)
            height, width = maps.shape[2:]
            share = heat(maps).flatten(2).softmax(2)
            found = share @ _cell_middles(height, width).to(share)
            looks = describe(share @ maps.flatten(2).mT)
            inputs += [found.flatten(1), looks.flatten(1)]
            points.append(found)
        hidden = torch.relu(self.hidden(self.scale(torch.cat(inputs, 1))))
        return (self.correction(hidden), *points)

    def _pyramid(self, pixels: Tensor) -> Tensor:
        """Maps that know of the coarser ones, too: [B, PYRAMID, height / STRIDE, width / STRIDE]."""
        fine, middle, coarse = (
            lateral(x) for lateral, x in zip(self.lateral, self.trunk(pixels), strict=True)
        )
        out: Tensor = coarse
        for mix, finer in zip(self.mix, (middle, fine), strict=True):
            out = torch.relu(mix(torch.relu(finer + functional.interpolate(out, scale_factor=2.0))))
        return out


def _cell_middles(height: int, width: int) -> Tensor:
    """x and y of the middles of a map's cells, [height * width, 2] px of the window."""
    rows, columns = (torch.arange(n) * STRIDE + (STRIDE - 1) / 2 for n in (height, width))
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    return torch.stack([x.flatten(), y.flatten()], 1)
