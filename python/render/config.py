"""The renderer's settings from a file."""

from __future__ import annotations

import tomllib
from dataclasses import fields
from pathlib import Path

from .sampling import SamplingConfig

SHARD_SIZE = 256


def read_config(path: Path) -> tuple[SamplingConfig, int]:
    """Sampling, and samples per shard, of a TOML file: `shard_size`, and [sampling] as in SamplingConfig.

    Raises ValueError naming the settings that do not exist.
    """
    with path.open("rb") as f:
        values = tomllib.load(f)
    known = {f.name for f in fields(SamplingConfig)}
    sampling = values.get("sampling", {})
    unknown = sorted((values.keys() - {"sampling", "shard_size"}) | (sampling.keys() - known))
    if unknown:
        raise ValueError(f"{path}: unknown settings {unknown}; [sampling] knows {sorted(known)}")
    chosen = {name: tuple(value) if isinstance(value, list) else value for name, value in sampling.items()}
    return SamplingConfig(**chosen), values.get("shard_size", SHARD_SIZE)
