"""How sure the search is of each AU: the Laplace approximation at the optimum."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from scipy.special import ndtr, ndtri
from torch import Tensor

from genet_ext.action_units import ActionUnitTable
from genet_ext.batching import in_chunks
from genet_ext.generators import FeatureGenerator, algebraic_silu
from genet_ext.models import SD_LEVELS, Models
from genet_ext.reference import DistanceKind, add_prior_gradient, feature_distance

SMALLEST = 1e-6  # keeps the curvature of l1 and cosine finite at a perfect match

Array = npt.NDArray[np.float64]


def au_posterior(
    models: Models,
    table: ActionUnitTable,
    theta: Tensor,
    features: Tensor,
    mean: Tensor,
    kind: DistanceKind = "squared",
    delta: float = 1.0,
) -> Array:
    """What is believed of every AU of every face: a normal variable, clipped to 0 and 1.

    The objective is the negative logarithm of a posterior density. Around the optimum it is taken as a
    parabola, its curvature ``J^T W J + Lambda`` from the Jacobian J of the feature generator H (of H also
    where the search went through G and F), its deviations stretched by what held-out renders showed: by AU
    (``prior.sd_scale``) and by how strong the AU seems (``prior.sd_by_level``), for what moves in a face can
    be misread in more ways than a face at rest. What lies beyond 0 and 1 counts at 0 and 1: unlike a density
    on the interval, this can say that an AU is absent. An AU pressed against 0 by a steep slope is sure to
    be, one that only just ends there is not.

    Args:
        models: the frozen networks and the prior.
        table: AUs as combinations of parameters.
        theta: [B, P] parameters at the optimum.
        features: [B, D] whitened features of the photographs.
        mean: [B, P] the prior's mean.
        kind, delta: the distance that was minimised.

    Returns:
        float64 [B, A, 2], mean and standard deviation before clipping, in AU units; NaN where theta is not
        finite or the face model cannot express the AU. See :func:`deviation` and :func:`interval`.
    """
    weights = torch.from_numpy(table.weights).to(theta.device)

    def run(theta: Tensor, features: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
        curvature, slope = expand_objective(models, theta, features, mean, kind, delta)
        return _centre_and_variance(weights, theta.double(), curvature, slope)

    finite = (theta.isfinite() & mean.isfinite()).all(1) & features.isfinite().all(1)
    with torch.no_grad():
        centre, variance = in_chunks(
            run, *(torch.where(finite[:, None], x, torch.zeros_like(x)) for x in (theta, features, mean))
        )
    posterior = _calibrated(models, table, centre, variance)
    posterior[~finite.cpu().numpy()] = np.nan
    return posterior


def au_posterior_at(
    models: Models, table: ActionUnitTable, theta: Array, curvature: Array, slope: Array
) -> Array:
    """The same of another objective than the search's own, from its parabola at theta.

    Args:
        models, table: as above.
        theta: [B, P] parameters.
        curvature, slope: [B, P, P] and [B, P] there.

    Returns:
        float64 [B, A, 2].
    """
    parts = map(torch.from_numpy, (table.weights, theta, curvature, slope))
    return _calibrated(models, table, *_centre_and_variance(*parts))


def _centre_and_variance(
    weights: Tensor, theta: Tensor, curvature: Tensor, slope: Tensor
) -> tuple[Tensor, Tensor]:
    """Of AUs, [B, A] each, that are `weights` [A, P] of normal parameters with that parabola at theta."""
    covariance_rows = torch.linalg.solve(curvature, weights.T.expand(len(theta), -1, -1))  # [B, P, A]
    variance = (weights.T * covariance_rows).sum(1)
    centre = (weights.T * theta[:, :, None]).sum(1) - (covariance_rows * slope[:, :, None]).sum(1)
    return centre, variance


def _calibrated(models: Models, table: ActionUnitTable, centre: Tensor, variance: Tensor) -> Array:
    """The posterior [B, A, 2] with deviations as held-out renders showed them; NaN for unknown AUs."""
    estimate = centre.cpu().numpy()
    sigma = (variance.sqrt() * models.prior.sd_scale.double().to(variance.device)).cpu().numpy()
    sigma *= np.interp(estimate, SD_LEVELS, models.prior.sd_by_level.double().cpu().numpy())
    posterior: Array = np.stack([estimate, sigma], 2)
    posterior[:, ~table.expressible] = np.nan
    return posterior


def deviation(posterior: Array, most: Array | float = 1.0) -> Array:
    """Standard deviation [..., A] of AUs in [0, most] from their posterior [..., A, 2]."""
    mean, sd = posterior[..., 0], posterior[..., 1]
    low, high = -mean / sd, (most - mean) / sd
    at_low, at_high = (np.exp(-0.5 * z * z) / np.sqrt(2 * np.pi) for z in (low, high))
    inside, above = ndtr(high) - ndtr(low), ndtr(-high)
    first = mean * inside + sd * (at_low - at_high) + most * above
    second = (mean**2 + sd**2) * inside + sd * (mean * at_low - (mean + most) * at_high) + most**2 * above
    out: Array = np.sqrt(np.maximum(second - first**2, 0))
    return out


def interval(posterior: Array, level: float, most: Array | float = 1.0) -> tuple[Array, Array]:
    """Lower and upper end [..., A] of the central interval of AUs in [0, most].

    Args:
        posterior: [..., A, 2], see :func:`au_posterior`.
        level: share of the posterior that lies between the ends.
        most: what an AU can be at most.

    Raises ValueError if ``level`` is not between 0 and 1.
    """
    if not 0 < level < 1:
        raise ValueError(f"level: expected a number between 0 and 1, got {level!r}")
    reach = ndtri(0.5 + level / 2) * posterior[..., 1]
    return np.clip(posterior[..., 0] - reach, 0, most), np.clip(posterior[..., 0] + reach, 0, most)


def expand_objective(
    models: Models, theta: Tensor, features: Tensor, mean: Tensor, kind: DistanceKind, delta: float
) -> tuple[Tensor, Tensor]:
    """Gauss-Newton curvature [B, P, P] and slope [B, P] of the objective at theta, float64."""
    prior, generator = models.prior, models.feature_generator
    prediction = generator(theta)
    jacobian = feature_jacobian(generator, theta).double()
    _, by_feature = feature_distance(prediction, features, prior.feature_weight, kind, delta)
    slope = torch.einsum("bdp,bd->bp", jacobian, by_feature.double())
    slope = add_prior_gradient(
        slope, theta.double(), mean.double(), prior.precision.double(), prior.rate.double()
    )
    bend = _bend(prediction, features, prior.feature_weight, kind, delta).double()
    curvature = torch.einsum("bdp,bd,bdq->bpq", jacobian, bend, jacobian) + prior.precision.double()
    return curvature, slope


def feature_jacobian(generator: FeatureGenerator, theta: Tensor) -> Tensor:
    """Derivative of H's features by the parameters, at theta [B, P]: [B, D, P]."""
    w1, b1, w2, b2, w3, _ = generator.mlp_weights()
    before1 = theta @ w1.T + b1
    before2 = algebraic_silu(before1) @ w2.T + b2
    by_hidden = (w3 * _silu_slope(before2)[:, None, :]) @ w2
    return (by_hidden * _silu_slope(before1)[:, None, :]) @ w1


def _silu_slope(x: Tensor) -> Tensor:
    s = 1 / torch.sqrt(1 + x * x)
    return 0.5 * (1 + x * s * (1 + s * s))


def _bend(prediction: Tensor, features: Tensor, weight: Tensor, kind: DistanceKind, delta: float) -> Tensor:
    """Second derivative of the distance by each feature [B, D]; for l1 and cosine that of a parabola."""
    size = (prediction - features).abs()
    if kind == "squared":
        return weight.expand_as(size)
    if kind == "huber":
        return weight * (size <= delta)
    if kind == "l1":
        return weight / size.clamp(min=SMALLEST)
    norms = [(weight * x * x).sum(1, keepdim=True).sqrt() for x in (prediction, features)]
    return weight / (norms[0] * norms[1]).clamp(min=SMALLEST)
