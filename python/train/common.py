"""What the training scripts share: configuration, data on the device, checkpoints and the log."""

from __future__ import annotations

import argparse
import json
import math
import time
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from python.provenance import commit, processor
from python.render.reader import RenderDataset

CONFIGS = Path(__file__).parent / "configs"


def parse_arguments(description: str, section: str) -> tuple[argparse.Namespace, dict[str, Any]]:
    """The command line of the scripts that train on crops, and its section of the TOML configuration."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of training renders (python/render)")
    parser.add_argument("--out", type=Path, required=True, help="folder of checkpoints, log and weights")
    parser.add_argument(
        "--config", type=Path, default=CONFIGS / "full.toml", help=f"TOML file; its [{section}] is used"
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seed", type=int, default=0, help="seed of weights, order and augmentation")
    parser.add_argument(
        "--start-from", type=Path, help="weights that an earlier run wrote (.safetensors), to train further"
    )
    parser.add_argument(
        "--compile", action="store_true", help="hand the network to torch.compile: pays on a GPU"
    )
    parser.add_argument(
        "--budget",
        type=float,
        default=0,
        help="seconds; the schedule is hurried so that it ends by then (0: takes all of the config's steps)",
    )
    arguments = parser.parse_args()
    config = tomllib.loads(arguments.config.read_text())[section]
    arguments.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(arguments.seed)
    torch.backends.cudnn.benchmark = True
    torch.set_flush_denormal(True)  # tiny gradients would cost a CPU most of its time
    return arguments, config


def held_out_parser(description: str) -> argparse.ArgumentParser:
    """The options of the scripts that measure on held-out renders, which read like their documentation."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--held-out", type=Path, required=True, help="folder of renders with other skins")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seed", type=int, default=0, help="of boxes, backgrounds, blur, noise, ...")
    return parser


def half_precision(device: torch.device) -> torch.autocast:
    """bfloat16 where the device computes with it; a CPU without it would emulate it, ten times as slow."""
    native = device.type != "cpu" or torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return torch.autocast(device.type, torch.bfloat16, enabled=native)


class Trainer:
    """Optimiser, one-cycle schedule, weight average, log and checkpoints of one network.

    A run that was killed goes on from its last checkpoint when started again with the same ``out`` folder.
    Batches depend on (seed, step) alone, so that a resumed run sees the same ones. The parts of the network
    that the configuration calls ``frozen`` are not trained: nothing needs to be carried back through them.
    """

    def __init__(
        self,
        network: nn.Module,
        out: Path,
        name: str,
        config: dict[str, Any],
        seed: int,
        budget: float = 0,
    ) -> None:
        for part in config.get("frozen", []):
            network.get_submodule(part).requires_grad_(False)
        self.network = network
        self.config = config
        self.steps: int = config["steps"]
        self.seed = seed
        self.step = 0
        self.lr: float = config["lr"]
        self.warmup: float = config.get("warmup", 0.1)
        self.budget = budget
        self.started = time.monotonic()  # as if all had been done in one go, see _load
        self.path = out / f"{name}.checkpoint.safetensors"
        self.log_path = out / f"{name}.log.jsonl"
        self.optimizer = torch.optim.AdamW(
            network.parameters(), lr=self.lr, weight_decay=config["weight_decay"], fused=True
        )
        self.average = {key: value.clone() for key, value in network.state_dict().items()}
        self.decay: float = config.get("average_decay", 0.999)
        if self.path.exists():
            self._load()

    def run(self, losses_of: Callable[[int], dict[str, Tensor]]) -> None:
        """Train until the schedule has ended.

        Args:
            losses_of: of the number of a step, its ``loss`` and what else is to be logged. How often the
                configuration's ``log_every``, ``save_every`` and ``keep_every`` say; in the end all is saved.
        """
        while not self.done:
            losses = losses_of(self.step)
            self.update(losses["loss"])
            if self._is_due("log_every"):
                self.log(**losses)
            if self._is_due("save_every"):
                self.save()
            if self._is_due("keep_every"):
                self.keep()
        self.save()

    def _is_due(self, what: str) -> bool:
        return what in self.config and self.step % self.config[what] == 0

    def update(self, loss: Tensor) -> None:
        """One optimisation step on ``loss`` and one step of the weight average."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr * one_cycle(min(self.progress, 1.0), self.warmup)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), 5.0)
        self.optimizer.step()
        self.step += 1
        decay = min(self.decay, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            state = self.network.state_dict()
            floats = [key for key, value in state.items() if value.is_floating_point()]
            torch._foreach_lerp_([self.average[k] for k in floats], [state[k] for k in floats], 1 - decay)
            for key in state.keys() - floats:
                self.average[key].copy_(state[key])

    @property
    def spent(self) -> float:
        """Seconds of training, those of runs that this one goes on from included."""
        return time.monotonic() - self.started

    @property
    def progress(self) -> float:
        """How far the schedule is, by steps or by the budget's time, whichever is ahead; it ends at 1."""
        return max(self.step / self.steps, self.spent / self.budget if self.budget else 0.0)

    @property
    def done(self) -> bool:
        """Whether the schedule has ended."""
        return self.progress >= 1

    def log(self, **values: Tensor) -> None:
        """Print one line and append it to the log."""
        row = {"step": self.step, "seconds": round(self.spent, 1)} | {
            key: round(float(value.detach()), 5) for key, value in values.items()
        }
        print(" ".join(f"{key}={value}" for key, value in row.items()), flush=True)
        with self.log_path.open("a") as file:
            file.write(json.dumps(row) + "\n")

    def save(self) -> None:
        """Write the checkpoint: to a second name first, so that an interruption leaves the old one whole."""
        tensors = {f"network.{k}": v for k, v in self.network.state_dict().items()}
        tensors |= {f"average.{k}": v for k, v in self.average.items()}
        for index, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{k}": v for k, v in state.items()}
        partial = self.path.with_suffix(".partial")
        tensors = {k: v.contiguous().clone() for k, v in tensors.items()}
        save_file(tensors, partial, metadata={"step": str(self.step), "spent": str(self.spent)})
        partial.replace(self.path)

    def keep(self) -> None:
        """Write the weight average as it is now beside the checkpoint; no later one replaces it."""
        name = self.path.name.replace("checkpoint", f"average-{self.step}")
        export(self.average, self.path.with_name(name))

    def _load(self) -> None:
        with safe_open(self.path, "pt") as file:
            self.step = int(file.metadata()["step"])
            self.started -= float(file.metadata()["spent"])
            tensors = {key: file.get_tensor(key) for key in file.keys()}
        self.network.load_state_dict(_part(tensors, "network."))
        device = next(self.network.parameters()).device
        self.average = {key: value.to(device) for key, value in _part(tensors, "average.").items()}
        state = self.optimizer.state_dict()
        for key, value in _part(tensors, "optimizer.").items():
            index, name = key.split(".", 1)
            state["state"].setdefault(int(index), {})[name] = value
        self.optimizer.load_state_dict(state)
        print(f"resumed from step {self.step} of {self.steps}", flush=True)


def one_cycle(progress: float, warmup: float) -> float:
    """Share of the peak learning rate: a linear rise over ``warmup``, then a cosine down to nothing."""
    if progress < warmup:
        return 0.04 + 0.96 * progress / warmup
    return 0.5 * (1 + math.cos(math.pi * (progress - warmup) / (1 - warmup)))


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key[len(prefix) :]: value for key, value in tensors.items() if key.startswith(prefix)}


def export(state: dict[str, Tensor], path: Path, half: bool = True) -> None:
    """Write weights as safetensors, in half precision unless told otherwise."""
    out = {}
    for key, value in state.items():
        value = value.detach().cpu().contiguous()
        out[key] = value.half() if half and value.is_floating_point() else value
    save_file(out, path)
    print(f"wrote {path.name}: {path.stat().st_size / 1e6:.2f} MB", flush=True)


def describe(renders: RenderDataset, trainer: Trainer, config: dict[str, Any]) -> None:
    """Print what this run is made of, for the log and the model card."""
    device = next(trainer.network.parameters()).device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else processor()
    print(
        f"{len(renders)} renders, {trainer.steps} steps of {config['batch']}, seed {trainer.seed}", flush=True
    )
    print(f"torch {torch.__version__} on {name}, commit {commit()}", flush=True)
