"""Folders in python/render's format, of made-up faces."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from python.render.dataset import FORMAT


def save_renders(folder: Path, appearance: Sequence[str], fields: Mapping[str, np.ndarray]) -> Path:
    """One shard of renders: other people of no particular skin, no surface points, unless ``fields`` say so.

    Args:
        folder: where to; it is made.
        appearance: names of the appearance coefficients.
        fields: arrays [n, ...] by name: images, theta, landmarks, appearance at least.
    """
    count = len(fields["theta"])
    rest = {
        "dense": np.zeros((count, 0, 2), np.float32),
        "dense_visible": np.zeros((count, 0), np.uint8),
        "person": np.full(count, -1, np.int16),
        "identity": np.arange(count, dtype=np.int32),
        "seed": np.arange(count, dtype=np.uint32),
        "index": np.arange(count, dtype=np.int64),
    }
    shard = folder / "shard-00000"
    shard.mkdir(parents=True)
    meta = {"format": FORMAT, "count": count, "appearance": list(appearance)}
    (folder / "dataset.json").write_text(json.dumps(meta))
    for name, array in (rest | dict(fields)).items():
        np.save(shard / f"{name}.npy", array)
    return folder
