"""Command line of the renderer: ``python -m python.render --help``."""

from __future__ import annotations

import argparse
import os
import sys
import time
from dataclasses import replace
from pathlib import Path

from tqdm import tqdm

from .assets import add_assets_option
from .config import SHARD_SIZE, read_config
from .dataset import DatasetSpec, prepare, render_dataset
from .sampling import SPLITS, SamplingConfig


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m python.render",
        description="Render training faces. A killed run continues; the same seed gives the same bytes.",
    )
    add_assets_option(parser)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the data set")
    parser.add_argument("--count", type=int, required=True, help="samples in the whole data set")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--split", choices=SPLITS, default="train", help="each with its own skins and identities"
    )
    parser.add_argument(
        "--workers", type=int, default=os.cpu_count() or 1, help="processes (default: all cores)"
    )
    parser.add_argument("--shard-size", type=int, help=f"samples per shard (default {SHARD_SIZE})")
    parser.add_argument(
        "--per-identity", type=int, help="consecutive samples that show the same person (default 1)"
    )
    parser.add_argument("--config", type=Path, help="TOML: shard_size, and [sampling] as in SamplingConfig")
    args = parser.parse_args(argv)
    try:
        sampling, shard_size = read_config(args.config) if args.config else (SamplingConfig(), SHARD_SIZE)
        if args.per_identity is not None:
            sampling = replace(sampling, images_per_identity=args.per_identity)
        spec = DatasetSpec(args.count, args.seed, args.split, args.shard_size or shard_size, sampling)
        todo = prepare(args.assets, args.out, spec)
    except (OSError, ValueError, TypeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    missing = sum(spec.size_of(s) for s in todo)
    started = time.perf_counter()
    with tqdm(total=spec.count, initial=spec.count - missing, unit="img", smoothing=0.05) as bar:
        for done in render_dataset(args.assets, args.out, spec, args.workers):
            bar.update(done)
    took = time.perf_counter() - started
    if missing:
        print(f"{missing} images in {took:.1f} s: {missing / took:.1f} images/s with {args.workers} workers")
    else:
        print("nothing to do: the data set is complete")
    return 0


if __name__ == "__main__":
    sys.exit(main())
