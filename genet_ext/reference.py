"""The native operators once more, in plain PyTorch.

Every operator of :mod:`genet_ext.ops` has a twin here with the same name, the same arguments and the same
meaning. The twins are what the tests hold the kernels against (in float64), the baseline of the benchmarks,
and what ``backend="reference"`` runs where no compiler was at hand. They are written to be read: no blocking,
no in-place tricks beyond what an operator's contract asks for, any floating-point dtype, any device,
gradients by autograd.

Shapes: B faces, P parameters, D features, H1 and H2 hidden units.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

DistanceKind = Literal["squared", "l1", "huber", "cosine"]
DISTANCE_KINDS: tuple[str, ...] = get_args(DistanceKind)

Precision = Literal["full", "tensor"]

Mlp = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]
"""Weights of the feature generator: w1 [H1, P], b1 [H1], w2 [H2, H1], b2 [H2], w3 [D, H2], b3 [D]."""


def feature_distance(
    pred: Tensor, target: Tensor, weight: Tensor, kind: DistanceKind = "squared", delta: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Weighted distance of each face's features to its target, with the gradient by ``pred``.

    Args:
        pred: [B, D] features of the rendering.
        target: [B, D] features of the photograph.
        weight: [D] weight of each feature, >= 0.
        kind: with r = pred - target, the sum over d of ``weight[d] * rho(r[d])``, where rho is
            ``"squared"``: 0.5 r^2;
            ``"l1"``: |r|, with gradient 0 at r = 0;
            ``"huber"``: 0.5 r^2 for |r| <= delta, else delta (|r| - 0.5 delta);
            or ``"cosine"``: 1 - the cosine of pred and target, ``weight`` inside every inner product; a face
            whose pred or target is the zero vector has loss 1 and gradient 0.
        delta: where Huber's parabola becomes a line, > 0; the other kinds ignore it.

    Returns:
        loss [B] and grad [B, D], the gradient of each face's loss by its row of ``pred``.

    Raises:
        ValueError: ``kind`` is unknown, or ``delta`` is not above 0.
    """
    if kind not in DISTANCE_KINDS:
        raise ValueError(f"kind: expected one of {', '.join(DISTANCE_KINDS)}, got {kind!r}")
    if not delta > 0:
        raise ValueError(f"delta: expected a number above 0, got {delta}")
    if kind == "cosine":
        return _cosine_distance(pred, target, weight)
    residual = pred - target
    size = residual.abs()
    if kind == "squared":
        rho, slope = 0.5 * residual**2, residual
    elif kind == "l1":
        rho, slope = size, torch.where(residual.isnan(), residual, residual.sign())
    else:
        rho = torch.where(size <= delta, 0.5 * residual**2, delta * (size - 0.5 * delta))
        slope = residual.clamp(-delta, delta)
    return (weight * rho).sum(dim=1), weight * slope


def _cosine_distance(pred: Tensor, target: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    dot = (weight * pred * target).sum(dim=1, keepdim=True)
    pred_sq = (weight * pred * pred).sum(dim=1, keepdim=True)
    target_sq = (weight * target * target).sum(dim=1, keepdim=True)
    degenerate = (pred_sq == 0) | (target_sq == 0)
    norms = torch.where(degenerate, torch.ones_like(dot), pred_sq.sqrt() * target_sq.sqrt())
    cosine = dot / norms
    grad = weight * (cosine / torch.where(degenerate, torch.ones_like(dot), pred_sq) * pred - target / norms)
    loss = torch.where(degenerate, torch.ones_like(dot), 1 - cosine)
    return loss.squeeze(1), torch.where(degenerate, torch.zeros_like(grad), grad)


def adam_step_(
    params: Tensor,
    grad: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    step: Tensor,
    active: Tensor,
    lower: Tensor,
    upper: Tensor,
    *,
    lr: float,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    prior_mean: Tensor | None = None,
    prior_precision: Tensor | None = None,
    prior_rate: Tensor | None = None,
) -> None:
    """One Adam step of every active face, in place, then projection to the bounds.

    The update is ``torch.optim.Adam``'s: both moments bias-corrected, ``eps`` outside the square root. The
    step count is per face. The gradient of :func:`prior_energy` is added to ``grad`` first. Where a parameter
    is exactly 0 the rate's subgradient is the one that makes the whole gradient smallest: a parameter stays
    at 0 until the rest of its gradient exceeds the rate.

    Args:
        params: [B, P], changed in place.
        grad: [B, P] gradient of the data term by ``params``.
        exp_avg: [B, P] first moment, changed in place; zeros before the first step.
        exp_avg_sq: [B, P] second moment, changed in place; zeros before the first step.
        step: int32 [B], steps each face has taken so far; incremented for active faces.
        active: bool [B]; an inactive face is left untouched, whatever its gradient.
        lower: [P] bounds, -inf where there is none.
        upper: [P] bounds, +inf where there is none; ``lower <= upper``.
        lr: learning rate.
        betas: decay of the first and of the second moment, in [0, 1).
        eps: > 0.
        prior_mean: [B, P], given together with ``prior_precision`` or not at all.
        prior_precision: [P, P], symmetric.
        prior_rate: [P], >= 0.
    """
    new = adam_update(
        params,
        add_prior_gradient(grad, params, prior_mean, prior_precision, prior_rate),
        exp_avg,
        exp_avg_sq,
        step + 1,
        lower,
        upper,
        lr=torch.full_like(step, lr, dtype=params.dtype),
        betas=betas,
        eps=eps,
    )
    on = active[:, None]
    for state, value in zip((params, exp_avg, exp_avg_sq), new, strict=True):
        state.copy_(torch.where(on, value, state))
    step += active.to(step.dtype)


def adam_update(
    params: Tensor,
    grad: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    step: Tensor,
    lower: Tensor,
    upper: Tensor,
    *,
    lr: Tensor,
    betas: tuple[float, float],
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Parameters and moments [B, P] after step number ``step`` [B] (from 1) at learning rate ``lr`` [B]."""
    beta1, beta2 = betas
    count = step[:, None].to(torch.float64)
    correction1 = (1 - beta1**count).to(params.dtype)
    correction2_sqrt = (1 - beta2**count).sqrt().to(params.dtype)
    exp_avg = exp_avg + (1 - beta1) * (grad - exp_avg)
    exp_avg_sq = beta2 * exp_avg_sq + (1 - beta2) * grad * grad
    moved = params - lr[:, None] / correction1 * exp_avg / (exp_avg_sq.sqrt() / correction2_sqrt + eps)
    return torch.minimum(torch.maximum(moved, lower), upper), exp_avg, exp_avg_sq


def prior_energy(
    params: Tensor, mean: Tensor | None, precision: Tensor | None, rate: Tensor | None
) -> Tensor:
    """``0.5 (x - mean)^T precision (x - mean) + sum_k rate[k] |x[k]|`` of each face: [B, P] -> [B]."""
    energy = torch.zeros_like(params[:, 0])
    if mean is not None and precision is not None:
        offset = params - mean
        energy = energy + 0.5 * (offset @ precision * offset).sum(dim=1)
    if rate is not None:
        energy = energy + (rate * params.abs()).sum(dim=1)
    return energy


def add_prior_gradient(
    grad: Tensor, params: Tensor, mean: Tensor | None, precision: Tensor | None, rate: Tensor | None
) -> Tensor:
    """``grad`` [B, P] plus the gradient of :func:`prior_energy` (at 0, its least subgradient)."""
    if mean is not None and precision is not None:
        grad = grad + (params - mean) @ precision
    if rate is not None:
        at_zero = grad.sign() * (grad.abs() - rate).clamp(min=0)
        grad = torch.where(params == 0, at_zero, grad + rate * params.sign())
    return grad


def algebraic_silu(x: Tensor) -> Tensor:
    """``0.5 x (1 + x / sqrt(1 + x^2))``: SiLU's shape from one square root and one division, without exp."""
    return 0.5 * x * (1 + x / (1 + x * x).sqrt())


def mlp_features(params: Tensor, mlp: Mlp) -> Tensor:
    """Features of the feature generator: [B, P] -> [B, D]."""
    w1, b1, w2, b2, w3, b3 = mlp
    hidden1 = algebraic_silu(params @ w1.T + b1)
    hidden2 = algebraic_silu(hidden1 @ w2.T + b2)
    return hidden2 @ w3.T + b3


def fit_mlp_(
    params: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    step: Tensor,
    active: Tensor,
    target: Tensor,
    mlp: Mlp,
    feature_weight: Tensor,
    prior_mean: Tensor,
    prior_precision: Tensor,
    prior_rate: Tensor,
    lower: Tensor,
    upper: Tensor,
    *,
    kind: DistanceKind = "squared",
    delta: float = 1.0,
    lr: float = 0.05,
    lr_decay: float = 1.0,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    tol: float = 0.0,
    n_iter: int = 100,
    precision: Precision = "full",
) -> Tensor:
    """Up to ``n_iter`` search steps of every active face through the feature generator, in place.

    Each step moves a face by :func:`adam_step_` down the gradient of
    ``feature_distance(mlp_features(x), target, feature_weight, kind, delta) + prior_energy(x)``.
    A call with ``n_iter = 20`` and five calls with ``n_iter = 4`` do the same work.

    Args:
        params: [B, P], changed in place.
        exp_avg, exp_avg_sq: [B, P] moments, changed in place.
        step: int32 [B] steps taken so far, changed in place; the t-th step of a face (from 1) has learning
            rate ``lr * lr_decay ** (t - 1)``.
        active: bool [B], changed in place. A face is switched off after a step whose largest parameter
            change, after the bounds, is below ``tol``; and, before the step, when its objective or gradient
            is not finite.
        target: [B, D] features of the photographs.
        mlp: the feature generator's weights, see :data:`Mlp`.
        feature_weight: [D], >= 0.
        prior_mean: [B, P].
        prior_precision: [P, P], symmetric.
        prior_rate: [P], >= 0.
        lower, upper: [P] bounds.
        kind, delta: see :func:`feature_distance`.
        lr, lr_decay, betas, eps: see :func:`adam_step_`.
        tol: in units of the parameters; 0 never stops a face.
        n_iter: steps at most, >= 0.
        precision: the operator's choice of arithmetic; here every choice computes in the tensors' dtype.

    Returns:
        loss [B]: the objective at the parameters returned; NaN for a face whose objective or gradient was not
        finite in this call (its parameters are those before the failed step).
    """
    failed = torch.zeros_like(active)
    for _ in range(n_iter):
        if not bool(active.any()):
            break
        loss, grad = _mlp_objective(
            params, target, mlp, feature_weight, prior_mean, prior_precision, kind, delta
        )
        loss = loss + prior_energy(params, None, None, prior_rate)
        grad = add_prior_gradient(grad, params, None, None, prior_rate)
        finite = loss.isfinite() & grad.isfinite().all(dim=1)
        failed |= active & ~finite
        active &= finite
        rate = lr * lr_decay ** step.to(torch.float64)
        new = adam_update(
            params,
            grad,
            exp_avg,
            exp_avg_sq,
            step + 1,
            lower,
            upper,
            lr=rate.to(params.dtype),
            betas=betas,
            eps=eps,
        )
        on = active[:, None]
        change = (new[0] - params).abs().amax(dim=1)
        for state, value in zip((params, exp_avg, exp_avg_sq), new, strict=True):
            state.copy_(torch.where(on, value, state))
        step += active.to(step.dtype)
        active &= ~(change < tol)
    loss, _ = _mlp_objective(params, target, mlp, feature_weight, prior_mean, prior_precision, kind, delta)
    loss = loss + prior_energy(params, None, None, prior_rate)
    return torch.where(failed | ~loss.isfinite(), torch.full_like(loss, torch.nan), loss)


def _mlp_objective(
    params: Tensor,
    target: Tensor,
    mlp: Mlp,
    feature_weight: Tensor,
    prior_mean: Tensor,
    prior_precision: Tensor,
    kind: DistanceKind,
    delta: float,
) -> tuple[Tensor, Tensor]:
    """The smooth part of the objective (all but the rate) and its gradient: [B], [B, P]."""
    with torch.enable_grad():  # some host programs switch autograd off for the process
        x = params.detach().requires_grad_()
        pred = mlp_features(x, mlp)
    loss, grad_pred = feature_distance(pred.detach(), target, feature_weight, kind, delta)
    (grad,) = torch.autograd.grad(pred, x, grad_pred)
    loss = loss + prior_energy(params, prior_mean, prior_precision, None)
    return loss, add_prior_gradient(grad, params, prior_mean, prior_precision, None)
