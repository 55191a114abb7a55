r"""Train the extractor F on renders: parameters, landmarks and dense surface points.

    python -m python.train.train_extractor --data renders/train --out runs/f

It also keeps what the network was along the way, for python.train.average_weights. It may start while its
renders are still being made, and takes them up as they come.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from genet_ext.extractors import Extractor, ExtractorOutput
from genet_ext.extractors.face_cnn import POINT_SCALE
from genet_ext.models import read_weights
from genet_ext.parameters import ParameterSpace, load_parameter_space
from python.render.reader import RenderDataset
from python.train import augment
from python.train.common import Trainer, describe, export, half_precision, parse_arguments
from python.train.crops import Example, Photographer, ahead, load_renders

JITTERS = [(0.65, augment.SECOND_PASS), (0.35, augment.LOOSE_BOX)]
POINT_TOLERANCE = 2.0  # px; a landmark off by this counts as much as a parameter off by one deviation


def main() -> None:
    arguments, config = parse_arguments(__doc__ or "", "extractor")
    space = load_parameter_space()
    renders = load_renders(arguments.data)
    net = build(space, renders, arguments.start_from)
    net = net.to(arguments.device, memory_format=torch.channels_last)
    if arguments.compile:
        net.features = torch.compile(net.features)
    trainer = Trainer(net, arguments.out, "extractor", config, arguments.seed, arguments.budget)
    weights = parameter_weights(renders, space, config["group_weights"]).to(arguments.device)
    describe(renders, trainer, config)
    photographer = Photographer(renders, arguments.device, arguments.seed)

    def photographs(number: int) -> Example:
        if number % config["save_every"] == 0:
            photographer.take_up()
        return photographer.photographs(config["batch"], JITTERS, number)

    batches = ahead(photographs, trainer.step, photographer.device)
    trainer.run(lambda _: training_losses(net, next(batches), weights))
    print(f"{trainer.step} steps, {len(photographer.renders)} renders, {trainer.spent:.0f} s", flush=True)
    export(as_it_runs(trainer.average).state_dict(), arguments.out / "extractor.safetensors")


def build(space: ParameterSpace, renders: RenderDataset, start_from: Path | None = None) -> Extractor:
    """An untrained extractor that answers with the means of the training data, or one to train further.

    The weights of ``start_from`` are those that a run exports: their norms are folded in and stay away.
    """
    net = Extractor(space.size, dense=renders.dense.shape[1], fused=start_from is not None)
    assert net.dense is not None
    if start_from:
        net.load_state_dict(read_weights(start_from), strict=False)  # the dense head was left out of them
        nn.init.zeros_(net.dense.weight)  # until it has learnt, it must not disturb the features
    with torch.no_grad():
        if not start_from:
            net.parameters_head.bias.copy_(torch.from_numpy(renders.theta.mean(0)))
        heads = [(net.dense, renders.dense)] + ([] if start_from else [(net.points, renders.landmarks)])
        for head, points in heads:
            mean = (points.mean(0) - augment.MARGIN).ravel() / POINT_SCALE
            head.bias.copy_(torch.from_numpy(mean))
    return net


def as_it_runs(weights: dict[str, Tensor]) -> Extractor:
    """The extractor of weights in training, on the CPU: without the dense head, its norms folded in.

    How wide and deep it is, the weights say. (A run that started from such weights has no norms any more.)
    """
    stages = range(3)
    a, b, c, d = (len(weights[f"{x}.conv.weight"]) for x in ("stem", *(f"down.{i}" for i in stages)))
    m, n, o = (len({k.split(".")[2] for k in weights if k.startswith(f"blocks.{i}.")}) for i in stages)
    fused = "stem.norm.weight" not in weights
    net = Extractor(len(weights["parameters_head.bias"]), 0, (a, b, c, d), (m, n, o), fused)
    net.load_state_dict({key: value for key, value in weights.items() if not key.startswith("dense.")})
    net.eval()
    net.fuse()
    return net


def parameter_weights(
    renders: RenderDataset, space: ParameterSpace, group_weights: dict[str, float]
) -> Tensor:
    """[P]: inverse variance of each parameter, times how much its group matters."""
    weights = 1 / torch.from_numpy(renders.theta.var(0)).clamp(min=1e-4)
    for group, factor in group_weights.items():
        weights[space.indices(group)] *= factor
    return weights / space.size


def outputs_of(net: Extractor, pixels: Tensor) -> ExtractorOutput:
    """What ``net`` says of pixels [B, 3, 128, 128], its convolutions in half precision."""
    with half_precision(pixels.device):
        features = net.features(pixels)
    # The heads are linear algebra on 256 numbers: full precision costs nothing and keeps landmarks sharp.
    return net.heads(features.float(), pixels)


def training_losses(net: Extractor, batch: Example, weights: Tensor) -> dict[str, Tensor]:
    """The total loss of one batch and its parts."""
    out = outputs_of(net, batch["pixels"])
    assert net.dense is not None
    dense = net.dense(out.features).reshape(len(out.features), -1, 2) * POINT_SCALE
    parameters = (weights * (out.parameters - batch["theta"]).square()).sum(1).mean()
    landmarks_px = (out.landmarks - batch["landmarks"]).abs().mean()
    surface_px = ((dense - batch["dense"]).abs().mean(2) * batch["dense_weight"]).mean()
    return {
        "loss": parameters + (landmarks_px + surface_px) / POINT_TOLERANCE,
        "parameters": parameters,
        "landmarks_px": landmarks_px,
        "surface_px": surface_px,
    }


if __name__ == "__main__":
    main()
