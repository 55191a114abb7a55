"""feature_distance against its float64 reference, on every backend."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from genet_ext import ops, reference

KINDS = reference.DISTANCE_KINDS
DELTA = 0.7
# Batches and widths beside the kernels' own sizes: 32 lanes, 4 faces per CUDA block.
SHAPES = [(1, 1), (1, 256), (3, 31), (4, 32), (33, 65), (129, 256), (4099, 17)]


def inputs(batch: int, width: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> tuple[Tensor, ...]:
    """pred, target, weight; made in float64 on the CPU, so that every backend and dtype gets the same."""
    random = torch.Generator().manual_seed(seed)
    pred, target = torch.randn(2, batch, width, generator=random, dtype=torch.float64)
    weight = torch.rand(width, generator=random, dtype=torch.float64)
    return pred.to(dtype), target.to(dtype), weight.to(dtype)


def on(device: torch.device, tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(tensor.to(device) for tensor in tensors)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("batch", "width"), SHAPES)
def test_float32_is_as_near_the_truth_as_torch(device, kind, batch, width):
    case = inputs(batch, width)
    truth = reference.feature_distance(*(tensor.double() for tensor in case), kind, DELTA)
    in_torch = reference.feature_distance(*case, kind, DELTA)
    ours = ops.feature_distance(*on(device, case), kind, DELTA)
    for name, value, torch_value, true in zip(("loss", "grad"), ours, in_torch, truth, strict=True):
        assert value.shape == true.shape
        assert value.dtype == torch.float32
        error = (value.cpu().double() - true).abs().max()
        torch_error = (torch_value.double() - true).abs().max()
        scale = (
            true.abs().max().clamp(min=1)
        )  # a gradient that cancels to 0 is a difference of numbers near 1
        bound = 2 * torch_error + 4 * torch.finfo(torch.float32).eps * scale
        assert error <= bound, f"{name}: error {error:.2e}, torch's own {torch_error:.2e}"


@pytest.mark.parametrize("kind", KINDS)
def test_float64_equals_reference(device, kind):
    case = inputs(37, 100, torch.float64)
    ours = ops.feature_distance(*on(device, case), kind, DELTA)
    for value, true in zip(ours, reference.feature_distance(*case, kind, DELTA), strict=True):
        torch.testing.assert_close(value.cpu(), true, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("kind", KINDS)
def test_reference_gradient_is_autograd_of_its_loss(kind):
    pred, target, weight = inputs(5, 9, torch.float64)
    pred.requires_grad_()
    loss, grad = reference.feature_distance(pred, target, weight, kind, DELTA)
    (by_autograd,) = torch.autograd.grad(loss.sum(), pred)
    torch.testing.assert_close(grad.detach(), by_autograd)


@pytest.mark.parametrize("kind", KINDS)
def test_gradcheck(device, kind):
    pred, target, weight = on(device, inputs(3, 7, torch.float64))
    pred.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x: ops.feature_distance(x, target, weight, kind, DELTA)[0], pred, nondet_tol=0.0
    )


def test_huber_knee_and_l1_zero(device):
    residual = torch.tensor([[0.0, -0.0, DELTA, -DELTA, 2.0, -2.0]], dtype=torch.float64, device=device)
    target, weight = torch.zeros_like(residual), torch.ones(6, dtype=torch.float64, device=device)
    _, slope = ops.feature_distance(residual, target, weight, "huber", DELTA)
    assert slope.tolist() == [[0.0, 0.0, DELTA, -DELTA, DELTA, -DELTA]]
    _, slope = ops.feature_distance(residual, target, weight, "l1", DELTA)
    assert slope.tolist() == [[0.0, 0.0, 1.0, -1.0, 1.0, -1.0]]


@pytest.mark.parametrize("zero", ["pred", "target", "weight"])
def test_cosine_of_a_zero_vector(device, zero):
    case = dict(zip(("pred", "target", "weight"), on(device, inputs(4, 40)), strict=True))
    row = slice(None) if zero == "weight" else 2
    case[zero][row] = 0
    loss, grad = ops.feature_distance(**case, kind="cosine")
    rows = range(4) if zero == "weight" else [2]
    assert all(loss[r] == 1 and (grad[r] == 0).all() for r in rows)
    assert loss.isfinite().all()
    assert grad.isfinite().all()


@pytest.mark.parametrize("kind", KINDS)
def test_empty_batch_and_no_features(device, kind):
    loss, grad = ops.feature_distance(*on(device, inputs(0, 256)), kind)
    assert (loss.shape, grad.shape) == ((0,), (0, 256))
    loss, grad = ops.feature_distance(*on(device, inputs(3, 0)), kind)
    assert loss.tolist() == ([1.0] * 3 if kind == "cosine" else [0.0] * 3)
    assert grad.shape == (3, 0)


@pytest.mark.parametrize("kind", KINDS)
def test_non_contiguous_inputs(device, kind):
    pred, target, weight = on(device, inputs(13, 64))
    expected = ops.feature_distance(pred, target, weight, kind)
    gaps = torch.stack([pred, pred], dim=2)[:, :, 0]
    transposed = target.T.contiguous().T
    every_other = torch.stack([weight, weight], dim=1).reshape(-1)[::2]
    assert not (gaps.is_contiguous() or transposed.is_contiguous() or every_other.is_contiguous())
    for value, true in zip(ops.feature_distance(gaps, transposed, every_other, kind), expected, strict=True):
        assert torch.equal(value, true)


@pytest.mark.parametrize("kind", KINDS)
def test_faces_do_not_depend_on_each_other(device, kind):
    """Alone, in a batch, or in another order: the same bits."""
    pred, target, weight = on(device, inputs(45, 250))
    loss, grad = ops.feature_distance(pred, target, weight, kind)
    order = torch.randperm(45, generator=torch.Generator().manual_seed(1)).to(device)
    moved = ops.feature_distance(pred[order], target[order], weight, kind)
    assert torch.equal(moved[0], loss[order])
    assert torch.equal(moved[1], grad[order])
    for face in range(45):
        alone = ops.feature_distance(pred[face : face + 1], target[face : face + 1], weight, kind)
        assert torch.equal(alone[0][0], loss[face])
        assert torch.equal(alone[1][0], grad[face])


def test_threads_do_not_change_bits():
    case = inputs(4000, 100)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = ops.feature_distance(*case, "huber")
        torch.set_num_threads(2)
        two = ops.feature_distance(*case, "huber")
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(one[0], two[0])
    assert torch.equal(one[1], two[1])


@pytest.mark.parametrize("kind", KINDS)
def test_a_nan_face_harms_no_neighbour(device, kind):
    pred, target, weight = inputs(9, 64)
    clean = ops.feature_distance(*on(device, (pred, target, weight)), kind)
    pred[4, 7] = torch.nan
    loss, grad = ops.feature_distance(*on(device, (pred, target, weight)), kind)
    assert loss[4].isnan()
    assert grad[4, 7].isnan()
    others = torch.arange(9, device=device) != 4
    assert torch.equal(loss[others], clean[0][others])
    assert torch.equal(grad[others], clean[1][others])


BAD_CALLS = {
    "pred is 1-D": (
        dict(pred=torch.zeros(8)),
        r"pred: expected float32 or float64 \[B, D\], got float32 \[8\] on cpu",
    ),
    "pred is integer": (
        dict(pred=torch.zeros(4, 8, dtype=torch.int64)),
        r"pred: expected .*, got int64 \[4, 8\]",
    ),
    "pred is half": (
        dict(pred=torch.zeros(4, 8, dtype=torch.float16)),
        r"pred: expected .*, got float16 \[4, 8\]",
    ),
    "target has another batch": (
        dict(target=torch.zeros(3, 8)),
        r"target: expected float32 \[4, 8\] on cpu, got float32 \[3, 8\] on cpu",
    ),
    "target is float64": (
        dict(target=torch.zeros(4, 8, dtype=torch.float64)),
        r"target: .* got float64 \[4, 8\]",
    ),
    "weight is 2-D": (
        dict(weight=torch.zeros(4, 8)),
        r"weight: expected float32 \[8\] on cpu, got .*\[4, 8\]",
    ),
    "weight is short": (
        dict(weight=torch.zeros(7)),
        r"weight: expected float32 \[8\] on cpu, got float32 \[7\]",
    ),
    "kind is unknown": (
        dict(kind="euclid"),
        r"kind: expected one of squared, l1, huber, cosine, got 'euclid'",
    ),
    "delta is 0": (dict(delta=0.0), r"delta: expected a number above 0, got 0"),
    "delta is NaN": (dict(delta=float("nan")), r"delta: expected a number above 0, got nan"),
}


@pytest.mark.parametrize(("change", "message"), BAD_CALLS.values(), ids=BAD_CALLS.keys())
def test_errors_name_the_argument(change, message):
    good = dict(pred=torch.zeros(4, 8), target=torch.zeros(4, 8), weight=torch.zeros(8))
    with pytest.raises(RuntimeError, match=message):
        ops.feature_distance(**{**good, **change})


@pytest.mark.parametrize("name", ["kind", "delta"])
def test_reference_refuses_the_same_options(name):
    with pytest.raises(ValueError, match=f"^{name}: expected"):
        reference.feature_distance(*inputs(2, 3), **{name: "other" if name == "kind" else -1.0})


@pytest.mark.cuda
@pytest.mark.parametrize("name", ["pred", "target", "weight"])
def test_errors_name_the_device(name):
    case = dict(zip(("pred", "target", "weight"), on(torch.device("cuda"), inputs(4, 8)), strict=True))
    case[name] = case[name].cpu()
    blamed = "target" if name == "pred" else name
    with pytest.raises(RuntimeError, match=rf"{blamed}: expected float32 .* on c.*, got float32 .* on c"):
        ops.feature_distance(**case)


@pytest.mark.parametrize("name", ["target", "weight"])
def test_refuses_a_gradient_it_does_not_have(name):
    case = dict(zip(("pred", "target", "weight"), inputs(4, 8), strict=True))
    case[name].requires_grad_()
    with pytest.raises(RuntimeError, match=f"^{name}: expected a tensor that needs no gradient"):
        ops.feature_distance(**case)


@pytest.mark.cuda
def test_runs_on_the_current_stream():
    """On a side stream behind a slow kernel: reading its inputs too early would give the old numbers."""
    pred, target, weight = on(torch.device("cuda"), inputs(256, 256))
    expected = ops.feature_distance(pred, target, weight)
    late = torch.zeros_like(pred)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)
        late.copy_(pred)
        loss, grad = ops.feature_distance(late, target, weight)
    stream.synchronize()
    assert torch.equal(loss, expected[0])
    assert torch.equal(grad, expected[1])


@pytest.mark.cuda
def test_backends_agree():
    """Same formulas, same order of addition; only a * b + c may be rounded once or twice."""
    case = inputs(64, 256)
    for kind in KINDS:
        cpu = ops.feature_distance(*case, kind, DELTA)
        cuda = ops.feature_distance(*on(torch.device("cuda"), case), kind, DELTA)
        for one, other in zip(cpu, cuda, strict=True):
            torch.testing.assert_close(other.cpu(), one, rtol=2e-6, atol=1e-6)
