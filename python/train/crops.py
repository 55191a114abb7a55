"""Renders as training examples: crops and their labels, made by workers while the network trains."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset

from genet_ext.parameters import load_parameter_space
from python.render.reader import RenderDataset, load_dataset
from python.train import augment
from python.train.augment import Jitter

Example = dict[str, Tensor]

HIDDEN_POINT_WEIGHT = 0.2  # of a surface point that is not seen: it still tells of the face's shape


def load_renders(folder: Path) -> RenderDataset:
    """The renders of a folder. Raises ValueError if they were made for another parameter space."""
    renders, size = load_dataset(folder), load_parameter_space().size
    if renders.theta.shape[1] != size:
        raise ValueError(f"theta of {folder} has {renders.theta.shape[1]} columns; expected {size}")
    return renders


class Photographs(Dataset[Example]):
    """Photograph-like crops of random renders: example k depends on (seed, k) alone.

    Each example holds ``pixels`` uint8 [3, 128, 128], ``theta`` [P], ``landmarks`` [68, 2] and ``dense``
    [K, 2] in crop pixels, ``dense_weight`` [K], ``appearance`` [A].

    Args:
        renders: where they come from.
        count: how many examples there are.
        jitters: (share, how far from alignment) pairs; shares add up to 1.
        seed: of everything drawn.
        in_order: example k shows render k modulo their number, instead of a random one.
    """

    def __init__(
        self,
        renders: RenderDataset,
        count: int,
        jitters: list[tuple[float, Jitter]],
        seed: int,
        in_order: bool = False,
    ) -> None:
        self.renders, self.count, self.jitters, self.seed = renders, count, jitters, seed
        self.in_order = in_order

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, k: int) -> Example:
        rng = np.random.default_rng([self.seed, k])
        count = len(self.renders)
        row, other = (int(value) for value in rng.integers(count, size=2))
        row = k % count if self.in_order else row
        image, background = self.renders.images([row, other])
        choice = rng.choice(len(self.jitters), p=[share for share, _ in self.jitters])
        frame = augment.crop_frame(self.jitters[choice][1], rng)
        return example(self.renders, row, frame, augment.photograph(frame.cut(image), background, rng))


class CleanRenders(Dataset[Example]):
    """Aligned renders over grey, for the image generator: example k depends on (seed, k) alone."""

    def __init__(self, renders: RenderDataset, count: int, seed: int) -> None:
        self.renders, self.count, self.seed = renders, count, seed

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, k: int) -> Example:
        rng = np.random.default_rng([self.seed, k])
        row = int(rng.integers(len(self.renders)))
        frame = augment.crop_frame(augment.ALIGNED, rng)
        pixels = augment.composite(frame.cut(self.renders.images([row])[0]), 128)
        return example(self.renders, row, frame, pixels)


def example(renders: RenderDataset, row: int, frame: augment.CropFrame, pixels: augment.Bytes) -> Example:
    """One render's labels as they are in the crop."""
    visible = renders.dense_visible[row].astype(np.float32)
    values = {
        "theta": frame.theta(renders.theta[row]),
        "landmarks": frame.points(renders.landmarks[row]),
        "dense": frame.points(renders.dense[row]),
        "dense_weight": HIDDEN_POINT_WEIGHT + (1 - HIDDEN_POINT_WEIGHT) * visible,
        "appearance": renders.appearance[row],
    }
    out = {name: torch.from_numpy(np.asarray(value, np.float32)) for name, value in values.items()}
    return out | {"pixels": torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))}


def batches(
    examples: Dataset[Example], batch: int, device: str, workers: int, first: int = 0
) -> Iterator[Example]:
    """Batches from number ``first`` on, on the device, pixels as float [B, 3, 128, 128] in [0, 1]."""
    rest = Subset(examples, range(first * batch, len(examples)))  # type: ignore[arg-type]
    loader = DataLoader(
        rest,
        batch,
        num_workers=workers,
        worker_init_fn=_one_thread,
        pin_memory=device != "cpu",
        prefetch_factor=4 if workers else None,
    )
    for values in loader:
        out = {name: value.to(device, non_blocking=True) for name, value in values.items()}
        pixels = out["pixels"].to(memory_format=torch.channels_last).float() / 255
        yield out | {"pixels": pixels}


def _one_thread(worker: int) -> None:
    cv2.setNumThreads(1)
