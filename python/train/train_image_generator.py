"""Train the image generator G: parameters and appearance -> the clean aligned render over grey.

python -m python.train.train_image_generator --data renders/train --out runs/first
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from genet_ext.extractors.face_cnn import APPEARANCE
from genet_ext.generators import ImageGenerator
from genet_ext.models import read_weights
from genet_ext.parameters import load_parameter_space
from python.train.common import Trainer, describe, export, half_precision, parse_arguments
from python.train.crops import Example, Photographer, load_renders

SCALES = 4  # levels of the image pyramid that the loss compares


def main() -> None:
    arguments, config = parse_arguments(__doc__ or "", "image_generator")
    renders = load_renders(arguments.data)
    net = ImageGenerator(load_parameter_space().size, APPEARANCE)
    if arguments.start_from:
        net.load_state_dict(read_weights(arguments.start_from))
    net = net.to(arguments.device, memory_format=torch.channels_last)
    if arguments.compile:
        net.compile()
    trainer = Trainer(net, arguments.out, "image_generator", config, arguments.seed, arguments.budget)
    describe(renders, trainer, config)
    photographer = Photographer(renders, arguments.device, arguments.seed)
    trainer.run(lambda step: training_losses(net, photographer.clean(config["batch"], step)))
    net.load_state_dict(trainer.average)
    export(net.state_dict(), arguments.out / "image_generator.safetensors")


def training_losses(net: ImageGenerator, batch: Example) -> dict[str, Tensor]:
    """The multi-scale loss of one batch, and the mean absolute pixel error in [0, 1]."""
    truth = batch["pixels"]
    with half_precision(truth.device):
        pixels = net(batch["theta"], batch["appearance"])
    pixels = pixels.float()
    return {"loss": pyramid_loss(pixels, truth), "mean_abs": (pixels - truth).abs().mean()}


def pyramid_loss(pixels: Tensor, truth: Tensor) -> Tensor:
    """Absolute error of the pixels and of their differences to neighbours, at several scales."""
    loss = pixels.new_zeros(())
    for _ in range(SCALES):
        loss = loss + (pixels - truth).abs().mean()
        for axis in (2, 3):
            loss = loss + (pixels.diff(dim=axis) - truth.diff(dim=axis)).abs().mean()
        pixels, truth = functional.avg_pool2d(pixels, 2), functional.avg_pool2d(truth, 2)
    return loss


if __name__ == "__main__":
    main()
