"""Generators: parameters -> image (G of the method), and parameters -> features (H, distilled from F o G)."""

from genet_ext.generators.feature_mlp import FeatureGenerator, algebraic_silu
from genet_ext.generators.image_cnn import ImageGenerator

__all__ = ["FeatureGenerator", "ImageGenerator", "algebraic_silu"]
