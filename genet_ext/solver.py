"""The search: from a start to the parameters whose features match the photograph's, every face for itself."""

from __future__ import annotations

from dataclasses import dataclass, fields
from types import ModuleType
from typing import Literal, get_args

import torch
from torch import Tensor

from genet_ext import reference
from genet_ext.models import Models
from genet_ext.objective import Target, image_objective, prior_mean
from genet_ext.reference import DISTANCE_KINDS, DistanceKind

Objective = Literal["feature", "image"]
Backend = Literal["native", "reference"]
Precision = Literal["full", "tensor"]


@dataclass(frozen=True)
class SearchSettings:
    """Everything that steers the search; the defaults are those of the model card.

    Attributes:
        objective: ``"feature"`` (through H, fused, fast) or ``"image"`` (through G and F).
        iterations: steps at most, >= 0; 0 leaves the start as it is.
        lr: Adam's learning rate, in units of the parameters.
        lr_decay: the learning rate of step t (from 1) is ``lr * lr_decay ** (t - 1)``.
        tol: a face has converged when no parameter moves by this much in a step.
        betas, eps: Adam's.
        kind, delta: the distance, see :func:`genet_ext.ops.feature_distance`.
        backend: ``"native"`` kernels, or the same maths in plain PyTorch (``"reference"``).
        precision: ``"full"`` float32, the same bits on every device, or ``"tensor"``: float16 products on a
            GPU's tensor cores, some ten times faster for many faces (feature objective, native backend).
    """

    objective: Objective = "feature"
    iterations: int = 200
    lr: float = 0.03
    lr_decay: float = 0.985
    tol: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    kind: DistanceKind = "squared"
    delta: float = 1.0
    backend: Backend = "native"
    precision: Precision = "full"

    def __post_init__(self) -> None:
        _check_choice("objective", self.objective, get_args(Objective))
        _check_choice("backend", self.backend, get_args(Backend))
        _check_choice("kind", self.kind, DISTANCE_KINDS)
        _check_choice("precision", self.precision, get_args(Precision))
        if self.precision == "tensor" and (self.objective, self.backend) != ("feature", "native"):
            raise ValueError(
                "precision: 'tensor' goes with objective='feature' and backend='native', "
                f"got {self.objective!r} and {self.backend!r}"
            )
        if isinstance(self.iterations, bool) or not isinstance(self.iterations, int) or self.iterations < 0:
            raise ValueError(f"iterations: expected an integer of at least 0, got {self.iterations!r}")
        for name, low, high in (("lr", 0, None), ("lr_decay", 0, 1), ("eps", 0, None), ("delta", 0, None)):
            value = getattr(self, name)
            if not (value > low and (high is None or value <= high)):
                limit = f"above {low}" + ("" if high is None else f" and at most {high}")
                raise ValueError(f"{name}: expected a number {limit}, got {value!r}")
        if not self.tol >= 0:
            raise ValueError(f"tol: expected a number of at least 0, got {self.tol!r}")
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas: expected two numbers in [0, 1), got {self.betas!r}")

    @property
    def ops(self) -> ModuleType:
        """The module with the operators of this backend."""
        if self.backend == "reference":
            return reference
        from genet_ext import ops

        return ops


def _check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name}: expected one of {', '.join(map(repr, choices))}; got {value!r}")


SETTING_NAMES = tuple(f.name for f in fields(SearchSettings))


@dataclass(frozen=True)
class SearchOutcome:
    """Where the search ended.

    Attributes:
        theta: float32 [B, P].
        loss: float32 [B], the objective there; NaN for a failed face or one that was not valid.
        iterations: int32 [B].
        converged: bool [B].
    """

    theta: Tensor
    loss: Tensor
    iterations: Tensor
    converged: Tensor


@dataclass
class _State:
    """Adam's state of B faces, changed in place by the operators."""

    theta: Tensor
    exp_avg: Tensor
    exp_avg_sq: Tensor
    step: Tensor
    active: Tensor


def search(
    models: Models,
    target: Target,
    start: Tensor,
    settings: SearchSettings,
    lower: Tensor | None = None,
    upper: Tensor | None = None,
) -> SearchOutcome:
    """Minimise the objective of every valid face from ``start`` [B, P].

    Args:
        models: the frozen networks and the prior.
        target: what is known of the faces; ``target.valid`` is False where there is none.
        start: [B, P], moved into the bounds first.
        settings: how to search.
        lower, upper: [P] bounds, those of the parameter space unless given; equal ones hold a parameter
            fixed.
    """
    lower = (models.space.lower if lower is None else lower).to(start)
    upper = (models.space.upper if upper is None else upper).to(start)
    theta = start.clamp(lower, upper).contiguous()
    zeros = torch.zeros_like(theta)
    # A face without finite features has nothing to search for; it would only be found out one step later.
    active = target.valid & target.features.isfinite().all(1) & theta.isfinite().all(1)
    step = torch.zeros(len(theta), dtype=torch.int32, device=theta.device)
    state = _State(theta, zeros, zeros.clone(), step, active.clone())
    run = _search_features if settings.objective == "feature" else _search_image
    loss = run(models, target, state, settings, lower, upper)
    failed = ~active | ~loss.isfinite()
    loss = torch.where(failed, torch.full_like(loss, torch.nan), loss)
    return SearchOutcome(state.theta, loss, state.step, ~state.active & ~failed)


def _search_features(
    models: Models, target: Target, state: _State, settings: SearchSettings, lower: Tensor, upper: Tensor
) -> Tensor:
    """All iterations of all faces in one call of the fused operator."""
    prior = models.prior
    if settings.precision == "tensor" and state.theta.device.type != "cuda":
        raise ValueError(f"precision: 'tensor' needs device='cuda', got {state.theta.device.type!r}")
    how = {"precision": "tensor"} if settings.precision == "tensor" else {}
    loss: Tensor = settings.ops.fit_mlp_(
        state.theta,
        state.exp_avg,
        state.exp_avg_sq,
        state.step,
        state.active,
        target.features,
        models.feature_generator.mlp_weights(),
        prior.feature_weight,
        prior_mean(models, target.regressed),
        prior.precision,
        prior.rate,
        lower,
        upper,
        kind=settings.kind,
        delta=settings.delta,
        lr=settings.lr,
        lr_decay=settings.lr_decay,
        betas=settings.betas,
        eps=settings.eps,
        tol=settings.tol,
        n_iter=settings.iterations,
        **how,
    )
    return loss


def _search_image(
    models: Models, target: Target, state: _State, settings: SearchSettings, lower: Tensor, upper: Tensor
) -> Tensor:
    """The same search step by step, its gradient through the image generator and the extractor."""
    ops, prior, mean = settings.ops, models.prior, prior_mean(models, target.regressed)
    failed = ~state.active

    def objective() -> tuple[Tensor, Tensor]:
        return image_objective(models, state.theta, target, mean, settings.kind, settings.delta, ops)

    for iteration in range(settings.iterations):
        if not state.active.any():
            break
        loss, grad = objective()
        finite = loss.isfinite() & grad.isfinite().all(1)
        failed |= state.active & ~finite
        state.active &= finite
        before = state.theta.clone()
        ops.adam_step_(
            state.theta,
            grad,
            state.exp_avg,
            state.exp_avg_sq,
            state.step,
            state.active,
            lower,
            upper,
            lr=settings.lr * settings.lr_decay**iteration,
            betas=settings.betas,
            eps=settings.eps,
            prior_mean=mean,
            prior_precision=prior.precision,
            prior_rate=prior.rate,
        )
        state.active &= (state.theta - before).abs().amax(1) >= settings.tol
    loss, _ = objective()
    return torch.where(failed, torch.full_like(loss, torch.nan), loss)
