r"""Average two extractors, the second one trained further from the first.

    python -m python.train.average_weights --first runs/f2 --second runs/f3 --share 0.75 --out runs/f

What training on other faces teaches and what it makes a network forget lie along the line between the two:
part of the way keeps most of both (Wortsman et al. 2022, Robust fine-tuning of zero-shot models). The share
is chosen on validation renders.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from genet_ext.models import read_weights
from python.train.common import export

NAME = "extractor.safetensors"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--first", type=Path, required=True, help=f"folder with {NAME}")
    parser.add_argument(
        "--second", type=Path, required=True, help=f"folder with {NAME}, trained from the first"
    )
    parser.add_argument("--share", type=float, required=True, help="of the second, 0 to 1")
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    arguments = parser.parse_args()
    if not 0 <= arguments.share <= 1:
        parser.error(f"--share: expected a number from 0 to 1, got {arguments.share}")
    first, second = (read_weights(folder / NAME) for folder in (arguments.first, arguments.second))
    unlike = {k for k in first.keys() | second.keys() if k not in first or k not in second}
    unlike |= {k for k in first.keys() & second.keys() if first[k].shape != second[k].shape}
    if unlike:
        parser.error(f"--second: expected the tensors of --first, got others: {', '.join(sorted(unlike))}")
    arguments.out.mkdir(parents=True, exist_ok=True)
    export({key: first[key].lerp(second[key], arguments.share) for key in first}, arguments.out / NAME)


if __name__ == "__main__":
    main()
