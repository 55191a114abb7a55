"""Ways from a face's features to its parameters, compared on the same extracted faces."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from genet_ext.action_units import load_action_units
from genet_ext.faces import align_faces, faces_of
from genet_ext.images import Source, UInt8Array
from genet_ext.models import Models, Prior
from genet_ext.objective import Target, prior_mean, target_of
from genet_ext.parameters import EXPRESSION, IDENTITY, POSE
from genet_ext.similarity import FloatArray, invert, transform
from genet_ext.solver import SearchSettings, search
from genet_ext.uncertainty import au_posterior
from python.evaluate.common import Stopwatch
from python.evaluate.metrics import Array

BATCH = 256  # faces held as photographs at a time

# How much poses and expressions vary among faces: the prior of a search that knows nothing of the regressor.
POPULATION_SD = {POSE: 0.35, EXPRESSION: 0.3, IDENTITY: 1.0}


@dataclass(frozen=True)
class Extracted:
    """What the extractor says of N faces, computed once for all methods.

    Attributes:
        target: features, regressed parameters and so on, on the networks' device.
        landmarks: [N, 68, 2] px of the pictures.
        roll: [N] radians that alignment took out of each face.
        seconds: alignment and extraction of all of them, decoding included.
    """

    target: Target
    landmarks: FloatArray
    roll: Array
    seconds: float


def extract_all(models: Models, pictures: Iterable[UInt8Array], boxes: FloatArray) -> Extracted:
    """The runtime's own path from pictures and loose boxes [N, 4] to features, batch by batch."""
    targets: list[Target] = []
    landmarks: list[FloatArray] = []
    roll: list[Array] = []
    seconds = 0.0
    stream = iter(enumerate(pictures))
    with tqdm(total=len(boxes), unit="face", desc="extract") as progress:
        while batch := list(islice(stream, BATCH)):
            with Stopwatch(models.device) as watch:
                faces = [
                    face
                    for index, picture in batch
                    for face in faces_of(Source(index, f"picture {index}", picture), boxes[index][None])
                ]
                aligned = align_faces(faces, models.extractor, models.device)
                target = target_of(models, aligned.seen, torch.from_numpy(aligned.valid).to(models.device))
            seconds += watch.seconds
            inverse = invert(aligned.similarity)
            targets.append(target)
            landmarks.append(transform(inverse, target.landmarks.double().cpu().numpy()))
            roll.append(np.arctan2(aligned.similarity[:, 1, 0], aligned.similarity[:, 0, 0]))
            progress.update(len(batch))
    whole = Target(*(torch.cat([vars(t)[name] for t in targets]) for name in vars(targets[0])))
    return Extracted(whole, np.concatenate(landmarks), np.concatenate(roll), seconds)


@dataclass(frozen=True)
class Method:
    """One way to search.

    Attributes:
        name: for tables.
        settings: of the search; no iterations leave the regressor's estimate.
        from_mean: start at the average face, with a prior that knows only how faces vary.
        distance_scale: multiplies the feature distance (1: as shipped); with `from_mean`, of the whitened
            distance itself.
        rate_scale: multiplies the sparsity of the prior.
        limit: at most so many faces, for methods that take long.
    """

    name: str
    settings: SearchSettings
    from_mean: bool = False
    distance_scale: float = 1.0
    rate_scale: float = 1.0
    limit: int | None = None


@dataclass(frozen=True)
class Fitted:
    """Parameters [N, P] float64, NaN for failed faces, and what they took."""

    theta: Array
    iterations: Array
    seconds: float


def run(models: Models, target: Target, method: Method) -> Fitted:
    """Search the parameters of all faces of `target` by `method`."""
    rows = slice(method.limit)
    target = Target(**{name: tensor[rows] for name, tensor in vars(target).items()})
    prior = models.prior
    start = target.regressed
    if method.from_mean:
        start = torch.zeros_like(start)
        target = replace(target, regressed=start)
        prior = population_prior(models)
    prior = replace(
        prior,
        feature_weight=prior.feature_weight * method.distance_scale,
        rate=prior.rate * method.rate_scale,
    )
    with Stopwatch(models.device) as watch:
        outcome = search(replace(models, prior=prior), target, start, method.settings)
    theta: Tensor = torch.where(outcome.loss.isfinite()[:, None], outcome.theta, torch.nan)
    return Fitted(theta.double().cpu().numpy(), outcome.iterations.cpu().numpy(), watch.seconds)


def posterior_of(models: Models, target: Target, fitted: Fitted, method: Method) -> Array:
    """What the shipped search believes of every AU: [N, A, 2] as :func:`genet_ext.uncertainty.au_posterior`.

    Raises ValueError for a method with another prior or distance than the shipped one.
    """
    if method.from_mean or method.distance_scale != 1 or method.rate_scale != 1:
        raise ValueError(f"method: expected the shipped prior, got {method.name}")
    rows = slice(len(fitted.theta))
    features, regressed = target.features[rows], target.regressed[rows]
    theta = torch.from_numpy(fitted.theta).to(features)
    return au_posterior(models, load_action_units(), theta, features, prior_mean(models, regressed))


def population_prior(models: Models) -> Prior:
    """How faces vary, in place of the regressor's error, and the distance not tempered by it."""
    precision = torch.zeros_like(models.prior.precision)
    for group, sd in POPULATION_SD.items():
        where = torch.arange(models.space.size, device=precision.device)[models.space.indices(group)]
        precision[where, where] = sd**-2
    return replace(
        models.prior, precision=precision, feature_weight=torch.ones_like(models.prior.feature_weight)
    )
