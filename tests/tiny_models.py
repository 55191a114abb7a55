"""Untrained networks of the shipped interfaces and a twentieth of their cost."""

from dataclasses import replace

import torch

from genet_ext.extractors import Extractor
from genet_ext.extractors.face_cnn import APPEARANCE
from genet_ext.generators import ImageGenerator
from genet_ext.models import Models, random_models


def tiny_models(seed: int) -> Models:
    """Random models with a narrow extractor and image generator, the same for the same seed."""
    models = random_models(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        extractor = Extractor(models.space.size, widths=(4, 8, 8, 8), blocks=(1, 1, 1))
        generator = ImageGenerator(models.space.size, APPEARANCE, widths=(8, 8, 8, 8, 8))
    extractor.eval().requires_grad_(False)
    generator.eval().requires_grad_(False)
    return replace(models, extractor=extractor, image_generator=generator)
