r"""Train F's close look: what eyes and mouth, seen twice as large, tell that the whole face does not.

    python -m python.render --out renders/fine --count 32768 --seed 7 --zoom 2
    python -m python.train.train_close_look --data renders/fine --start-from runs/f/extractor.safetensors \
        --out runs/close --config python/train/configs/close_look.toml

The rest of F stays as it is. Photographs of the renders are made once and kept in memory (66 kB each), with
what F says of them and of their mirror images; training shows each of them as it is or in the mirror.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from itertools import islice

import torch
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from genet_ext.extractors import Extractor
from genet_ext.extractors.close_look import WINDOWS, CloseLook
from genet_ext.models import read_weights
from genet_ext.parameters import load_parameter_space
from python.render.reader import RenderDataset
from python.train import augment
from python.train.common import Trainer, export, half_precision, parse_arguments
from python.train.crops import Photographer, as_bytes, load_renders, mirrored_landmarks
from python.train.train_extractor import parameter_weights

JITTERS = [(1.0, augment.SECOND_PASS)]
OBSERVE_BATCH = 128
POINT_TOLERANCE = (
    2.0  # px of the close-up; a point off by this counts as much as a parameter off by one deviation
)


@dataclass(frozen=True)
class Views:
    """Photographs of N renders, and what F says of them.

    Attributes:
        eyes, mouth: uint8 [N, 3, height, width], the windows of the close-ups.
        features, mirrored_features: [N, D] of the crops and of their mirror images.
        regressed, mirrored_regressed: [N, P].
        theta: [N, P], the truth.
        landmarks, dense, dense_weight: as of :class:`Photographer`.
    """

    eyes: Tensor
    mouth: Tensor
    features: Tensor
    mirrored_features: Tensor
    regressed: Tensor
    mirrored_regressed: Tensor
    theta: Tensor
    landmarks: Tensor
    dense: Tensor
    dense_weight: Tensor


@torch.no_grad()
def observe(extractor: Extractor, renders: RenderDataset, count: int, seed: int) -> Views:
    """Photographs of renders, in order and from the first again until there are ``count``."""
    photographer = Photographer(renders, next(extractor.parameters()).device, seed)
    batches = photographer.in_order(OBSERVE_BATCH, JITTERS, -(-count // len(renders)))
    out: list[Views] = []
    progress = tqdm(batches, total=-(-count // OBSERVE_BATCH), desc="photographs", disable=None)
    for batch in islice(progress, -(-count // OBSERVE_BATCH)):
        here, there = extractor(batch["pixels"]), extractor(batch["pixels"].flip(3))
        rows = Views(
            *(as_bytes(window.cut(batch["close_up"])).contiguous() for window in WINDOWS),
            *(here.features, there.features, here.parameters, there.parameters),
            *(batch[name] for name in ("theta", "landmarks", "dense", "dense_weight")),
        )
        out.append(rows)
    return Views(*(torch.cat([vars(v)[f.name] for v in out])[:count] for f in fields(Views)))


@dataclass(frozen=True)
class Batch:
    """What the close look learns from: some views, part of them mirrored.

    Attributes:
        features: [B, D].
        regressed, theta: [B, P].
        windows: float [B, 3, height, width] in [0, 1] each.
        points: of each window [B, points, 2] in its px.
        weights: of each window [B, points]; 0 outside it, and where a point has no counterpart in the mirror.
    """

    features: Tensor
    regressed: Tensor
    theta: Tensor
    windows: list[Tensor]
    points: list[Tensor]
    weights: list[Tensor]


def draw(views: Views, size: int, generator: torch.Generator) -> Batch:
    """Random views, half of them as in a mirror."""
    device = views.theta.device
    rows = torch.randint(len(views.theta), (size,), generator=generator, device=device)
    flip = torch.rand(size, generator=generator, device=device) < 0.5

    def either(here: Tensor, there: Tensor) -> Tensor:
        return torch.where(flip.reshape(-1, *(1,) * (here.ndim - 1)), there, here)

    windows, points, weights = [], [], []
    landmarks = views.landmarks[rows]
    landmarks = either(landmarks, mirrored_landmarks(landmarks))
    for window, pictures in zip(WINDOWS, (views.eyes, views.mouth), strict=True):
        cut = pictures[rows].float() / 255
        windows.append(either(cut, cut.flip(3)).contiguous(memory_format=torch.channels_last))
        surface = views.dense[rows][:, list(window.surface)]
        in_crop = torch.cat([landmarks[:, list(window.landmarks)], surface], 1)
        # The close-up has two pixels for one of the crop, and pixel centres at integers, too.
        found = 2 * in_crop + 0.5 - in_crop.new_tensor([window.left, window.top])
        border = found.new_tensor([window.width, window.height]) - 1
        inside = ((found > 0) & (found < border)).all(2)
        known = either(views.dense_weight[rows], torch.zeros_like(views.dense_weight[rows]))
        known = functional.pad(known[:, list(window.surface)], (len(window.landmarks), 0), value=1.0)
        points.append(found)
        weights.append(known * inside)
    space = load_parameter_space()
    return Batch(
        either(views.features[rows], views.mirrored_features[rows]),
        either(views.regressed[rows], views.mirrored_regressed[rows]),
        either(views.theta[rows], space.mirrored(views.theta[rows])),
        windows,
        points,
        weights,
    )


def build(close: CloseLook, extractor: Extractor) -> None:
    """Start from the trunk that sees the whole face, and with no correction at all."""
    own = close.trunk.state_dict()
    close.trunk.load_state_dict({k: v for k, v in extractor.trunk.state_dict().items() if k in own})
    nn.init.zeros_(close.correction.weight)
    nn.init.zeros_(close.correction.bias)


def training_losses(close: CloseLook, batch: Batch, weights: Tensor) -> dict[str, Tensor]:
    """The total loss of one batch, its parts, and the loss without any correction."""
    with half_precision(batch.theta.device):
        correction, *points = close(batch.features, *batch.windows)

    def off(regressed: Tensor) -> Tensor:
        return (weights * (regressed - batch.theta).square()).sum(1).mean()

    px = [
        ((found.float() - truth).abs().mean(2) * weight).sum() / weight.sum()
        for found, truth, weight in zip(points, batch.points, batch.weights, strict=True)
    ]
    parameters = off(batch.regressed + correction.float())
    return {
        "loss": parameters + (px[0] + px[1]) / POINT_TOLERANCE,
        "parameters": parameters,
        "uncorrected": off(batch.regressed),
        "eyes_px": px[0],
        "mouth_px": px[1],
    }


def main() -> None:
    arguments, config = parse_arguments(__doc__ or "", "close_look")
    if not arguments.start_from:
        raise SystemExit("error: --start-from: expected the extractor's weights")
    space = load_parameter_space()
    renders = load_renders(arguments.data)
    if renders.zoom != 2:
        raise SystemExit(f"error: --data: expected renders made with --zoom 2, got --zoom {renders.zoom}")
    extractor = Extractor(space.size)
    extractor.load_state_dict(read_weights(arguments.start_from), strict=False)
    extractor = extractor.to(arguments.device, memory_format=torch.channels_last).eval()
    build(extractor.close, extractor)
    trainer = Trainer(extractor.close, arguments.out, "close_look", config, arguments.seed, arguments.budget)
    extractor.close.train()
    weights = parameter_weights(renders, space, config["group_weights"]).to(arguments.device)
    views = observe(extractor, renders, config["views"], arguments.seed)
    while trainer.step < trainer.steps:
        generator = torch.Generator(arguments.device)
        generator.manual_seed(arguments.seed * 1_000_003 + trainer.step)
        losses = training_losses(extractor.close, draw(views, config["batch"], generator), weights)
        trainer.update(losses["loss"])
        if trainer.step % config["log_every"] == 0:
            trainer.log(**losses)
        if trainer.step % config["save_every"] == 0:
            trainer.save()
    trainer.save()
    extractor.close.load_state_dict(trainer.average)
    export(extractor.state_dict(), arguments.out / "extractor.safetensors")


if __name__ == "__main__":
    main()
