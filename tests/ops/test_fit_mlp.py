"""fit_mlp_ against its float64 reference, on every backend; its CUDA tiles: test_fit_mlp_tiles.py."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor

from genet_ext import ops, reference

KINDS = reference.DISTANCE_KINDS
PER_FACE = ("params", "exp_avg", "exp_avg_sq", "step", "active", "target", "prior_mean")
STATE = PER_FACE[:5]
PRODUCTION = (96, 128, 128, 256)
# P, H1, H2, D: production, nothing a multiple of anything, the widest, the narrowest.
SIZES = [PRODUCTION, (5, 17, 40, 3), (128, 256, 256, 256), (1, 1, 1, 1)]
OPTIONS: dict[str, Any] = dict(lr=0.05, lr_decay=0.98, betas=(0.9, 0.99), delta=0.3)


def problem(
    batch: int, sizes: tuple[int, int, int, int] = PRODUCTION, dtype: torch.dtype = torch.float32
) -> dict[str, Any]:
    """All tensor arguments, made in float64 on the CPU; targets that the generator nearly reaches."""
    width, hidden1, hidden2, features = sizes
    random = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=random, dtype=torch.float64)

    mlp = (
        normal(hidden1, width) * 1.5 / width**0.5,
        normal(hidden1) * 0.3,
        normal(hidden2, hidden1) * 1.5 / hidden1**0.5,
        normal(hidden2) * 0.3,
        normal(features, hidden2) / hidden2**0.5,
        normal(features) * 0.1,
    )
    weight, rate = 0.05 + 0.1 * normal(features).abs(), torch.where(torch.arange(width) % 3 == 0, 0.1, 0.0)
    root = normal(width, width) / width**0.5
    true = normal(batch, width) * 0.5
    case = dict(
        params=torch.zeros(batch, width),
        exp_avg=torch.zeros(batch, width),
        exp_avg_sq=torch.zeros(batch, width),
        step=torch.zeros(batch, dtype=torch.int32),
        active=torch.ones(batch, dtype=torch.bool),
        target=reference.mlp_features(true, mlp) + 0.05 * normal(batch, features),
        mlp=mlp,
        feature_weight=weight,
        prior_mean=true + 0.3 * normal(batch, width),
        prior_precision=root @ root.T + 0.5 * torch.eye(width),
        prior_rate=rate,
        lower=torch.full((width,), -0.6),
        upper=torch.full((width,), 0.6),
    )
    return moved(case, torch.device("cpu"), dtype)


def moved(case: dict[str, Any], device: torch.device, dtype: torch.dtype | None = None) -> dict[str, Any]:
    """A copy of the case elsewhere, its floating-point tensors in `dtype`."""

    def one(tensor: Tensor) -> Tensor:
        return tensor.to(device, dtype if dtype and tensor.is_floating_point() else tensor.dtype, copy=True)

    return {name: tuple(map(one, v)) if isinstance(v, tuple) else one(v) for name, v in case.items()}


def faces(case: dict[str, Any], index: Any) -> dict[str, Any]:
    """A copy with only some of the faces."""
    return {name: v[index].clone() if name in PER_FACE else v for name, v in case.items()}


def search(case: dict[str, Any], **options: Any) -> Tensor:
    return ops.fit_mlp_(**{**OPTIONS, **case, **options})


def assert_same_bits(case: dict[str, Any], other: dict[str, Any], names: tuple[str, ...] = STATE) -> None:
    for name in names:
        assert torch.equal(case[name].nan_to_num(7e7), other[name].nan_to_num(7e7)), name


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_float64_equals_reference(device, kind, sizes):
    truth = problem(7, sizes, torch.float64)
    ours = moved(truth, device)
    loss = search(ours, kind=kind, n_iter=25)
    true_loss = reference.fit_mlp_(**truth, **OPTIONS, kind=kind, n_iter=25)
    for name in STATE:
        torch.testing.assert_close(ours[name].cpu(), truth[name], rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(loss.cpu(), true_loss, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("batch", [1, 33])
def test_float32_is_as_near_the_truth_as_torch(device, kind, batch):
    truth, in_torch = problem(batch, dtype=torch.float64), problem(batch)
    ours = moved(in_torch, device)
    options = dict(kind=kind, n_iter=8 if kind == "l1" else 60)  # l1's gradient jumps where a residual is 0
    true_loss = reference.fit_mlp_(**truth, **OPTIONS, **options)
    reference.fit_mlp_(**in_torch, **OPTIONS, **options)
    loss = search(ours, **options)
    # Adam divides by the gradient's size: where that is near 0, one rounding turns a step. So the mean.
    error = (ours["params"].cpu().double() - truth["params"]).abs().mean()
    torch_error = (in_torch["params"].double() - truth["params"]).abs().mean()
    assert error <= 2 * torch_error + 1e-6, (error, torch_error)
    torch.testing.assert_close(loss.cpu().double(), true_loss, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_step_follows_finite_differences(device, kind):
    """The first moment after one step is (1 - beta1) times the gradient, by differences of the loss."""
    case = moved(problem(3, (12, 20, 24, 16), torch.float64), device)
    case["params"] += 0.1  # off the kinks at 0
    case |= dict(lower=case["lower"] - 9, upper=case["upper"] + 9)
    stepped = faces(case, slice(None))
    search(stepped, kind=kind, n_iter=1)
    gradient = stepped["exp_avg"] / (1 - OPTIONS["betas"][0])
    nudge = 1e-6
    for k in range(12):
        values = []
        for sign in (1, -1):
            at = faces(case, slice(None))
            at["params"][:, k] += sign * nudge
            values.append(search(at, kind=kind, n_iter=0))
        slope = (values[0] - values[1]) / (2 * nudge)
        torch.testing.assert_close(gradient[:, k], slope, rtol=1e-5, atol=1e-6)


def test_beside_torch_adam(device):
    """Without bounds and prior, the search is torch.optim.Adam on the distance."""
    case = moved(problem(9, dtype=torch.float64), device)
    for name in ("prior_precision", "prior_rate"):
        case[name].zero_()
    case |= dict(lower=case["lower"] - torch.inf, upper=case["upper"] + torch.inf)
    theirs = case["params"].clone().requires_grad_()
    adam = torch.optim.Adam([theirs], lr=0.05, betas=(0.9, 0.99), eps=1e-8)
    for _ in range(100):
        adam.zero_grad()
        residual = reference.mlp_features(theirs, case["mlp"]) - case["target"]
        (0.5 * case["feature_weight"] * residual**2).sum().backward()
        adam.step()
    search(case, n_iter=100, lr_decay=1.0)
    torch.testing.assert_close(case["params"], theirs.detach(), rtol=0, atol=1e-9)


@pytest.mark.parametrize("precision", ["full", pytest.param("tensor", marks=pytest.mark.cuda)])
@pytest.mark.parametrize("batch", [1, 6, 7, 25, 64, 131])
def test_batch_equals_loop_of_singles(device, batch, precision):
    if device.type == "cpu" and precision == "tensor":
        pytest.skip("tensor cores are CUDA's")
    case = moved(problem(batch), device)
    case["active"][batch // 2] = False
    together = faces(case, slice(None))
    options = dict(n_iter=12, tol=0.03, kind="huber", precision=precision)
    loss = search(together, **options)
    order = torch.randperm(batch, generator=torch.Generator().manual_seed(1)).to(device)
    shuffled = faces(case, order)
    shuffled_loss = search(shuffled, **options)
    assert torch.equal(shuffled_loss, loss[order])
    assert_same_bits(shuffled, faces(together, order))
    for face in range(0, batch, 1 if batch < 30 else 13):
        alone = faces(case, slice(face, face + 1))
        assert torch.equal(search(alone, **options), loss[face : face + 1])
        assert_same_bits(alone, faces(together, slice(face, face + 1)))


def test_threads_do_not_change_bits():
    one, two = problem(41), problem(41)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        loss_one = search(one, n_iter=15)
        torch.set_num_threads(2)
        loss_two = search(two, n_iter=15)
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(loss_one, loss_two)
    assert_same_bits(one, two)


@pytest.mark.parametrize("kind", KINDS)
def test_continued_search_equals_one_call(device, kind):
    """Per-face step counts, the learning rate's decay and early stops survive a second call."""
    whole = moved(problem(19), device)
    parts = faces(whole, slice(None))
    loss = search(whole, kind=kind, n_iter=24, tol=0.025)
    for n_iter in (7, 0, 17):
        last = search(parts, kind=kind, n_iter=n_iter, tol=0.025)
    assert torch.equal(loss, last)
    assert_same_bits(whole, parts)


def test_faces_stop_one_by_one(device):
    case = moved(problem(40), device)
    reference_case = moved(problem(40, dtype=torch.float64), torch.device("cpu"))
    search(case, n_iter=60, tol=0.02)
    reference.fit_mlp_(**reference_case, **OPTIONS, n_iter=60, tol=0.02)
    assert len(set(case["step"].tolist())) > 3
    assert not case["active"].any()
    assert (case["step"].cpu() - reference_case["step"]).abs().max() <= 2


def test_inactive_face_is_only_evaluated(device):
    case = moved(problem(5), device)
    case["active"][2] = False
    case["params"][2] = 0.25
    before = faces(case, slice(None))
    loss = search(case, n_iter=5)
    assert_same_bits(faces(case, slice(2, 3)), faces(before, slice(2, 3)))
    still = search(faces(before, slice(2, 3)), n_iter=0)
    assert torch.equal(loss[2:3], still)
    assert (case["step"] == torch.tensor([5, 5, 0, 5, 5], device=device)).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("where", ["target", "prior_mean", "params"])
def test_a_bad_face_harms_no_neighbour(device, kind, value, where):
    clean = moved(problem(9), device)
    case = faces(clean, slice(None))
    case[where][4, 0] = value
    before = case["params"][4].clone()
    clean_loss, loss = search(clean, kind=kind, n_iter=6), search(case, kind=kind, n_iter=6)
    assert loss[4].isnan()
    assert not case["active"][4]
    assert case["step"][4] == 0
    torch.testing.assert_close(case["params"][4], before, rtol=0, atol=0, equal_nan=True)
    others = torch.arange(9, device=device) != 4
    assert torch.equal(loss[others], clean_loss[others])
    assert_same_bits(faces(case, others), faces(clean, others))


def test_empty_batch(device):
    case = moved(problem(0), device)
    assert search(case, n_iter=5).shape == (0,)


def test_large_batch(device):
    case = moved(problem(1029), device)
    some = faces(case, slice(1000, 1029))
    loss = search(case, n_iter=3)
    assert torch.equal(search(some, n_iter=3), loss[1000:])
    assert loss.isfinite().all()


def test_non_contiguous_tensors(device):
    expected, case = moved(problem(6), device), moved(problem(6), device)
    expected_loss = search(expected, n_iter=4)

    def with_gaps(tensor: Tensor) -> Tensor:
        gaps = torch.stack([tensor, tensor], dim=-1)[..., 0]
        assert tensor.numel() == 1 or not gaps.is_contiguous()
        return gaps

    case = {
        name: tuple(map(with_gaps, v)) if isinstance(v, tuple) else with_gaps(v) for name, v in case.items()
    }
    assert torch.equal(search(case, n_iter=4), expected_loss)
    assert_same_bits(case, expected)


def test_bounds_hold(device):
    case = moved(problem(8), device)
    case |= dict(lower=case["lower"] * 0.1, upper=case["upper"] * 0.1)
    search(case, n_iter=10)
    assert (case["params"] >= case["lower"]).all()
    assert (case["params"] <= case["upper"]).all()
    assert (case["params"] == case["upper"]).any()


BAD_CALLS = {
    "params is half": (dict(params=torch.zeros(4, 8).half()), r"params: expected float32 or float64"),
    "params too wide": (dict(params=torch.zeros(4, 129)), r"params: expected 1 to 128 columns, got 129"),
    "exp_avg short": (dict(exp_avg=torch.zeros(3, 8)), r"exp_avg: expected float32 \[4, 8\] on cpu, got"),
    "step int64": (dict(step=torch.zeros(4, dtype=torch.int64)), r"step: expected int32 \[4\] .*got int64"),
    "active float": (dict(active=torch.ones(4)), r"active: expected bool \[4\] .*got float32"),
    "target float64": (dict(target=torch.zeros(4, 6).double()), r"target: expected float32 \[4, 6\]"),
    "weight short": (dict(feature_weight=torch.ones(5)), r"feature_weight: expected float32 \[6\]"),
    "mean wrong": (dict(prior_mean=torch.zeros(4, 7)), r"prior_mean: expected float32 \[4, 8\]"),
    "precision 1-D": (dict(prior_precision=torch.ones(8)), r"prior_precision: expected float32 \[8, 8\]"),
    "rate short": (dict(prior_rate=torch.ones(7)), r"prior_rate: expected float32 \[8\]"),
    "lower short": (dict(lower=torch.ones(7)), r"lower: expected float32 \[8\]"),
    "upper short": (dict(upper=torch.ones(7)), r"upper: expected float32 \[8\]"),
    "kind": (dict(kind="euclid"), r"kind: expected one of squared, l1, huber, cosine, got 'euclid'"),
    "delta": (dict(delta=0.0), r"delta: expected a number above 0, got 0"),
    "betas": (dict(betas=(1.0, 0.9)), r"betas: expected two numbers in \[0, 1\), got 1 and 0.9"),
    "eps": (dict(eps=0.0), r"eps: expected a number above 0, got 0"),
    "n_iter": (dict(n_iter=-1), r"n_iter: expected at least 0, got -1"),
    "precision": (dict(precision="half"), r"precision: expected full or tensor, got 'half'"),
    "tensor on cpu": (dict(precision="tensor"), r"precision: expected full on the CPU"),
}
BAD_WEIGHTS = {
    "w1": (torch.zeros(10, 9), r"w1: expected float32 \[10, 8\]"),
    "b1": (torch.zeros(11), r"b1: expected float32 \[10\]"),
    "w2": (torch.zeros(257, 10), r"w2: expected \[H2, 10\] with H2 from 1 to 256, got \[257, 10\]"),
    "b2": (torch.zeros(12, 1), r"b2: expected float32 \[12\]"),
    "w3": (torch.zeros(6), r"w3: expected \[D, 12\] with D from 1 to 256"),
    "b3": (torch.zeros(6).double(), r"b3: expected float32 \[6\].* got float64"),
}


@pytest.mark.parametrize(("change", "message"), BAD_CALLS.values(), ids=BAD_CALLS.keys())
def test_errors_name_the_argument(change, message):
    with pytest.raises(RuntimeError, match=message):
        search({**problem(4, (8, 10, 12, 6)), **change})


@pytest.mark.parametrize("name", BAD_WEIGHTS)
def test_errors_name_the_weight(name):
    tensor, message = BAD_WEIGHTS[name]
    case = problem(4, (8, 10, 12, 6))
    names = ("w1", "b1", "w2", "b2", "w3", "b3")
    case["mlp"] = tuple(tensor if n == name else old for n, old in zip(names, case["mlp"], strict=True))
    with pytest.raises(RuntimeError, match=message):
        search(case)


@pytest.mark.cuda
@pytest.mark.parametrize("name", ["exp_avg", "target", "upper"])
def test_errors_name_the_device(name):
    case = moved(problem(4), torch.device("cuda"))
    case[name] = case[name].cpu()
    with pytest.raises(RuntimeError, match=rf"{name}: expected .* on cuda:0, got .* on cpu"):
        search(case)


@pytest.mark.parametrize("level", ["x86-64-v3", "baseline"])
def test_other_processors(level, tmp_path):
    """Lesser processors' SIMD levels (GENET_SIMD): AVX2 gives AVX-512's bits, the baseline is near."""
    from genet_ext import _C

    if level == "x86-64-v3" and _C.simd_level() == "baseline":
        pytest.skip("this processor has no AVX2")
    script = (
        "import sys, torch; sys.path[:0] = sys.argv[2:]; from tests.ops.test_fit_mlp import problem, search;"
        "case = problem(13); loss = search(case, n_iter=10); torch.save([case['params'], loss], sys.argv[1])"
    )
    out = tmp_path / "result.pt"
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    subprocess.run(
        [sys.executable, "-c", script, str(out), root],
        env={**os.environ, "GENET_SIMD": level},
        cwd=root,
        check=True,
    )
    params, loss = torch.load(out)
    case = problem(13)
    here = search(case, n_iter=10)
    if level == "x86-64-v3":
        assert torch.equal(params, case["params"])
        assert torch.equal(loss, here)
    else:
        torch.testing.assert_close(params, case["params"], rtol=0, atol=1e-3)
        torch.testing.assert_close(loss, here, rtol=1e-3, atol=0)


@pytest.mark.cuda
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("batch", [1, 37, 700, 2500])
def test_cuda_gives_the_cpu_s_bits(kind, batch):
    case = problem(batch)
    on_gpu = moved(case, torch.device("cuda"))
    loss = search(case, kind=kind, n_iter=8, tol=0.03)
    assert torch.equal(search(on_gpu, kind=kind, n_iter=8, tol=0.03).cpu(), loss)
    assert_same_bits(moved(on_gpu, torch.device("cpu")), case)


@pytest.mark.cuda
@pytest.mark.parametrize("kind", KINDS)
def test_tensor_precision_is_near_the_truth(kind):
    """After a search that has settled: what is left is float16's rounding of weights and activations."""
    truth = problem(100, dtype=torch.float64)
    ours = moved(problem(100), torch.device("cuda"))
    options = dict(kind=kind, n_iter=200, lr_decay=0.97)
    true_loss = search(truth, **options)
    loss = search(ours, **options, precision="tensor")
    error = (ours["params"].cpu().double() - truth["params"]).abs()
    assert error.mean() < 1e-3
    torch.testing.assert_close(loss.cpu().double(), true_loss, rtol=5e-3, atol=1e-3)


@pytest.mark.cuda
def test_tensor_precision_says_what_it_needs():
    case = moved(problem(4, (9, 10, 12, 6)), torch.device("cuda"))
    with pytest.raises(RuntimeError, match="precision: tensor needs at most 96 parameters"):
        search(case, precision="tensor")
    case = moved(problem(4, dtype=torch.float64), torch.device("cuda"))
    with pytest.raises(RuntimeError, match="precision: tensor needs float32 tensors"):
        search(case, precision="tensor")


@pytest.mark.cuda
@pytest.mark.parametrize("precision", ["full", "tensor"])
def test_runs_in_a_cuda_graph(precision):
    case = moved(problem(50), torch.device("cuda"))
    expected = faces(case, slice(None))
    search(faces(case, slice(None)), n_iter=5, precision=precision)  # loads the kernels
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss = search(case, n_iter=5, precision=precision)
    graph.replay()
    assert torch.equal(loss, search(expected, n_iter=5, precision=precision))
    assert_same_bits(case, expected)
