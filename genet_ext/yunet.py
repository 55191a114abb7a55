"""YuNet (Wu, Peng and Yu 2023): a face detector of 53,000 weights, as OpenCV runs it.

The network and its weights are those of OpenCV's model zoo, face_detection_yunet_2023mar.onnx (MIT licence,
see NOTICE), converted by python/convert_yunet.py: it takes RGB here, and the five landmarks that it also
predicts are left out, since alignment finds better ones.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

STRIDES = (8, 16, 32)  # px between the places at which each of the three heads looks for faces
BLOCK = STRIDES[-1]  # px, sides of pictures are multiples of it
STAGES = ((16, 32), (32, 64), (64, 64), (64, 64), (64, 64))  # channels in and out
HEAD_CHANNELS = 6  # face or not, x, y, log width, log height, face or not again (by overlap)


class YuNet(nn.Module):
    """Pictures to boxes and scores of all places where a face might be."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, stride=2, padding=1)
        self.stem_unit = _unit(16, 16)
        self.stages = nn.ModuleList(
            nn.Sequential(_unit(i, i), nn.ReLU(), _unit(i, o), nn.ReLU()) for i, o in STAGES
        )
        self.lateral = nn.ModuleList(_unit(64, 64) for _ in STRIDES)
        self.heads = nn.ModuleList(_unit(64, HEAD_CHANNELS) for _ in STRIDES)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Where faces might be.

        Args:
            pixels: float [B, 3, H, W], RGB in [0, 255]; H and W multiples of 32.

        Returns:
            boxes [B, N, 4] (x1, y1, x2, y2 in px) and scores [B, N] in [0, 1], one for every place of the
            three heads: N = H W (1/64 + 1/256 + 1/1024).
        """
        x = torch.relu(self.stem_unit(torch.relu(self.stem(pixels))))
        levels = []
        for index, stage in enumerate(self.stages):
            x = stage(x if index == 1 else functional.max_pool2d(x, 2))
            levels.append(x)
        found = []
        above = None
        for stride, level, lateral, head in reversed(
            list(zip(STRIDES, levels[-3:], self.lateral, self.heads, strict=True))
        ):
            if above is not None:
                level = level + functional.interpolate(above, scale_factor=2)
            above = torch.relu(lateral(level))
            found.append(_decode(head(above), stride))
        boxes, scores = zip(*reversed(found), strict=True)
        return torch.cat(boxes, 1), torch.cat(scores, 1)


def _unit(inputs: int, outputs: int) -> nn.Sequential:
    """A full convolution across channels, then one across space for every channel."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 1), nn.Conv2d(outputs, outputs, 3, padding=1, groups=outputs)
    )


def _decode(maps: Tensor, stride: int) -> tuple[Tensor, Tensor]:
    """A head's output [B, 6, h, w] -> boxes [B, h w, 4] in px and scores [B, h w]."""
    face, x, y, log_width, log_height, overlap = maps.unbind(1)
    rows = torch.arange(maps.shape[2], device=maps.device)[:, None]
    columns = torch.arange(maps.shape[3], device=maps.device)
    x, y, half_width, half_height = x + columns, y + rows, log_width.exp() / 2, log_height.exp() / 2
    corners = torch.stack([x - half_width, y - half_height, x + half_width, y + half_height], -1)
    scores = (face.sigmoid() * overlap.sigmoid()).sqrt()
    return (stride * corners).flatten(1, 2), scores.flatten(1)
