"""Reading data sets: memory-mapped shards behind one index."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import count, takewhile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .dataset import FIELDS, FORMAT, shard_path

Array = NDArray[Any]


class RenderDataset:
    """Complete shards of one folder, up to the first that is missing: more may come, none will move.

    Labels are in memory, images stay on disk until they are asked for.

    >>> data = load_dataset(folder)
    >>> data.theta.shape, data.images([0, 5, 9]).shape
    ((100000, 96), (3, 192, 192, 4))
    """

    theta: Array
    landmarks: Array
    dense: Array
    dense_visible: Array
    appearance: Array
    person: Array
    identity: Array
    seed: Array
    index: Array

    def __init__(self, folder: Path) -> None:
        described = folder / "dataset.json"
        if not described.is_file():
            raise FileNotFoundError(f"folder: expected dataset.json in {folder}")
        self.meta: dict[str, Any] = json.loads(described.read_text())
        if self.meta["format"] != FORMAT:
            raise ValueError(f"{described}: expected format {FORMAT}, got {self.meta['format']}")
        shards = list(takewhile(Path.is_dir, (shard_path(folder, number) for number in count())))
        if not shards:
            raise FileNotFoundError(f"folder: expected {shard_path(folder, 0).name} in {folder}")
        self.folder = folder
        self._maps = [np.load(s / "images.npy", mmap_mode="r", allow_pickle=False) for s in shards]
        self._starts = np.cumsum([0, *(len(m) for m in self._maps)])
        for name in FIELDS:
            if name != "images":
                parts = [np.load(s / f"{name}.npy", allow_pickle=False) for s in shards]
                setattr(self, name, np.concatenate(parts))

    def __len__(self) -> int:
        return int(self._starts[-1])

    @property
    def complete(self) -> bool:
        return len(self) == int(self.meta["count"])

    @property
    def image_shards(self) -> list[Array]:
        """The memory maps [n, 192, 192, 4] uint8, in order: for readers that want whole shards."""
        return list(self._maps)

    def images(self, indices: int | slice | Sequence[int] | Array) -> Array:
        """Copies of images [k, 192, 192, 4] uint8 at positions of this data set, in the order asked for."""
        wanted = np.atleast_1d(np.arange(len(self))[indices])
        out = np.empty((len(wanted), *self._maps[0].shape[1:]), np.uint8)
        shard = np.searchsorted(self._starts, wanted, side="right") - 1
        for s in np.unique(shard):
            # In ascending order the disk is read forwards.
            at = np.flatnonzero(shard == s)
            at = at[np.argsort(wanted[at], kind="stable")]
            out[at] = self._maps[s][wanted[at] - self._starts[s]]
        return out


def load_dataset(folder: str | Path) -> RenderDataset:
    """Raises FileNotFoundError where the folder holds no data set or no complete shard."""
    return RenderDataset(Path(folder))
