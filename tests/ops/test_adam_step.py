"""adam_step_ against its float64 reference and torch.optim.Adam, on every backend."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from genet_ext import ops, reference

STATE = ("params", "exp_avg", "exp_avg_sq", "step")
OPTIONS = dict(lr=0.05, betas=(0.9, 0.99), eps=1e-8)
PRIORS = {
    "no prior": (),
    "gaussian": ("mean", "precision"),
    "rate": ("rate",),
    "full": ("mean", "precision", "rate"),
}
# Batches and widths beside the kernel's block of at most 256 threads, in warps of 32.
SHAPES = [(1, 1), (1, 96), (3, 31), (33, 96), (130, 257), (4099, 8)]


def inputs(
    batch: int, width: int, prior: str = "no prior", dtype: torch.dtype = torch.float64
) -> dict[str, Tensor]:
    """Every tensor argument, made in float64 on the CPU; faces have taken 0, 1, 2 ... steps, some are off."""
    random = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=random, dtype=torch.float64)

    params, mean, grad, exp_avg = (
        normal(batch, width),
        normal(batch, width),
        normal(batch, width),
        normal(batch, width),
    )
    root = normal(width, width) / width**0.5
    case = dict(
        params=params.clamp(-1, 1),
        grad=grad,
        exp_avg=0.1 * exp_avg,
        exp_avg_sq=0.05 + 0.1 * normal(batch, width).square(),  # a tiny one would magnify every rounding
        step=torch.arange(batch, dtype=torch.int32) % 7,
        active=torch.arange(batch) % 5 != 4,
        lower=torch.full((width,), -1.0, dtype=torch.float64),
        upper=torch.full((width,), 1.0, dtype=torch.float64),
    )
    case["params"][:, ::3] = 0  # where the rate has its kink
    priors = dict(mean=mean, precision=root @ root.T, rate=normal(width).abs())
    case |= {f"prior_{name}": priors[name] for name in PRIORS[prior]}
    return cast(case, dtype)


def cast(case: dict[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """A copy of the case with its floating-point tensors in `dtype`."""
    return {name: (t.to(dtype) if t.is_floating_point() else t).clone() for name, t in case.items()}


def on(device: torch.device, case: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.to(device).clone() for name, tensor in case.items()}


def rows(case: dict[str, Tensor], index: Any) -> dict[str, Tensor]:
    """The case with only some of its faces."""
    per_face = {*STATE, "grad", "active", "prior_mean"}
    return {name: (t[index] if name in per_face else t).clone() for name, t in case.items()}


@pytest.mark.parametrize("prior", PRIORS)
@pytest.mark.parametrize(("batch", "width"), SHAPES)
def test_float32_is_as_near_the_truth_as_torch(device, prior, batch, width):
    case = inputs(batch, width, prior, torch.float32)
    truth, in_torch, ours = cast(case, torch.float64), cast(case, torch.float32), on(device, case)
    reference.adam_step_(**truth, **OPTIONS)
    reference.adam_step_(**in_torch, **OPTIONS)
    ops.adam_step_(**ours, **OPTIONS)
    assert torch.equal(ours["step"].cpu(), truth["step"])
    for name in STATE[:3]:
        error = (ours[name].cpu().double() - truth[name]).abs().max()
        torch_error = (in_torch[name].double() - truth[name]).abs().max()
        bound = 2 * torch_error + 4 * torch.finfo(torch.float32).eps * truth[name].abs().max().clamp(min=1)
        assert error <= bound, f"{name}: error {error:.2e}, torch's own {torch_error:.2e}"


@pytest.mark.parametrize("prior", PRIORS)
def test_float64_equals_reference(device, prior):
    truth = inputs(33, 96, prior)
    ours = on(device, truth)
    for _ in range(20):
        reference.adam_step_(**truth, **OPTIONS)
        ops.adam_step_(**ours, **OPTIONS)
    for name in STATE:
        torch.testing.assert_close(ours[name].cpu(), truth[name], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_beside_torch_adam_for_100_steps(device, dtype):
    """On a quadratic, whose gradient moves with the parameters."""
    case = on(device, inputs(17, 96, dtype=dtype))
    case |= dict(exp_avg=torch.zeros_like(case["params"]), exp_avg_sq=torch.zeros_like(case["params"]))
    case |= dict(step=torch.zeros_like(case["step"]), active=torch.ones_like(case["active"]))
    case |= dict(lower=case["lower"] - torch.inf, upper=case["upper"] + torch.inf)
    slope, centre = case["grad"].abs(), case["grad"].roll(1, dims=0)
    theirs = case["params"].clone().requires_grad_()
    adam = torch.optim.Adam([theirs], **OPTIONS)
    for _ in range(100):
        theirs.grad = slope * (theirs.detach() - centre)
        adam.step()
        case["grad"] = slope * (case["params"] - centre)
        ops.adam_step_(**case, **OPTIONS)
    tolerance = 1e-12 if dtype == torch.float64 else 2e-5
    torch.testing.assert_close(case["params"], theirs.detach(), rtol=0, atol=tolerance)
    assert (case["step"] == 100).all()


def test_reference_prior_gradient_is_autograd_of_its_energy():
    case = inputs(5, 9, "full")
    prior = [case[f"prior_{name}"] for name in ("mean", "precision", "rate")]
    params = torch.where(case["params"] == 0, 0.3, case["params"]).requires_grad_()
    (by_autograd,) = torch.autograd.grad(reference.prior_energy(params, *prior).sum(), params)
    ours = reference.add_prior_gradient(torch.zeros_like(params), params, *prior)
    torch.testing.assert_close(ours.detach(), by_autograd)


def test_rate_holds_a_parameter_at_zero(device):
    """At 0 a gradient smaller than the rate moves nothing; a larger one moves by what is left of it."""
    case = on(device, inputs(1, 4))
    case["params"][:] = 0
    case["exp_avg"][:] = 0
    case["active"][:] = True
    case["grad"][:] = torch.tensor([0.4, -0.4, 2.0, -2.0])
    ops.adam_step_(**case, **OPTIONS, prior_rate=torch.full((4,), 0.5, dtype=torch.float64, device=device))
    moved = case["params"][0].tolist()
    assert moved[:2] == [0, 0]
    assert moved[2] < 0 < moved[3]
    torch.testing.assert_close(
        case["exp_avg"][0, 2:].cpu(), 0.1 * torch.tensor([1.5, -1.5], dtype=torch.float64)
    )


@pytest.mark.parametrize("prior", PRIORS)
def test_inactive_faces_are_untouched(device, prior):
    case = on(device, inputs(10, 40, prior, torch.float32))
    case["grad"][4] = torch.nan
    before = {name: case[name].clone() for name in STATE}
    ops.adam_step_(**case, **OPTIONS)
    off = ~case["active"]
    assert off.sum() == 2
    for name in STATE:
        assert torch.equal(case[name][off], before[name][off])
        assert not torch.equal(case[name][~off], before[name][~off])


@pytest.mark.parametrize("prior", PRIORS)
def test_neutral_prior_changes_no_bit(device, prior):
    """An optional argument at its neutral value equals leaving it out."""
    plain, neutral = (
        on(device, inputs(9, 50, dtype=torch.float32)),
        on(device, inputs(9, 50, prior, torch.float32)),
    )
    for name in ("prior_precision", "prior_rate"):
        if name in neutral:
            neutral[name].zero_()
    ops.adam_step_(**plain, **OPTIONS)
    ops.adam_step_(**neutral, **OPTIONS)
    for name in STATE:
        assert torch.equal(plain[name], neutral[name])


@pytest.mark.parametrize("prior", PRIORS)
def test_faces_do_not_depend_on_each_other(device, prior):
    """Alone, in a batch, or in another order: the same bits."""
    case = on(device, inputs(45, 96, prior, torch.float32))
    batch = rows(case, slice(None))
    ops.adam_step_(**batch, **OPTIONS)
    order = torch.randperm(45, generator=torch.Generator().manual_seed(1)).to(device)
    moved = rows(case, order)
    ops.adam_step_(**moved, **OPTIONS)
    for name in STATE:
        assert torch.equal(moved[name], batch[name][order])
    for face in range(45):
        alone = rows(case, slice(face, face + 1))
        ops.adam_step_(**alone, **OPTIONS)
        for name in STATE:
            assert torch.equal(alone[name][0], batch[name][face])


def test_a_nan_face_harms_no_neighbour(device):
    case = on(device, inputs(9, 40, "full", torch.float32))
    clean = rows(case, slice(None))
    case["grad"][3, 5] = torch.nan
    ops.adam_step_(**case, **OPTIONS)
    ops.adam_step_(**clean, **OPTIONS)
    assert case["params"][3, 5].isnan(), "bounds must not turn NaN into a number"
    others = torch.arange(9, device=device) != 3
    for name in STATE:
        assert torch.equal(case[name][others], clean[name][others])


def test_empty_batch(device):
    case = on(device, inputs(0, 96, "full", torch.float32))
    ops.adam_step_(**case, **OPTIONS)
    assert case["params"].shape == (0, 96)


def test_non_contiguous_tensors_are_changed_in_place(device):
    case = on(device, inputs(13, 40, "full", torch.float32))
    expected = rows(case, slice(None))
    ops.adam_step_(**expected, **OPTIONS)
    gaps = {name: torch.stack([t, t], dim=-1)[..., 0] for name, t in case.items()}
    assert not any(tensor.is_contiguous() for tensor in gaps.values())
    ops.adam_step_(**gaps, **OPTIONS)
    for name in STATE:
        assert torch.equal(gaps[name], expected[name])


BAD_TENSORS = {
    "params": (torch.zeros(4), r"params: expected float32 or float64 \[B, P\], got float32 \[4\] on cpu"),
    "grad": (torch.zeros(4, 7), r"grad: expected float32 \[4, 8\] on cpu, got float32 \[4, 7\] on cpu"),
    "exp_avg": (
        torch.zeros(4, 8).double(),
        r"exp_avg: expected float32 \[4, 8\] on cpu, got float64 \[4, 8\]",
    ),
    "exp_avg_sq": (torch.zeros(3, 8), r"exp_avg_sq: expected float32 \[4, 8\] on cpu, got float32 \[3, 8\]"),
    "step": (torch.zeros(4), r"step: expected int32 \[4\] on cpu, got float32 \[4\]"),
    "active": (torch.ones(4, dtype=torch.uint8), r"active: expected bool \[4\] on cpu, got uint8 \[4\]"),
    "lower": (torch.zeros(()), r"lower: expected float32 \[8\] on cpu, got float32 \[\]"),
    "upper": (torch.zeros(4, 8), r"upper: expected float32 \[8\] on cpu, got float32 \[4, 8\]"),
    "prior_mean": (torch.zeros(8), r"prior_mean: expected float32 \[4, 8\] on cpu, got float32 \[8\]"),
    "prior_precision": (
        torch.zeros(8),
        r"prior_precision: expected float32 \[8, 8\] on cpu, got float32 \[8\]",
    ),
    "prior_rate": (torch.zeros(4, 8), r"prior_rate: expected float32 \[8\] on cpu, got float32 \[4, 8\]"),
}


@pytest.mark.parametrize("name", BAD_TENSORS)
def test_errors_name_the_tensor(name):
    case = inputs(4, 8, "full", torch.float32)
    before = case["params"].clone()
    bad, message = BAD_TENSORS[name]
    with pytest.raises(RuntimeError, match=message):
        ops.adam_step_(**{**case, name: bad}, **OPTIONS)
    assert torch.equal(case["params"], before)


@pytest.mark.parametrize("betas", [(1.0, 0.9), (0.9, -0.1), (float("nan"), 0.9)])
def test_errors_name_the_betas(betas):
    with pytest.raises(RuntimeError, match=r"betas: expected two numbers in \[0, 1\), got"):
        ops.adam_step_(**inputs(2, 3), **{**OPTIONS, "betas": betas})


@pytest.mark.parametrize("missing", ["prior_mean", "prior_precision"])
def test_mean_and_precision_come_together(missing):
    case = inputs(2, 3, "gaussian")
    del case[missing]
    with pytest.raises(RuntimeError, match="prior_mean, prior_precision: expected both or neither"):
        ops.adam_step_(**case, **OPTIONS)


def test_errors_name_the_width():
    with pytest.raises(RuntimeError, match=r"params: expected 1 to 4096 columns, got 0"):
        ops.adam_step_(**inputs(2, 0), **OPTIONS)


def test_refuses_parameters_that_need_a_gradient():
    case = inputs(2, 3)
    case["params"].requires_grad_()
    with pytest.raises(RuntimeError, match=r"^params: expected a tensor that needs no gradient"):
        ops.adam_step_(**case, **OPTIONS)


@pytest.mark.cuda
@pytest.mark.parametrize("name", ["grad", "step", "active", "upper", "prior_precision"])
def test_errors_name_the_device(name):
    case = on(torch.device("cuda"), inputs(4, 8, "full", torch.float32))
    case[name] = case[name].cpu()
    with pytest.raises(RuntimeError, match=rf"{name}: expected .* on cuda:0, got .* on cpu"):
        ops.adam_step_(**case, **OPTIONS)


@pytest.mark.cuda
def test_runs_on_the_current_stream():
    """On a side stream behind a slow kernel: reading its inputs too early would give other numbers."""
    case = on(torch.device("cuda"), inputs(256, 96, "full", torch.float32))
    expected = rows(case, slice(None))
    ops.adam_step_(**expected, **OPTIONS)
    grad, case["grad"] = case["grad"], torch.zeros_like(case["grad"])
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)
        case["grad"].copy_(grad)
        ops.adam_step_(**case, **OPTIONS)
    stream.synchronize()
    for name in STATE:
        assert torch.equal(case[name], expected[name])


@pytest.mark.cuda
def test_runs_in_a_cuda_graph():
    case = on(torch.device("cuda"), inputs(64, 96, "full", torch.float32))
    expected = rows(case, slice(None))
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        ops.adam_step_(**case, **OPTIONS)
    for _ in range(3):
        graph.replay()
        ops.adam_step_(**expected, **OPTIONS)
    for name in STATE:
        assert torch.equal(case[name], expected[name])
