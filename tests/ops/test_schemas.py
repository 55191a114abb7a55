"""Every operator that is registered has a wrapper, a twin of the same signature, and passes opcheck."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch

from genet_ext import ops, reference

NAMESPACE = "genet_ext::"
OPERATORS = sorted(
    name.removeprefix(NAMESPACE)
    for name in torch._C._dispatch_get_all_op_names()
    if name.startswith(NAMESPACE) and "." not in name
)
# Python arguments that the schema spells out.
SPELLED_OUT = {"betas": ("beta1", "beta2"), "mlp": ("w1", "b1", "w2", "b2", "w3", "b3")}


def sample(name: str, device: torch.device) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Small arguments, as the schema takes them. A new operator adds its own here."""
    random = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=random).to(device)

    faces, width, features, hidden = 5, 6, 7, 8
    state = (normal(faces, width), normal(faces, width).square())
    step = torch.zeros(faces, dtype=torch.int32, device=device)
    active = torch.ones(faces, dtype=torch.bool, device=device)
    bounds = (torch.full((width,), -1.0, device=device), torch.full((width,), 1.0, device=device))
    prior = (normal(faces, width), torch.eye(width, device=device), torch.ones(width, device=device))
    adam = dict(lr=0.05, beta1=0.9, beta2=0.99, eps=1e-8)
    if name == "feature_distance":
        return (normal(faces, features), normal(faces, features), normal(features).abs(), "huber", 0.7), {}
    if name == "adam_step_":
        names = ("prior_mean", "prior_precision", "prior_rate")
        options = dict(zip(names, prior, strict=True)) | adam
        return (normal(faces, width), normal(faces, width), *state, step, active, *bounds), options
    if name == "fit_mlp_":
        sizes = ((hidden, width), (hidden,), (hidden, hidden), (hidden,), (features, hidden), (features,))
        mlp = tuple(normal(*size) for size in sizes)
        tensors = (normal(faces, width), *state, step, active, normal(faces, features), *mlp)
        options = dict(kind="huber", delta=0.7, lr_decay=0.99, tol=0.0, n_iter=3) | adam
        return (*tensors, normal(features).abs(), *prior, *bounds), options
    raise NotImplementedError(f"{name} has no sample arguments: add some to {__file__}")


def test_operators_are_registered():
    assert OPERATORS == ["adam_step_", "feature_distance", "fit_mlp_"]


@pytest.mark.parametrize("name", OPERATORS)
def test_wrapper_and_reference_have_one_signature(name):
    assert inspect.signature(getattr(ops, name)) == inspect.signature(getattr(reference, name))


@pytest.mark.parametrize("name", OPERATORS)
def test_schema_names_the_wrapper_s_arguments(name):
    parameters = inspect.signature(getattr(ops, name)).parameters
    spelled_out = [part for argument in parameters for part in SPELLED_OUT.get(argument, (argument,))]
    schema = getattr(torch.ops.genet_ext, name).default._schema
    # In a schema arguments with a default come last, so keyword-only ones may be in another order.
    assert sorted(argument.name for argument in schema.arguments) == sorted(spelled_out)
    positional = [argument.name for argument in schema.arguments if not argument.kwarg_only]
    assert positional == spelled_out[: len(positional)]


@pytest.mark.parametrize("name", OPERATORS)
def test_what_an_operator_changes_is_in_its_schema(name, device):
    args, options = sample(name, device)
    before = [argument.clone() if isinstance(argument, torch.Tensor) else argument for argument in args]
    getattr(torch.ops.genet_ext, name)(*args, **options)
    for argument, old, new in zip(
        getattr(torch.ops.genet_ext, name).default._schema.arguments, before, args, strict=False
    ):
        if isinstance(new, torch.Tensor) and not torch.equal(old, new):
            assert argument.alias_info is not None, argument.name
            assert argument.alias_info.is_write, argument.name


@pytest.mark.parametrize("name", OPERATORS)
def test_opcheck(name, device):
    args, options = sample(name, device)
    if name == "feature_distance":
        args = (args[0].requires_grad_(), *args[1:])
    torch.library.opcheck(getattr(torch.ops.genet_ext, name).default, args, options)
