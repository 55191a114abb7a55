"""Data sets of renders: shards of plain .npy files, written by processes that never depend on one another.

    OUT/dataset.json            what was asked for; a run that continues must ask for the same
    OUT/shard-00000/images.npy  uint8 [n, 192, 192, 4], and theta.npy, landmarks.npy, ... (see FIELDS)

A shard appears under its name only when it is complete, so a run that was killed goes on where it stopped.
A sample depends on (seed, split, index) alone: the same bytes come out whatever the number of workers.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .assets import read_parameters
from .geometry import CANVAS, MARGIN
from .sampling import SPLITS, SamplingConfig

FORMAT = 1
FIELDS: dict[str, tuple[str, str]] = {
    "images": ("uint8", "[n, 192, 192, 4] straight sRGB and coverage"),
    "theta": (
        "float32",
        "[n, P] parameters in the order of parameters.csv; roll as seen in the aligned crop",
    ),
    "landmarks": ("float32", "[n, 68, 2] px of the 192-px canvas; subtract 32 for the 128-px crop"),
    "dense": ("float32", "[n, D, 2] px of the canvas: fixed vertices all over the face"),
    "dense_visible": ("uint8", "[n, D] 1 where the vertex is seen"),
    "appearance": ("float32", "[n, 16] skin, light, exposure, tint"),
    "person": ("int16", "[n] FRLL row of the texture, -1 where it is a mixture"),
    "identity": ("int32", "[n] images of one identity share this number"),
    "seed": ("uint32", "[n] each sample's own number"),
    "index": ("int64", "[n] number within the data set"),
}
SHARD_PREFIX = "shard-"


@dataclass(frozen=True)
class DatasetSpec:
    """Everything the bytes of a data set depend on, besides assets and code."""

    count: int
    seed: int
    split: str = "train"
    shard_size: int = 256
    sampling: SamplingConfig = field(default_factory=SamplingConfig)

    def __post_init__(self) -> None:
        if self.count < 1 or self.shard_size < 1:
            raise ValueError(f"count, shard_size: expected at least 1, got {self.count}, {self.shard_size}")
        if self.seed < 0:
            raise ValueError(f"seed: expected 0 or more, got {self.seed}")
        if self.split not in SPLITS:
            raise ValueError(f"split: expected one of {SPLITS}, got {self.split!r}")

    @property
    def shards(self) -> int:
        return -(-self.count // self.shard_size)

    def size_of(self, shard: int) -> int:
        return min(self.shard_size, self.count - shard * self.shard_size)


def shard_path(out: Path, shard: int) -> Path:
    return out / f"{SHARD_PREFIX}{shard:05d}"


def _describe(spec: DatasetSpec, sizes: dict[str, int]) -> dict[str, Any]:
    from .renderer import APPEARANCE

    return {
        "format": FORMAT,
        "canvas": CANVAS,
        "margin": MARGIN,
        "parameters": list(read_parameters().names),
        "appearance": list(APPEARANCE),
        "fields": {k: list(v) for k, v in FIELDS.items()},
        "assets": sizes,
        **asdict(spec),
    }


def prepare(assets: Path, out: Path, spec: DatasetSpec) -> list[int]:
    """Check or write OUT/dataset.json; the numbers of the shards still to be rendered.

    Raises FileNotFoundError for missing assets and ValueError where OUT holds another data set.
    """
    sizes = {}
    for name in ("ict_facekit.npz", "frll_albedo_train.npz"):
        if not (assets / name).is_file():
            raise FileNotFoundError(f"assets: expected {name} in {assets} (see python/prepare_assets.py)")
        sizes[name] = (assets / name).stat().st_size
    wanted = json.loads(json.dumps(_describe(spec, sizes)))
    out.mkdir(parents=True, exist_ok=True)
    described = out / "dataset.json"
    if described.exists():
        there = json.loads(described.read_text())
        differ = sorted(k for k in wanted.keys() | there.keys() if wanted.get(k) != there.get(k))
        if differ:
            raise ValueError(
                f"out: {out} holds another data set (differs in {', '.join(differ)}); "
                "continue with the same settings or choose an empty folder"
            )
    else:
        described.write_text(json.dumps(wanted, indent=1) + "\n")
    for left in out.glob(f".{SHARD_PREFIX}*"):
        shutil.rmtree(left)
    return [s for s in range(spec.shards) if not shard_path(out, s).exists()]


# One renderer per process, made by its initialiser.
_worker: dict[str, Any] = {}


def _start_worker(assets: Path, out: Path, spec: DatasetSpec) -> None:
    from .renderer import Renderer

    _worker.update(renderer=Renderer(assets, spec.split, spec.sampling), out=out, spec=spec)


def _render_shard(shard: int) -> int:
    renderer, out, spec = _worker["renderer"], _worker["out"], _worker["spec"]
    first, count = shard * spec.shard_size, spec.size_of(shard)
    renders = (renderer.render(renderer.sample(spec.seed, first + i)) for i in range(count))
    partial = out / f".{SHARD_PREFIX}{shard:05d}"
    partial.mkdir()
    columns: dict[str, list[Any]] = {name: [] for name in FIELDS}
    images = np.lib.format.open_memmap(
        partial / "images.npy", mode="w+", dtype=np.uint8, shape=(count, CANVAS, CANVAS, 4)
    )
    for i, r in enumerate(renders):
        images[i] = r.image
        for name in FIELDS:
            if name not in ("images", "index"):
                columns[name].append(getattr(r, name))
        columns["index"].append(first + i)
    images.flush()
    for name, (dtype, _) in FIELDS.items():
        if name != "images":
            np.save(partial / f"{name}.npy", np.asarray(columns[name], dtype=dtype), allow_pickle=False)
    partial.rename(shard_path(out, shard))
    return count


def render_dataset(assets: Path, out: Path, spec: DatasetSpec, workers: int = 1) -> Iterator[int]:
    """Render what is missing, yielding the number of samples of each shard as it is finished."""
    if workers < 1:
        raise ValueError(f"workers: expected at least 1, got {workers}")
    todo = prepare(assets, out, spec)
    if not todo:
        return
    # Spawned processes inherit no threads; each works alone on one core, also where there is but one: how
    # many threads share a product decides its last digit.
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
        os.environ[variable] = "1"
    context = multiprocessing.get_context("spawn")
    with context.Pool(min(workers, len(todo)), _start_worker, (assets, out, spec)) as pool:
        yield from pool.imap_unordered(_render_shard, todo)
