r"""Teach one extractor what several say together.

    python -m python.train.distill_extractor --data renders/train-h renders/habits --out runs/d \
        --start-from runs/f/extractor.safetensors --config python/train/configs/distillation.toml \
        --teacher 0.4 runs/f/extractor.average-50000.safetensors \
        --teacher 0.3 runs/habits/extractor.average-600.safetensors \
        --teacher 0.3 runs/before/extractor.safetensors

Networks that learnt from different renders err in part independently: their mean reads more than each of
them, above all on faces unlike the renders, but costs the sum of them. What the mean says of a picture and of
its mirror image is a better answer to learn from than the labels, which hold what no picture shows, so that
few views suffice (Hinton et al. 2015, Distilling the knowledge in a neural network). A share of the labels
keeps the student from reading too little; landmarks are learnt from the labels alone, which are exact there.

First the teachers look at the views, once, then the student learns from those and their mirror images. Both
parts go on where they were when started again with the same --out.
"""

from __future__ import annotations

import argparse
import hashlib
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from genet_ext.extractors import Extractor
from genet_ext.faces import both_ways, mirrored_points
from genet_ext.models import read_weights
from genet_ext.parameters import load_parameter_space
from python.train.common import Trainer, export
from python.train.crops import Photographer, load_renders
from python.train.train_extractor import JITTERS, POINT_TOLERANCE, as_it_runs, outputs_of, parameter_weights

LOOKED_AT, KEPT = 128, 1024  # views at a time, and in a file
TAUGHT = 10.0  # weight of the teachers' parameters beside the landmarks: they are that much less noisy


class Views(NamedTuple):
    """V photographs and what is to be said of them."""

    pixels: Tensor  # uint8 [V, 3, 128, 128]
    taught: Tensor  # [V, P], the teachers' parameters
    true: Tensor  # [V, P], the render's
    landmarks: Tensor  # [V, 68, 2] px, the render's


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, nargs="+", required=True, help="folders of training renders")
    parser.add_argument("--out", type=Path, required=True, help="folder of views, checkpoints and weights")
    parser.add_argument("--start-from", type=Path, required=True, help="what the student is at first")
    parser.add_argument(
        "--teacher",
        nargs=2,
        action="append",
        required=True,
        metavar=("SHARE", "FILE"),
        help="weights of an extractor of any size, and their share in what is taught; give several",
    )
    parser.add_argument("--config", type=Path, required=True, help="TOML; its [distillation]")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seed", type=int, default=0, help="of views and order")
    arguments = parser.parse_args()
    config = tomllib.loads(arguments.config.read_text())["distillation"]
    torch.manual_seed(arguments.seed)
    torch.set_flush_denormal(True)  # tiny gradients would cost a CPU most of its time
    teachers = [
        (float(share), as_it_runs(read_weights(Path(file))).to(arguments.device))
        for share, file in arguments.teacher
    ]
    if abs(sum(share for share, _ in teachers) - 1) > 1e-6:
        parser.error(f"--teacher: expected shares that sum to 1, got {[share for share, _ in teachers]}")
    photographers = [
        Photographer(load_renders(folder), arguments.device, arguments.seed + number)
        for number, folder in enumerate(arguments.data)
    ]
    digests = [hashlib.sha256(Path(file).read_bytes()).hexdigest()[:12] for _, file in arguments.teacher]
    made_of = f"seed {arguments.seed}, data {[folder.name for folder in arguments.data]}, teachers " + str(
        [(share, digest) for (share, _), digest in zip(teachers, digests, strict=True)]
    )
    try:
        views = look_at_views(photographers, teachers, config["views"], arguments.out / "views", made_of)
    except ValueError as error:
        parser.error(f"--out: {error}")
    weights = parameter_weights(photographers[0].renders, load_parameter_space(), config["group_weights"])
    weights = weights.to(arguments.device)
    student = as_it_runs(read_weights(arguments.start_from))
    student = student.to(arguments.device, memory_format=torch.channels_last)
    trainer = Trainer(student, arguments.out, "extractor", config, arguments.seed)

    def losses(step: int) -> dict[str, Tensor]:
        batch = drawn(views, config["batch"], arguments.seed, step)
        batch = Views(*(column.to(arguments.device) for column in batch))
        return losses_of(student, batch, weights, config["label_share"])

    trainer.run(losses)
    export(trainer.average, arguments.out / "extractor.safetensors")


@torch.no_grad()
def look_at_views(
    photographers: Sequence[Photographer],
    teachers: Sequence[tuple[float, Extractor]],
    views: int,
    out: Path,
    made_of: str = "",
) -> Views:
    """Views of the renders, of each folder in turn, and the mean of what the teachers say of them.

    They are kept in files of ``out``, with ``made_of``; those that are there are read.

    Raises:
        ValueError: the files that are there were made of something else.
    """
    out.mkdir(parents=True, exist_ok=True)
    files = []
    for number, first in enumerate(tqdm(range(0, views, KEPT), desc="teachers look", disable=None)):
        path = out / f"views-{number:03}.safetensors"
        if not path.exists():
            seen = [
                _looked_at(photographers, teachers, at, min(LOOKED_AT, views - at))
                for at in range(first, min(first + KEPT, views), LOOKED_AT)
            ]
            columns = [torch.cat(column).contiguous() for column in zip(*seen, strict=True)]
            partial = path.with_suffix(".partial")
            save_file(dict(zip(Views._fields, columns, strict=True)), partial, {"made_of": made_of})
            partial.replace(path)
        with safe_open(path, "pt") as file:
            if file.metadata()["made_of"] != made_of:
                raise ValueError(
                    f"{path}: expected views made of {made_of}, got {file.metadata()['made_of']}: "
                    "give another --out, or delete the views"
                )
            files.append(Views(*(file.get_tensor(name) for name in Views._fields)))
    return Views(*(torch.cat(column) for column in zip(*files, strict=True)))


def _looked_at(
    photographers: Sequence[Photographer], teachers: Sequence[tuple[float, Extractor]], at: int, count: int
) -> Views:
    number = at // LOOKED_AT
    batch = photographers[number % len(photographers)].photographs(count, JITTERS, number)
    pixels, mirrored = batch["pixels"], batch["pixels"].flip(3)
    taught = torch.zeros_like(batch["theta"])
    for share, net in teachers:
        taught += share * both_ways(outputs_of(net, pixels).parameters, outputs_of(net, mirrored).parameters)
    whole = (pixels * 255).round().to(torch.uint8).contiguous()
    return Views(whole.cpu(), taught.cpu(), batch["theta"].cpu(), batch["landmarks"].cpu())


def drawn(views: Views, batch: int, seed: int, step: int) -> Views:
    """Random views for a step, half of them mirrored."""
    rng = torch.Generator().manual_seed(seed * 1_000_003 + step)
    rows = torch.randint(len(views.pixels), (batch,), generator=rng)
    seen = Views(*(column[rows] for column in views))
    mirrored = load_parameter_space().mirrored
    turned = Views(
        seen.pixels.flip(3), mirrored(seen.taught), mirrored(seen.true), mirrored_points(seen.landmarks)
    )
    turn = torch.rand(batch, generator=rng) < 0.5
    chosen = (
        torch.where(turn.view(-1, *[1] * (one.ndim - 1)), other, one)
        for one, other in zip(seen, turned, strict=True)
    )
    return Views(*chosen)


def losses_of(student: Extractor, views: Views, weights: Tensor, label_share: float) -> dict[str, Tensor]:
    """The total loss of one batch and its parts."""
    pixels = views.pixels.contiguous(memory_format=torch.channels_last).float() / 255
    said = outputs_of(student, pixels)
    wanted = views.taught.lerp(views.true, label_share)
    parameters = (weights * (said.parameters - wanted).square()).sum(1).mean()
    landmarks_px = (said.landmarks - views.landmarks).abs().mean()
    return {
        "loss": TAUGHT * parameters + landmarks_px / POINT_TOLERANCE,
        "parameters": parameters,
        "landmarks_px": landmarks_px,
    }


if __name__ == "__main__":
    main()
