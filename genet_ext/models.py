"""Loading the trained networks and the prior that ship with the package."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from genet_ext.action_units import load_action_units
from genet_ext.extractors import Extractor
from genet_ext.extractors.face_cnn import APPEARANCE, FEATURES, LANDMARKS
from genet_ext.generators import FeatureGenerator, ImageGenerator
from genet_ext.landmark_model import COORDINATES, LandmarkModel, load_landmark_model
from genet_ext.parameters import EXPRESSION, IDENTITY, ParameterSpace, load_parameter_space

SD_LEVELS = (0.0, 0.1, 0.2, 0.4, 0.8)  # estimates at which an AU's deviation is calibrated; linear between
REST_SPREAD = 0.12  # spread of an AU over faces at rest, where no held-out render tells
WEIGHT_FILES = ("extractor", "image_generator", "feature_generator", "prior", "landmark_model")


@dataclass(frozen=True)
class Prior:
    """What is believed of a face before its features are compared.

    Attributes:
        feature_mean: [D], subtracted from F's features before whitening.
        whitening: [D, D]; whitened = (features - feature_mean) @ whitening. It turns the covariance of the
            nuisance residual (same parameters, other skin, light, blur, alignment) into the identity.
        feature_weight: [D], weight of each whitened feature in the distance (below 1: tempered).
        precision: [P, P], inverse covariance of the regressor's held-out error.
        rate: [P], exponential (sparsity) rate per parameter.
        sd_scale: [A], held-out errors of each AU over those that the Laplace approximation expects.
        sd_by_level: [L], the same factor at the estimates ``SD_LEVELS``, on top of it.
        misfit_limit: [], the misfit that 1 in 100 held-out renders exceeds.
        rest_spread: [A], standard deviation over people of what each AU reads on the face at rest.
    """

    feature_mean: Tensor
    whitening: Tensor
    feature_weight: Tensor
    precision: Tensor
    rate: Tensor
    sd_scale: Tensor
    sd_by_level: Tensor
    misfit_limit: Tensor
    rest_spread: Tensor

    def whiten(self, features: Tensor) -> Tensor:
        """F's features [B, D] -> whitened features [B, D], comparable with H's output."""
        return (features - self.feature_mean) @ self.whitening

    def to(self, device: torch.device | str) -> Prior:
        """The same prior on another device."""
        return Prior(**{name: tensor.to(device) for name, tensor in vars(self).items()})


@dataclass(frozen=True)
class Models:
    """Everything a fit needs, on one device, frozen and in evaluation mode."""

    extractor: Extractor
    image_generator: ImageGenerator
    feature_generator: FeatureGenerator
    prior: Prior
    landmark_model: LandmarkModel
    space: ParameterSpace

    @property
    def device(self) -> torch.device:
        """Where the networks are."""
        return self.prior.whitening.device


def weights_folder() -> Path:
    """The folder of the shipped weights."""
    return Path(str(resources.files("genet_ext").joinpath("weights")))


def load_models(
    device: torch.device | str = "cpu", folder: Path | None = None, compile: bool = False
) -> Models:
    """The shipped models (or those of another ``folder``) on ``device``.

    Args:
        device: where to put them.
        folder: other weights.
        compile: hand the extractor to ``torch.compile``. For many thousand faces in one process: on a CPU it
            saves 8 % of the extractor's time and takes half a minute to begin with.

    Raises FileNotFoundError naming the missing file.
    """
    folder = folder or weights_folder()
    paths = {name: folder / f"{name}.safetensors" for name in WEIGHT_FILES}
    for name, path in paths.items():
        if not path.is_file():
            raise FileNotFoundError(f"weights of the {name.replace('_', ' ')} not found: expected {path}")
    landmark_model = load_landmark_model(paths.pop("landmark_model"))
    tensors = {name: read_weights(path) for name, path in paths.items()}
    space = load_parameter_space()
    extractor, image_generator, feature_generator = _networks(space)
    extractor.load_state_dict(tensors["extractor"])
    image_generator.load_state_dict(tensors["image_generator"])
    feature_generator.load_state_dict(tensors["feature_generator"])
    prior = Prior(**tensors["prior"])
    models = _freeze(extractor, image_generator, feature_generator, prior, landmark_model, space, device)
    if compile:
        models.extractor.compile()
    return models


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, which are stored in half precision, in float32 to compute with."""
    return {key: value.float() for key, value in load_file(path).items()}


def random_models(seed: int = 0, device: torch.device | str = "cpu") -> Models:
    """Untrained models of the shipped shapes, the same for the same seed: for tests without weights."""
    space = load_parameter_space()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        networks = _networks(space)
        prior = Prior(
            feature_mean=torch.zeros(FEATURES),
            whitening=torch.eye(FEATURES),
            feature_weight=torch.ones(FEATURES),
            precision=torch.eye(space.size),
            rate=torch.zeros(space.size),
            sd_scale=torch.ones(len(load_action_units().names)),
            sd_by_level=torch.ones(len(SD_LEVELS)),
            misfit_limit=torch.tensor(2.5),
            rest_spread=torch.full((len(load_action_units().names),), REST_SPREAD),
        )
        landmark_model = LandmarkModel(
            rest=torch.randn(LANDMARKS, 3).double().numpy(),
            identity=0.05 * torch.randn(len(space.names_of(IDENTITY)), LANDMARKS, 3).double().numpy(),
            expression=0.1 * torch.randn(len(space.names_of(EXPRESSION)), LANDMARKS, 3).double().numpy(),
            precision=100 * np.eye(COORDINATES),
        )
    return _freeze(*networks, prior, landmark_model, space, device)


def _networks(space: ParameterSpace) -> tuple[Extractor, ImageGenerator, FeatureGenerator]:
    return (
        Extractor(space.size),
        ImageGenerator(space.size, APPEARANCE),
        FeatureGenerator(space.size, FEATURES),
    )


def _freeze(
    extractor: Extractor,
    image_generator: ImageGenerator,
    feature_generator: FeatureGenerator,
    prior: Prior,
    landmark_model: LandmarkModel,
    space: ParameterSpace,
    device: torch.device | str,
) -> Models:
    networks: list[nn.Module] = [extractor, image_generator, feature_generator]
    for network in networks:
        network.to(device).eval().requires_grad_(False)
    return Models(extractor, image_generator, feature_generator, prior.to(device), landmark_model, space)
