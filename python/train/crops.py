"""Renders as training examples: photograph-like crops and their labels, made batch by batch on the device."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from genet_ext.parameters import load_parameter_space
from python.render.reader import RenderDataset, load_dataset
from python.train import augment
from python.train.augment import CropFrames, Draw, Jitter

Example = dict[str, Tensor]

HIDDEN_POINT_WEIGHT = 0.2  # of a surface point that is not seen: it still tells of the face's shape
GREY = 128 / 255  # behind the image generator's faces


def load_renders(folder: Path) -> RenderDataset:
    """The renders of a folder. Raises ValueError if they were made for another parameter space."""
    renders, size = load_dataset(folder), load_parameter_space().size
    if renders.theta.shape[1] != size:
        raise ValueError(f"theta of {folder} has {renders.theta.shape[1]} columns; expected {size}")
    return renders


def ahead(make: Callable[[int], Example], first: int, device: torch.device) -> Iterator[Example]:
    """make(first), make(first + 1), ...: on a GPU each is made while the one before is being learnt from.

    Another thread makes it, on a stream of its own: what happens to few examples is computed for few, so that
    the thread has to wait for the GPU to count them.
    """
    if device.type != "cuda":
        yield from map(make, count(first))
        return
    stream = torch.cuda.Stream(device)

    def made(number: int) -> tuple[Example, torch.cuda.Event]:
        with torch.cuda.stream(stream):
            return make(number), stream.record_event()

    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(made, first)
        for number in count(first + 1):
            example, ready = coming.result()
            coming = pool.submit(made, number)
            current = torch.cuda.current_stream(device)
            current.wait_event(ready)
            for values in example.values():
                values.record_stream(current)  # its memory may not be given to the next while it is in use
            yield example


class Photographer:
    """Batches of examples of some renders, on a device.

    An example is a row of ``pixels`` float [B, 3, 128, 128] in [0, 1] (channels last in memory), ``theta``
    [B, P], ``landmarks`` [B, 68, 2] and ``dense`` [B, K, 2] in crop pixels, ``dense_weight`` [B, K] and
    ``appearance`` [B, A]. A batch depends on the seed, its number and the kind of device alone.

    On a GPU all images are copied there once (147 kB each); elsewhere they stay on disk. ``take_up`` adds
    those that were rendered since.
    """

    def __init__(self, renders: RenderDataset, device: str | torch.device, seed: int) -> None:
        self.device, self.seed = torch.device(device), seed
        self._images: Tensor | None = None
        if self.device.type == "cuda":
            shape = (renders.meta["count"], *renders.image_shards[0].shape[1:])
            self._images = torch.empty(shape, dtype=torch.uint8, device=self.device)
        self._use(renders, first_shard=0)

    def take_up(self) -> None:
        """See whether more of the same renders are there by now, and use them from now on."""
        if self.renders.complete:
            return
        renders = load_renders(self.renders.folder)
        if len(renders) > len(self.renders):
            self._use(renders, first_shard=len(self.renders.image_shards))

    def _use(self, renders: RenderDataset, first_shard: int) -> None:
        """Labels of all renders; on a GPU the images of those from ``first_shard`` on."""
        at = sum(len(shard) for shard in renders.image_shards[:first_shard])
        if self._images is not None:
            for shard in renders.image_shards[first_shard:]:
                self._images[at : at + len(shard)] = torch.from_numpy(np.array(shard))
                at += len(shard)
        self.renders = renders
        visible = renders.dense_visible.astype(np.float32)
        labels = {
            "theta": renders.theta,
            "landmarks": renders.landmarks,
            "dense": renders.dense,
            "dense_weight": HIDDEN_POINT_WEIGHT + (1 - HIDDEN_POINT_WEIGHT) * visible,
            "appearance": renders.appearance,
        }
        self._labels = {
            name: torch.from_numpy(np.asarray(value, np.float32)).to(self.device)
            for name, value in labels.items()
        }

    def photographs(self, batch: int, jitters: list[tuple[float, Jitter]], number: int) -> Example:
        """Batch ``number`` of random renders as photographs (see python.train.augment)."""
        generator = self._generator(number)
        rows = self._random_rows(batch, generator)
        return self._photographs(rows, jitters, generator)

    def in_order(self, batch: int, jitters: list[tuple[float, Jitter]], views: int) -> Iterator[Example]:
        """Every render ``views`` times as a photograph, in order: the last batch may be smaller."""
        order = torch.arange(views * len(self.renders), device=self.device) % len(self.renders)
        for number, rows in enumerate(order.split(batch)):
            yield self._photographs(rows, jitters, self._generator(number))

    def clean(self, batch: int, number: int) -> Example:
        """Batch ``number`` of random renders, aligned, over grey: what the image generator learns."""
        generator = self._generator(number)
        rows = self._random_rows(batch, generator)
        frames = augment.crop_frames([(1.0, augment.ALIGNED)], Draw(batch, generator))
        return self._example(rows, frames, augment.composite(frames.cut(self._load(rows)), GREY))

    def _generator(self, number: int) -> torch.Generator:
        return torch.Generator(self.device).manual_seed(self.seed * 1_000_003 + number)

    def _random_rows(self, batch: int, generator: torch.Generator) -> Tensor:
        return torch.randint(len(self.renders), (batch,), generator=generator, device=self.device)

    def _photographs(
        self, rows: Tensor, jitters: list[tuple[float, Jitter]], generator: torch.Generator
    ) -> Example:
        draw = Draw(len(rows), generator)
        frames = augment.crop_frames(jitters, draw)
        faces = frames.cut(self._load(rows))
        pixels = augment.photographs(faces, faces.roll(1, 0), draw)
        return self._example(rows, frames, pixels)

    def _load(self, rows: Tensor) -> Tensor:
        """RGB and coverage [B, 4, 192, 192] in [0, 1]."""
        if self._images is None:
            images = torch.from_numpy(self.renders.images(rows.numpy()))
        else:
            images = self._images[rows]
        return images.permute(0, 3, 1, 2).float() / 255

    def _example(self, rows: Tensor, frames: CropFrames, pixels: Tensor) -> Example:
        """Labels as they are in the crops."""
        out = {name: values[rows] for name, values in self._labels.items()}
        out["theta"] = frames.theta(out["theta"])
        for name in ("landmarks", "dense"):
            out[name] = frames.points(out[name])
        return out | {"pixels": pixels.contiguous(memory_format=torch.channels_last)}
