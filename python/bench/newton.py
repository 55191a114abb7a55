"""The search by Levenberg-Marquardt, in plain PyTorch: a few second-order steps in place of Adam's many.

The same objective, bounds and start as genet_ext.solver.search with the squared distance. A step solves
``(A + damping * diag(A)) move = -gradient`` over the parameters that are free to move, A being the
Gauss-Newton curvature ``J^T W J + Lambda``; what would leave the bounds is projected back; a step that does
not lower the objective is not taken and the damping grows.

J is not formed. With W constant, ``J^T W J = K^T K`` with ``K = R S2 w2 S1 w1``, where ``R^T R = w3^T W w3``
is known beforehand and S1, S2 are the slopes of the hidden layers: less than half the work.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from genet_ext.batching import in_chunks
from genet_ext.models import Models
from genet_ext.objective import Target, prior_mean
from genet_ext.reference import add_prior_gradient, algebraic_silu, prior_energy

FIRST_DAMPING, LEAST_DAMPING = 1e-2, 1e-6
SOFTER, HARDER = 0.2, 8.0  # factors on the damping after a step that was taken, or was not
SLACK = 1e-6  # relative; float32 cannot tell objectives closer than that


@dataclass(frozen=True)
class Outcome:
    """theta [B, P], loss [B] there, and the steps each face tried, int [B]."""

    theta: Tensor
    loss: Tensor
    iterations: Tensor


def levenberg_marquardt(
    models: Models, target: Target, start: Tensor, iterations: int = 10, tol: float = 0.0
) -> Outcome:
    """Minimise the objective of every face from ``start`` [B, P], each face for itself.

    Args:
        models: the frozen networks and the prior.
        target: features [B, D] and regressed parameters [B, P] of the faces.
        start: [B, P].
        iterations: steps at most.
        tol: a face is done when no parameter moves by this much in a step.
    """
    lower, upper = models.space.lower.to(start), models.space.upper.to(start)
    problem = _Problem(models, lower, upper)
    theta, mean = start.clamp(lower, upper), prior_mean(models, target.regressed)
    loss = in_chunks(problem.loss, theta, target.features, mean)[0]
    damping = torch.full_like(loss, FIRST_DAMPING)
    count = torch.zeros(len(theta), dtype=torch.int64)
    active = torch.ones(len(theta), dtype=torch.bool)
    for _ in range(iterations):
        rows = active.nonzero()[:, 0]
        if not len(rows):
            break
        before = theta[rows]
        theta[rows], loss[rows], damping[rows] = in_chunks(
            problem.step, before, loss[rows], damping[rows], target.features[rows], mean[rows]
        )
        count[rows] += 1
        moved = (theta[rows] - before).abs().amax(1)
        # A refused step moves nothing: such a face tries again with more damping, unless that is hopeless.
        active[rows] = (moved >= tol) | ((moved == 0) & (damping[rows] < 1e6))
    return Outcome(theta, loss, count)


class _Problem:
    """The objective of a chunk of faces, and one step down."""

    def __init__(self, models: Models, lower: Tensor, upper: Tensor) -> None:
        self.mlp, self.prior = models.feature_generator.mlp_weights(), models.prior
        self.lower, self.upper = lower, upper
        w3 = self.mlp[4].double()
        gram = w3.T @ (self.prior.feature_weight.double()[:, None] * w3)
        values, vectors = torch.linalg.eigh(gram)
        self.root = (values.clamp(min=0).sqrt()[:, None] * vectors.T).float()  # R, R^T R = w3^T W w3

    def loss(self, theta: Tensor, features: Tensor, mean: Tensor) -> Tensor:
        """[B]."""
        w1, b1, w2, b2, w3, b3 = self.mlp
        hidden = algebraic_silu(algebraic_silu(theta @ w1.T + b1) @ w2.T + b2)
        residual = hidden @ w3.T + b3 - features
        distance = 0.5 * (self.prior.feature_weight * residual * residual).sum(1)
        return distance + prior_energy(theta, mean, self.prior.precision, self.prior.rate)

    def step(
        self, theta: Tensor, loss: Tensor, damping: Tensor, features: Tensor, mean: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """theta [B, P], loss [B] and damping [B] after one step."""
        w1, b1, w2, b2, w3, b3 = self.mlp
        before1 = theta @ w1.T + b1
        before2 = algebraic_silu(before1) @ w2.T + b2
        slope1, slope2 = _silu_slope(before1), _silu_slope(before2)
        residual = algebraic_silu(before2) @ w3.T + b3 - features
        by_hidden = (self.prior.feature_weight * residual) @ w3 * slope2
        gradient = add_prior_gradient(
            (by_hidden @ w2 * slope1) @ w1, theta, mean, self.prior.precision, self.prior.rate
        )
        factor = self.root @ (slope2[:, :, None] * ((w2 * slope1[:, None, :]) @ w1))
        curvature = torch.baddbmm(self.prior.precision, factor.mT, factor)
        # Parameters that the gradient presses against a bound stay there: their rows become the identity.
        held = ((theta <= self.lower) & (gradient > 0)) | ((theta >= self.upper) & (gradient < 0))
        free = (~held).to(theta)
        diagonal = (1 + damping[:, None]) * curvature.diagonal(dim1=1, dim2=2)
        curvature.mul_(free[:, :, None]).mul_(free[:, None, :])
        curvature.diagonal(dim1=1, dim2=2).copy_(torch.where(held, 1, diagonal))
        root, _ = torch.linalg.cholesky_ex(curvature)
        move = torch.cholesky_solve((gradient * free)[:, :, None], root)[:, :, 0]
        trial = torch.minimum(torch.maximum(theta - move, self.lower), self.upper)
        trial_loss = self.loss(trial, features, mean)
        better = trial_loss <= loss * (1 + SLACK)
        return (
            torch.where(better[:, None], trial, theta),
            torch.where(better, trial_loss, loss),
            torch.where(better, (damping * SOFTER).clamp(min=LEAST_DAMPING), damping * HARDER),
        )


def _silu_slope(x: Tensor) -> Tensor:
    s = 1 / torch.sqrt(1 + x * x)
    return 0.5 * (1 + x * s * (1 + s * s))
