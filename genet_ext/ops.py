"""The native operators: distance and gradient, Adam step, and the fused search, on CPU and CUDA.

The only module that touches ``torch.ops``. Every operator has a twin of the same name and signature in
:mod:`genet_ext.reference`, whose docstrings hold for both; what is said here is what the kernels add.

All operators: float32 or float64 (``fit_mlp_``: float32), all tensors of one call on one device, CUDA on the
current stream and without synchronising. Tensors need not be contiguous; those that are, are not copied. A
face's numbers depend on that face alone: bit for bit the same whatever else is in the batch, and however many
threads run. Bad arguments raise RuntimeError naming the argument, what was expected and what came.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from genet_ext import _build
from genet_ext.reference import DistanceKind, Mlp, Precision

_build.load_operators()


def feature_distance(
    pred: Tensor, target: Tensor, weight: Tensor, kind: DistanceKind = "squared", delta: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Weighted distance of each face's features to its target, with the gradient by ``pred``.

    See :func:`genet_ext.reference.feature_distance`. ``loss`` can be differentiated by ``pred`` (once);
    ``grad`` is a value, no part of a graph.

    Returns:
        loss [B] and grad [B, D].
    """
    _require_kernel(pred)
    _refuse_gradient(target=target, weight=weight)
    loss, grad = torch.ops.genet_ext.feature_distance(pred, target, weight, kind, delta)
    return loss, grad


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

    See :func:`genet_ext.reference.adam_step_`. At most 4096 parameters. Not differentiable.
    """
    _require_kernel(params)
    _refuse_gradient(params=params, grad=grad, exp_avg=exp_avg, exp_avg_sq=exp_avg_sq, prior_mean=prior_mean)
    torch.ops.genet_ext.adam_step_(
        params,
        grad,
        exp_avg,
        exp_avg_sq,
        step,
        active,
        lower,
        upper,
        lr=lr,
        beta1=betas[0],
        beta2=betas[1],
        eps=eps,
        prior_mean=prior_mean,
        prior_precision=prior_precision,
        prior_rate=prior_rate,
    )


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

    See :func:`genet_ext.reference.fit_mlp_`. On CUDA this is one launch. Not differentiable.

    Returns:
        loss [B].
    """
    _require_kernel(params)
    _refuse_gradient(
        params=params, exp_avg=exp_avg, exp_avg_sq=exp_avg_sq, target=target, prior_mean=prior_mean
    )
    loss: Tensor = torch.ops.genet_ext.fit_mlp_(
        params,
        exp_avg,
        exp_avg_sq,
        step,
        active,
        target,
        *(weight.detach() for weight in mlp),
        feature_weight,
        prior_mean,
        prior_precision,
        prior_rate,
        lower,
        upper,
        kind=kind,
        delta=delta,
        lr=lr,
        lr_decay=lr_decay,
        beta1=betas[0],
        beta2=betas[1],
        eps=eps,
        tol=tol,
        n_iter=n_iter,
        precision=precision,
    )
    return loss


def _require_kernel(tensor: Tensor) -> None:
    """A clear error where a CUDA tensor meets a process without CUDA kernels."""
    if tensor.is_cuda and _build.cuda_problem():
        raise RuntimeError(f"genet_ext has no CUDA operators in this process: {_build.cuda_problem()}")


def _refuse_gradient(**tensors: Tensor | None) -> None:
    """An error instead of a gradient that would silently be zero."""
    if torch.is_grad_enabled():
        for name, tensor in tensors.items():
            if tensor is not None and tensor.requires_grad:
                raise RuntimeError(
                    f"{name}: expected a tensor that needs no gradient (detach it), got one that does"
                )


def _fake_feature_distance(pred: Tensor, *args: Any) -> tuple[Tensor, Tensor]:
    return pred.new_empty(pred.shape[:1]), torch.empty_like(pred, memory_format=torch.contiguous_format)


def _fake_adam_step(*args: Any, **kwargs: Any) -> None:
    return None


def _fake_fit_mlp(params: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    return params.new_empty(params.shape[:1])


def _save_gradient(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(output[1])


def _distance_backward(ctx: Any, loss_grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    (grad,) = ctx.saved_tensors
    return loss_grad[:, None] * grad, None, None, None, None


torch.library.register_fake("genet_ext::feature_distance", _fake_feature_distance)
torch.library.register_fake("genet_ext::adam_step_", _fake_adam_step)
torch.library.register_fake("genet_ext::fit_mlp_", _fake_fit_mlp)
torch.library.register_autograd(
    "genet_ext::feature_distance", _distance_backward, setup_context=_save_gradient
)
