r"""What stands between the AUs of renders and what is read of them: the faces, the pixels or the camera?

- A small network learns AUs from training renders without a look at them: from where 200 points of the
  surface and 68 landmarks lie in the aligned crop, hidden ones too, off by a given deviation in each
  direction and each for itself. Without any deviation it reaches what resting faces leave to be told at all;
  how fast it falls says how finely somebody must see.
- The same from the landmarks alone: a picture shows where lids, brows and lips are, but not where a point of
  smooth skin has gone.
- The extractor reads the same faces, perfectly aligned, over grey, without anything that a camera does.
- What it says of them, features and parameters, is read anew, linearly, by what the training renders teach of
  it: so much of the AUs is in it for somebody who knows how these faces move.
- What ``fit`` makes of them after a camera and a loose box is told by python.evaluate.eval_recovery.

Sets of the second face model (python.evaluate.second_model), where the same AUs move a face in other ways,
can be learnt from and be held out, too; they have landmarks only.

Writes limits.json and limits.md into --out. Twenty minutes on one CPU core:

    python -m python.evaluate.eval_limits --data renders/train --held-out renders/test --out runs/limits
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm, trange

from genet_ext.action_units import load_action_units
from genet_ext.extractors import Extractor
from genet_ext.extractors.face_cnn import CROP_SIZE
from genet_ext.faces import both_ways, look
from genet_ext.models import load_models
from genet_ext.parameters import load_parameter_space
from python.evaluate import metrics
from python.evaluate.common import markdown_table, provenance, write_json
from python.evaluate.metrics import Array
from python.evaluate.pictures import over_grey, true_aus
from python.render.geometry import MARGIN
from python.render.reader import RenderDataset, load_dataset

DEVIATIONS = (0.0, 0.25, 0.5, 1.0, 2.0)  # px
STEPS, BATCH, LR, WIDTH = 6000, 512, 2e-3, 512
CHUNK = 64  # pictures read at a time
LOOKED_AT = 4096  # training renders that the extractor reads at most
RIDGE = 0.1  # of inputs of unit variance
NEAR_FRONTAL = np.radians(15)


def points(renders: RenderDataset, surface: bool = True) -> Tensor:
    """[N, 2 K] px: where each face's landmarks lie, and the points of its surface unless told otherwise."""
    found = [renders.dense, renders.landmarks] if surface else [renders.landmarks]
    return torch.from_numpy(np.concatenate(found, 1, dtype=np.float32).reshape(len(renders), -1))


def labels(renders: RenderDataset) -> Tensor:
    """What is learnt: parameters [N, P], since who it is helps to tell what moves; else AUs [N, A]."""
    known = np.isfinite(renders.theta).all()
    return torch.from_numpy(renders.theta if known else true_aus(renders)).float().nan_to_num()


def aus_of(read: Tensor) -> Array:
    """The AUs [N, A] of labels that were read."""
    space = load_parameter_space()
    if read.shape[1] != space.size:
        return read.clamp(0, 1).double().numpy()
    return load_action_units().values(read.clamp(space.lower, space.upper).double().numpy())


def learn(inputs: Tensor, wanted: Tensor, deviation: float, steps: int) -> Callable[[Tensor], Tensor]:
    """A network from points [N, 2 K], ``deviation`` px off, to what is ``wanted`` [N, D] of each."""
    torch.manual_seed(0)
    centre, scale = inputs.mean(0), inputs.std(0).clamp(min=1e-3)
    mean, spread = wanted.mean(0), wanted.std(0).clamp(min=1e-3)
    net = nn.Sequential(
        nn.Linear(inputs.shape[1], WIDTH),
        nn.GELU(),
        nn.Linear(WIDTH, WIDTH),
        nn.GELU(),
        nn.Linear(WIDTH, wanted.shape[1]),
    )
    optimizer = torch.optim.AdamW(net.parameters(), lr=LR, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LR, steps)
    for _ in trange(steps, desc=f"{deviation:g} px", unit="step", disable=None):
        rows = torch.randint(len(inputs), (BATCH,))
        seen = inputs[rows] + deviation * torch.randn(BATCH, inputs.shape[1])
        loss = (net((seen - centre) / scale) - (wanted[rows] - mean) / spread).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return lambda seen: net((seen - centre) / scale) * spread + mean


@torch.no_grad()
def from_points(net: Callable[[Tensor], Tensor], exact: Tensor, deviation: float) -> Array:
    """AUs [N, A] read from the points [N, 2 K] of held-out renders."""
    noise = torch.randn(exact.shape, generator=torch.Generator().manual_seed(1))
    return aus_of(net(exact + deviation * noise))


@torch.no_grad()
def from_pixels(
    extractor: Extractor, renders: RenderDataset, limit: int | None = None
) -> tuple[Tensor, Tensor]:
    """Features [N, D] of the first aligned crops; parameters [N, P] from them and their mirror images."""
    inside = slice(MARGIN, MARGIN + CROP_SIZE)
    features, parameters = [], []
    for rows in tqdm(torch.arange(len(renders))[:limit].split(CHUNK), desc="extract", disable=None):
        crops = np.stack([over_grey(rgba)[inside, inside] for rgba in renders.images(rows.numpy())])
        pixels = torch.from_numpy(crops).permute(0, 3, 1, 2)
        seen = look(extractor, pixels)
        features.append(seen.features)
        parameters.append(both_ways(seen.parameters, look(extractor, pixels.flip(3)).parameters))
    return torch.cat(features), torch.cat(parameters)


def learn_linearly(inputs: Tensor, wanted: Tensor) -> Callable[[Tensor], Tensor]:
    """The ridge regression of what is ``wanted`` [N, D] on inputs [N, K]."""
    centre, scale = inputs.mean(0), inputs.std(0).clamp(min=1e-3)
    x, mean = ((inputs - centre) / scale).double(), wanted.mean(0)
    damped = x.T @ x + RIDGE * len(x) * torch.eye(x.shape[1], dtype=torch.float64)
    weights = torch.linalg.solve(damped, x.T @ (wanted - mean).double()).float()
    return lambda seen: (seen - centre) / scale @ weights + mean


def judge(read: Array, renders: RenderDataset) -> dict[str, Any]:
    """Figures of merit of the AUs [N, A] that were read of renders: all, and near-frontal by AU."""
    names, truth = load_action_units().names, true_aus(renders)
    frontal = np.abs(renders.theta[:, load_parameter_space().index("yaw")]) < NEAR_FRONTAL
    near = metrics.au_table(names, truth[frontal], read[frontal])
    return {
        "all": metrics.summary(names, truth, read),
        "near_frontal": {"r": metrics.mean_of(near, "r"), "per_au": near},
    }


def report(
    trained: RenderDataset, held_out: dict[str, RenderDataset], steps: int, extractor: Extractor
) -> dict[str, Any]:
    """For each way to look, what :func:`judge` says of each set that can be looked at so."""
    out: dict[str, Any] = {}
    wanted = labels(trained)
    for what, surface in (("points", True), ("landmarks", False)):
        inputs = points(trained, surface)
        able = {
            name: renders
            for name, renders in held_out.items()
            if not surface or 0 < renders.dense.shape[1] == trained.dense.shape[1]
        }
        for deviation in DEVIATIONS if able else ():
            net = learn(inputs, wanted, deviation, steps)
            out[f"{what} off by {deviation:g} px"] = {
                name: judge(from_points(net, points(renders, surface), deviation), renders)
                for name, renders in able.items()
            }
    seen = {name: from_pixels(extractor, renders) for name, renders in held_out.items()}
    out["extractor, no camera"] = {
        name: judge(aus_of(parameters), held_out[name]) for name, (_, parameters) in seen.items()
    }
    inputs = torch.cat(from_pixels(extractor, trained, LOOKED_AT), 1)
    anew = learn_linearly(inputs, wanted[: len(inputs)])
    out["extractor, read anew"] = {
        name: judge(aus_of(anew(torch.cat(both, 1))), held_out[name]) for name, both in seen.items()
    }
    return out


def _cell(judged: dict[str, Any] | None) -> str:
    return f"{judged['all']['r']:.3f}, {judged['near_frontal']['r']:.3f}" if judged else "-"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of renders to learn from")
    parser.add_argument(
        "--held-out", type=Path, nargs="+", required=True, help="folders of renders to judge on"
    )
    parser.add_argument("--steps", type=int, default=STEPS, help=f"of {BATCH} faces (default {STEPS})")
    parser.add_argument("--weights", type=Path, help="folder of weights (default: the shipped ones)")
    parser.add_argument("--out", type=Path, required=True, help="folder for the figures")
    arguments = parser.parse_args()
    held_out = {folder.name: load_dataset(folder) for folder in arguments.held_out}
    extractor = load_models("cpu", arguments.weights).extractor
    found = report(load_dataset(arguments.data), held_out, arguments.steps, extractor)
    rows = [[way, *(_cell(by_set.get(name)) for name in held_out)] for way, by_set in found.items()]
    table = markdown_table(["what is seen", *(f"{name}: r, near-frontal" for name in held_out)], rows)
    about = provenance("cpu", arguments.weights, steps=arguments.steps)
    write_json(arguments.out / "limits.json", {"provenance": about, **found})
    (arguments.out / "limits.md").write_text(f"# What stands between the AUs and what is read\n\n{table}\n")
    print(table)


if __name__ == "__main__":
    main()
