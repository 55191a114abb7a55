r"""Average what an extractor was at two times of its training.

    python -m python.train.average_weights --first runs/f/extractor.average-24000.safetensors \
        --second runs/f/extractor.average-50000.safetensors --share 0.5 --data renders/train --out runs/ship

The last steps, at small learning rates, fit a network to its renders more closely than faces unlike them
bear. Half of the way keeps most of what they bring, and is better on those than either end (Izmailov et al.
2018, Averaging weights leads to wider optima; Wortsman et al. 2022, Robust fine-tuning of zero-shot models).
The share is chosen on validation renders. The norms' statistics are averaged, too: they are then a little too
wide, which shrinks what is read, and estimated anew they cost more false AUs than they bring. Landmarks must
not shrink: their head is linear, and fitted anew.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor

from genet_ext.extractors import Extractor
from genet_ext.extractors.face_cnn import POINT_SCALE
from genet_ext.models import read_weights
from python.train.common import export
from python.train.crops import Photographer, load_renders
from python.train.train_extractor import JITTERS, as_it_runs

BATCH, SEED = 128, 77  # of the photographs that the landmark head is fitted to


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--first", type=Path, required=True, metavar="FILE", help="an average of a run")
    parser.add_argument("--second", type=Path, required=True, metavar="FILE", help="a later one")
    parser.add_argument("--share", type=float, required=True, help="of the second, 0 to 1")
    parser.add_argument("--data", type=Path, required=True, help="folder of training renders")
    parser.add_argument("--batches", type=int, default=64, help=f"of {BATCH} photographs, for the landmarks")
    parser.add_argument("--out", type=Path, required=True, help="folder to write extractor.safetensors to")
    arguments = parser.parse_args()
    if not 0 <= arguments.share <= 1:
        parser.error(f"--share: expected a number from 0 to 1, got {arguments.share}")
    first, second = (read_weights(file) for file in (arguments.first, arguments.second))
    unlike = {k for k in first.keys() | second.keys() if k not in first or k not in second}
    unlike |= {k for k in first.keys() & second.keys() if first[k].shape != second[k].shape}
    if unlike:
        parser.error(f"--second: expected the tensors of --first, got others: {', '.join(sorted(unlike))}")
    net = averaged(first, second, arguments.share)
    photographer = Photographer(load_renders(arguments.data), "cpu", SEED)
    fit_landmark_head(net, photographer, arguments.batches)
    arguments.out.mkdir(parents=True, exist_ok=True)
    export(net.state_dict(), arguments.out / "extractor.safetensors")


def averaged(first: dict[str, Tensor], second: dict[str, Tensor], share: float) -> Extractor:
    """The extractor between two in training, as it runs."""
    return as_it_runs({key: value.lerp(second[key], share) for key, value in first.items()})


@torch.no_grad()
def fit_landmark_head(net: Extractor, photographer: Photographer, batches: int) -> None:
    """Least squares from the features to the landmarks, in place."""
    features, landmarks = [], []
    for number in range(batches):
        batch = photographer.photographs(BATCH, JITTERS, number)
        features.append(net.features(batch["pixels"]).double())
        landmarks.append(batch["landmarks"].flatten(1).double() / POINT_SCALE)
    inputs = torch.nn.functional.pad(torch.cat(features), (0, 1), value=1.0)
    solution = torch.linalg.lstsq(inputs, torch.cat(landmarks)).solution
    net.points.weight.copy_(solution[:-1].T)
    net.points.bias.copy_(solution[-1])


if __name__ == "__main__":
    main()
