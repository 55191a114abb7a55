r"""Distil the feature generator H from F on renders, and estimate the whitening and the prior.

    python -m python.train.distill_features --data renders/train --held-out renders/eval \
        --extractor runs/f --out runs/h

F's appearance head is solved by least squares. H learns the mean of F's features given the parameters: skin,
light, background, blur and alignment are drawn anew for each render, so what is left of the features around H
is the nuisance residual. Its covariance, taken on held-out renders (other skins, other identities), gives the
whitening; the covariance of F's regression error there gives the prior's precision.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from tqdm import tqdm

from genet_ext.action_units import load_action_units
from genet_ext.extractors import Extractor
from genet_ext.extractors.face_cnn import FEATURES, appearance_inputs
from genet_ext.faces import both_ways
from genet_ext.generators import FeatureGenerator
from genet_ext.generators.feature_mlp import HIDDEN
from genet_ext.models import REST_SPREAD, SD_LEVELS, read_weights
from genet_ext.parameters import EXPRESSION, IDENTITY, load_parameter_space
from python.render.reader import RenderDataset
from python.train import augment
from python.train.common import CONFIGS, Trainer, export, held_out_parser
from python.train.crops import Photographer, load_renders

SHRINKAGE = 0.02  # share of the mean variance added to a covariance's diagonal before it is inverted
JITTERS = [(1.0, augment.SECOND_PASS)]
OBSERVE_BATCH = 128


def main() -> None:
    parser = held_out_parser(__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of training renders")
    parser.add_argument("--extractor", type=Path, required=True, help="folder with extractor.safetensors")
    parser.add_argument("--out", type=Path, required=True, help="folder of checkpoints, log and weights")
    parser.add_argument(
        "--config", type=Path, default=CONFIGS / "full.toml", help="TOML; [feature_generator]"
    )
    arguments = parser.parse_args()
    config = tomllib.loads(arguments.config.read_text())["feature_generator"]
    arguments.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(arguments.seed)
    space = load_parameter_space()
    device = arguments.device

    extractor = Extractor(space.size)
    weights = read_weights(arguments.extractor / "extractor.safetensors")
    weights = {key: value for key, value in weights.items() if "appearance_head" not in key}
    extractor.load_state_dict(weights, strict=False)
    extractor = extractor.to(device, memory_format=torch.channels_last).eval().requires_grad_(False)

    views = config["views"]
    seen = observe(extractor, load_renders(arguments.data), views, arguments.seed, mirror=False)
    fit_appearance(extractor, seen)
    export(extractor.state_dict(), arguments.out / "extractor.safetensors")
    net = train(seen.theta, seen.features, config, arguments.out, arguments.seed)

    held_out = load_renders(arguments.held_out)
    seen = observe(extractor, held_out, views, arguments.seed + 1000)
    theta, features, regressed = seen.theta, seen.features, seen.regressed
    predicted = extractor.appearance_head(seen.appearance_inputs)
    unexplained = (
        (predicted - seen.appearance).square().sum() / seen.appearance.var(0, False).sum() / len(seen.theta)
    )
    print(f"held-out share of the appearance's variance that is regressed: {1 - unexplained:.3f}")
    with torch.no_grad():
        residual = features - net(theta)
        whitening = inverse_root(residual.T @ residual / len(residual))
        covariance = error_covariance(regressed, theta)
        mean = features.mean(0)
        explained = 1 - residual.square().sum() / (features - mean).square().sum()
        whiten_outputs(net, mean, whitening)
    diagonal = covariance.diagonal()
    precision = torch.linalg.inv(covariance + SHRINKAGE * torch.diag(diagonal))
    print(f"held-out share of the feature variance that H explains: {explained:.3f}")
    spread = theta[:, space.indices(EXPRESSION)].std(0)
    rmse = diagonal[space.indices(EXPRESSION)].sqrt()
    print(f"regressor's held-out rms error over the expressions' spread: {(rmse / spread).mean():.3f}")
    rate = torch.zeros(space.size)
    rate[space.indices(EXPRESSION)] = config["sparsity"]
    export(net.state_dict(), arguments.out / "feature_generator.safetensors")
    export(
        {
            "feature_mean": mean,
            "whitening": whitening,
            "feature_weight": torch.full((FEATURES,), 1 / config["temper"], device=device),
            "precision": (precision + precision.T) / 2,
            "rate": rate,
            # Not yet known: python.train.calibrate measures these.
            "sd_scale": torch.ones(len(load_action_units().names)),
            "sd_by_level": torch.ones(len(SD_LEVELS)),
            "misfit_limit": torch.tensor(torch.inf),
            "rest_spread": torch.full((len(load_action_units().names),), REST_SPREAD),
        },
        arguments.out / "prior.safetensors",
        half=False,
    )


class Observed(NamedTuple):
    """What F says of photograph-like views of N renders."""

    theta: Tensor  # [N, P] the truth
    features: Tensor  # [N, D]
    regressed: Tensor  # [N, P]
    appearance_inputs: Tensor  # [N, D + 48]
    appearance: Tensor  # [N, A] the truth


@torch.no_grad()
def observe(
    extractor: Extractor, renders: RenderDataset, views: int, seed: int, mirror: bool = True
) -> Observed:
    """Every render ``views`` times, each time with other background, light, blur and alignment error.

    With ``mirror``, the parameters are regressed as in ``fit``, from the mirror image, too.
    """
    photographer = Photographer(renders, next(extractor.parameters()).device, seed)
    out: list[Observed] = []
    progress = tqdm(total=views * len(renders), desc="features", unit="face", disable=None)
    for batch in photographer.in_order(OBSERVE_BATCH, JITTERS, views):
        said = extractor(batch["pixels"])
        regressed = said.parameters
        if mirror:
            regressed = both_ways(regressed, extractor(batch["pixels"].flip(3)).parameters)
        inputs = appearance_inputs(said.features, batch["pixels"])
        out.append(Observed(batch["theta"], said.features, regressed, inputs, batch["appearance"]))
        progress.update(len(said.features))
    progress.close()
    return Observed(*(torch.cat(column) for column in zip(*out, strict=True)))


def train(
    theta: Tensor, features: Tensor, config: dict[str, Any], out: Path, seed: int, hidden: int = HIDDEN
) -> FeatureGenerator:
    """Least squares on (theta, features), each scaled by its spread, which is folded into the weights."""
    device = theta.device
    mean, spread = theta.mean(0), theta.std(0).clamp(min=1e-3)
    centre, scale = features.mean(0), features.std(0).clamp(min=1e-6)
    net = FeatureGenerator(theta.shape[1], features.shape[1], hidden).to(device)
    trainer = Trainer(net, out, "feature_generator", config, seed)

    def losses(step: int) -> dict[str, Tensor]:
        rng = torch.Generator(device).manual_seed(seed * 1_000_003 + step)
        rows = torch.randint(len(theta), (config["batch"],), device=device, generator=rng)
        said = net((theta[rows] - mean) / spread)
        return {"loss": nn.functional.mse_loss(said, (features[rows] - centre) / scale)}

    trainer.run(losses)
    net.load_state_dict(trainer.average)
    with torch.no_grad():
        net.layer1.weight.div_(spread)
        net.layer1.bias.sub_(net.layer1.weight @ mean)
        net.layer3.weight.mul_(scale[:, None])
        net.layer3.bias.mul_(scale).add_(centre)
    return net.requires_grad_(False)


def fit_appearance(extractor: Extractor, seen: Observed) -> None:
    """Set the appearance head to the least-squares answer (it is linear, so it is solved, not trained)."""
    inputs, mean = seen.appearance_inputs.double(), seen.appearance_inputs.double().mean(0)
    spread = inputs.std(0)
    design = (inputs - mean) / spread
    gram = design.T @ design / len(design) + SHRINKAGE * torch.eye(len(mean), dtype=torch.float64).to(design)
    truth = seen.appearance.double()
    slopes = torch.linalg.solve(gram, design.T @ (truth - truth.mean(0)) / len(design)) / spread[:, None]
    with torch.no_grad():
        extractor.appearance_head.weight.copy_(slopes.T)
        extractor.appearance_head.bias.copy_(truth.mean(0) - mean @ slopes)


def error_covariance(regressed: Tensor, theta: Tensor) -> Tensor:
    """Covariance [P, P] of what the prior is centred on, given regressed and true parameters [N, P].

    The search centres the identity at the average face (objective.prior_mean): all of its spread is the
    prior's.
    """
    centre = regressed.clone()
    centre[:, load_parameter_space().indices(IDENTITY)] = 0
    error = centre - theta
    return error.T @ error / len(error)


@torch.no_grad()
def whiten_outputs(net: FeatureGenerator, mean: Tensor, whitening: Tensor) -> None:
    """Change H's last layer so that it gives whitened features directly."""
    net.layer3.weight.copy_(whitening.T @ net.layer3.weight)
    net.layer3.bias.copy_((net.layer3.bias - mean) @ whitening)


def inverse_root(covariance: Tensor) -> Tensor:
    """W with W^T C W = I, C being the covariance after shrinkage (float64 inside)."""
    covariance = covariance.double()
    shrink = (
        SHRINKAGE
        * covariance.diagonal().mean()
        * torch.eye(len(covariance), dtype=torch.float64, device=covariance.device)
    )
    values, vectors = torch.linalg.eigh(covariance + shrink)
    return (vectors / values.sqrt()).float()


if __name__ == "__main__":
    main()
