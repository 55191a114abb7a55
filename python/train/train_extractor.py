"""Train the extractor F on renders: parameters, landmarks, dense surface points and appearance.

python -m python.train.train_extractor --data renders/train --out runs/f
"""

from __future__ import annotations

import torch
from torch import Tensor

from genet_ext.extractors import Extractor
from genet_ext.extractors.face_cnn import LANDMARKS, POINT_SCALE
from genet_ext.parameters import EXPRESSION, IDENTITY, POSE, ParameterSpace, load_parameter_space
from python.train import augment
from python.train.common import Renders, Trainer, describe, export, load_renders, parse_arguments

JITTERS = [(0.65, augment.SECOND_PASS), (0.35, augment.LOOSE_BOX)]
POINT_TOLERANCE = 2.0  # px; a landmark off by this counts as much as a parameter off by one deviation


def main() -> None:
    arguments, config = parse_arguments(__doc__ or "", "extractor")
    space = load_parameter_space()
    renders = load_renders(arguments.data, arguments.device)
    net = Extractor(space.size, dense=renders.dense.shape[1], fused=False)
    with torch.no_grad():  # start at the mean answer
        net.parameters_head.bias.copy_(renders.theta.mean(0))
        net.points.bias.copy_((renders.landmarks.mean(0) - augment.MARGIN).flatten() / POINT_SCALE)
        assert net.dense is not None
        net.dense.bias.copy_((renders.dense.mean(0) - augment.MARGIN).flatten() / POINT_SCALE)
    net = net.to(arguments.device, memory_format=torch.channels_last)
    trainer = Trainer(net, arguments.out, "extractor", config, arguments.seed, arguments.budget)
    weights = parameter_weights(renders, space)
    describe(renders, trainer, config)
    while trainer.step < trainer.steps:
        losses = training_losses(net, renders, weights, config["batch"], trainer.generator(arguments.device))
        trainer.update(losses["loss"])
        if trainer.step % config["log_every"] == 0:
            trainer.log(**losses)
        if trainer.step % config["save_every"] == 0:
            trainer.save()
    trainer.save()
    net.load_state_dict(trainer.average)
    net.eval()
    net.dense = None
    net.fuse()
    export(net.state_dict(), arguments.out / "extractor.safetensors")


def parameter_weights(renders: Renders, space: ParameterSpace) -> Tensor:
    """[P]: inverse variance of each parameter, times how much its group matters."""
    weights = 1 / renders.theta.var(0).clamp(min=1e-4)
    weights[space.indices(POSE)] *= 4.0
    weights[space.indices(EXPRESSION)] *= 1.5
    weights[space.indices(IDENTITY)] *= 0.25
    return weights / space.size


def training_losses(
    net: Extractor, renders: Renders, weights: Tensor, batch: int, rng: torch.Generator
) -> dict[str, Tensor]:
    """One batch: the total loss and its parts."""
    device = renders.theta.device
    rows = torch.randint(len(renders), (batch,), device=device, generator=rng)
    points = torch.cat([renders.landmarks[rows], renders.dense[rows]], 1)
    rgba, theta, points = augment.crop(renders.images[rows], renders.theta[rows], points, JITTERS, rng)
    pixels = augment.photograph(rgba, rng).contiguous(memory_format=torch.channels_last)
    with torch.autocast(device.type, torch.bfloat16):
        features = net.features(pixels)
    # The heads are linear algebra on 256 numbers: full precision costs nothing and keeps landmarks sharp.
    out = net.heads(features.float())
    assert net.dense is not None
    dense = net.dense(out.features).reshape(batch, -1, 2) * POINT_SCALE
    parameters = (weights * (out.parameters - theta).square()).sum(1).mean()
    landmarks = (out.landmarks - points[:, :LANDMARKS]).abs().mean() / POINT_TOLERANCE
    error = (dense - points[:, LANDMARKS:]).abs().mean(2) * renders.dense_weight[rows]
    surface = error.mean() / POINT_TOLERANCE
    appearance = (out.appearance - renders.appearance[rows]).abs().mean()
    loss = parameters + landmarks + surface + 0.1 * appearance
    return {
        "loss": loss,
        "parameters": parameters,
        "landmarks_px": landmarks * POINT_TOLERANCE,
        "surface_px": surface * POINT_TOLERANCE,
        "appearance": appearance,
    }


if __name__ == "__main__":
    main()
