r"""How well could AUs be read by who sees the surface of a face to a fraction of a pixel, and nothing else?

A small network learns them from the labels of training renders alone: where 200 points of the surface and 68
landmarks lie in the aligned 128 px crop, hidden ones too, off by a given deviation in each direction and each
for itself. No picture is looked at, so neither light, blur nor the extractor has a part in the result. What
it reaches without any deviation is what resting faces leave to be told at all; how fast it falls says how
finely an extractor must see.

Writes geometry_limit.json and geometry_limit.md into --out. Some minutes on one CPU core:

    python -m python.evaluate.geometry_limit --data renders/train --held-out renders/test --out runs/limit
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import trange

from genet_ext.action_units import load_action_units
from genet_ext.parameters import load_parameter_space
from python.evaluate import metrics
from python.evaluate.common import markdown_table, provenance, write_json
from python.render.reader import RenderDataset, load_dataset

DEVIATIONS = (0.0, 0.25, 0.5, 1.0, 2.0)  # px
STEPS, BATCH, LR, WIDTH = 6000, 512, 2e-3, 512
NEAR_FRONTAL = np.radians(15)


def points(renders: RenderDataset) -> Tensor:
    """[N, 2 K] px: where the points of each face's surface and its landmarks lie."""
    both = np.concatenate([renders.dense, renders.landmarks], 1, dtype=np.float32)
    return torch.from_numpy(both.reshape(len(renders), -1))


def learn(renders: RenderDataset, deviation: float, steps: int) -> nn.Module:
    """A network from points [N, 2 K], ``deviation`` px off, to parameters [N, P]."""
    torch.manual_seed(0)
    inputs, theta = points(renders), torch.from_numpy(renders.theta).float()
    net = nn.Sequential(
        _Scaled(inputs.mean(0), inputs.std(0).clamp(min=1e-3)),
        nn.Linear(inputs.shape[1], WIDTH),
        nn.GELU(),
        nn.Linear(WIDTH, WIDTH),
        nn.GELU(),
        nn.Linear(WIDTH, theta.shape[1]),
    )
    mean, spread = theta.mean(0), theta.std(0).clamp(min=1e-3)
    optimizer = torch.optim.AdamW(net.parameters(), lr=LR, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LR, steps)
    for _ in trange(steps, desc=f"{deviation:g} px", unit="step", disable=None):
        rows = torch.randint(len(inputs), (BATCH,))
        seen = inputs[rows] + deviation * torch.randn(BATCH, inputs.shape[1])
        loss = (net(seen) - (theta[rows] - mean) / spread).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return nn.Sequential(net, _Scaled(-mean / spread, 1 / spread)).eval()  # back to parameters


class _Scaled(nn.Module):
    """(x - centre) / spread."""

    def __init__(self, centre: Tensor, spread: Tensor) -> None:
        super().__init__()
        self.centre, self.spread = centre, spread

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.centre) / self.spread


@torch.no_grad()
def judge(net: nn.Module, renders: RenderDataset, deviation: float) -> dict[str, Any]:
    """Figures of merit of the AUs read from the points of held-out renders: all, and near-frontal by AU."""
    space, table = load_parameter_space(), load_action_units()
    seen = points(renders)
    seen = seen + deviation * torch.randn(seen.shape, generator=torch.Generator().manual_seed(1))
    read = table.values(net(seen).clamp(space.lower, space.upper).double().numpy())
    truth = table.values(renders.theta.astype(np.float64))
    frontal = np.abs(renders.theta[:, space.index("yaw")]) < NEAR_FRONTAL
    near = metrics.au_table(table.names, truth[frontal], read[frontal])
    return {
        "all": metrics.summary(table.names, truth, read),
        "near_frontal": {"r": metrics.mean_of(near, "r"), "per_au": near},
    }


def report(trained: RenderDataset, held_out: dict[str, RenderDataset], steps: int) -> dict[str, Any]:
    """For each deviation, what :func:`judge` says of each set."""
    out = {}
    for deviation in DEVIATIONS:
        net = learn(trained, deviation, steps)
        out[f"{deviation:g} px"] = {
            name: judge(net, renders, deviation) for name, renders in held_out.items()
        }
    return out


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of training renders")
    parser.add_argument(
        "--held-out", type=Path, nargs="+", required=True, help="folders of renders to judge on"
    )
    parser.add_argument("--steps", type=int, default=STEPS, help=f"of {BATCH} faces (default {STEPS})")
    parser.add_argument("--out", type=Path, required=True, help="folder for the figures")
    arguments = parser.parse_args()
    held_out = {folder.name: load_dataset(folder) for folder in arguments.held_out}
    found = report(load_dataset(arguments.data), held_out, arguments.steps)
    header = ["points off by", *(f"{name}: r, near-frontal" for name in held_out)]
    rows = [
        [deviation, *(f"{r['all']['r']:.3f}, {r['near_frontal']['r']:.3f}" for r in by_set.values())]
        for deviation, by_set in found.items()
    ]
    table = markdown_table(header, rows)
    write_json(
        arguments.out / "geometry_limit.json",
        {"provenance": provenance("cpu", steps=arguments.steps), "points_off_by": found},
    )
    (arguments.out / "geometry_limit.md").write_text(f"# AUs from points alone\n\n{table}\n")
    print(table)


if __name__ == "__main__":
    main()
