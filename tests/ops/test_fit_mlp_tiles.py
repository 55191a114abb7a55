"""The CUDA search's tiles, queue, layouts and rounding, followed on an emulated GPU; and its launch plan."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from genet_ext import _C, ops, reference
from genet_ext.action_units import load_action_units
from genet_ext.models import load_models
from genet_ext.objective import prior_mean
from genet_ext.solver import SearchSettings
from tests.ops.test_fit_mlp import (
    KINDS,
    OPTIONS,
    PRODUCTION,
    STATE,
    assert_same_bits,
    faces,
    moved,
    problem,
    search,
)


def emulate(
    case: dict[str, Any], precision: str, tile: int, blocks: int, warps: int, group: int = 1, **options: Any
) -> Tensor:
    """As `search`, by the CUDA algorithm on the CPU; `group`: 4 for Hopper's wgmma, 1 for mma.sync."""
    loss = torch.empty_like(case["params"][:, 0])
    names = ("w1", "b1", "w2", "b2", "w3", "b3")
    tensors = {**case, **dict(zip(names, case["mlp"], strict=True)), "loss": loss}
    del tensors["mlp"]
    wanted = {**OPTIONS, "kind": "squared", "eps": 1e-8, "tol": 0.0, "n_iter": 100, **options}
    beta1, beta2 = wanted.pop("betas")
    wanted |= dict(beta1=beta1, beta2=beta2, kind=KINDS.index(wanted["kind"]))
    run = _C.fit_mlp_emulated_f32 if loss.dtype == torch.float32 else _C.fit_mlp_emulated_f64
    arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
    run(arrays, wanted, precision, tile, blocks, warps, group)
    return loss


def mixed(batch: int, sizes: tuple[int, int, int, int], dtype: torch.dtype = torch.float32) -> dict[str, Any]:
    """Faces that stop early, one that is off, one that fails, some that have stepped before."""
    case = problem(batch, sizes, dtype)
    case["step"] = torch.arange(batch, dtype=torch.int32) % 4
    case["exp_avg_sq"] += 0.01
    if batch > 2:
        case["active"][1] = False
        case["target"][2, -1] = torch.nan
    return case


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("tile", "batch", "blocks"), [(1, 3, 2), (4, 5, 1), (16, 37, 1), (16, 37, 2), (16, 3, 1)]
)
def test_full_precision_tiles_give_the_cpu_s_bits(kind, tile, batch, blocks):
    """Odd sizes, fewer faces than places, faces that leave and are replaced: the CPU kernel's bits."""
    case = mixed(batch, (9, 21, 40, 35))
    emulated = faces(case, slice(None))
    options = dict(kind=kind, n_iter=9, tol=0.03)
    loss = search(case, **options)
    emulated_loss = emulate(emulated, "full", tile, blocks, 8, **options)
    assert_same_bits(dict(loss=emulated_loss, **emulated), dict(loss=loss, **case), (*STATE, "loss"))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tile", [1, 4, 16])
def test_narrowest_layers(kind, tile):
    """One unit everywhere: what a tile keeps for a face beside its rows has room all the same."""
    case = problem(7, (1, 1, 1, 1), torch.float64)
    emulated = faces(case, slice(None))
    loss = search(case, kind=kind, n_iter=5)
    emulated_loss = emulate(emulated, "full", tile, 1, 8, kind=kind, n_iter=5)
    assert_same_bits(dict(loss=emulated_loss, **emulated), dict(loss=loss, **case), (*STATE, "loss"))


@pytest.mark.parametrize(("tile", "dtype"), [(16, torch.float64), (4, torch.float64), (16, torch.float32)])
def test_production_sizes(tile, dtype):
    case = mixed(6, PRODUCTION, dtype)
    emulated = faces(case, slice(None))
    search(case, n_iter=3)
    emulate(emulated, "full", tile, 1, 8, n_iter=3)
    assert_same_bits(emulated, case)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("group", [1, 4])
@pytest.mark.parametrize("sizes", [PRODUCTION, (8, 17, 40, 8), (88, 128, 100, 248)], ids=str)
def test_tensor_kernel_follows_the_search(kind, sizes, group):
    """Layouts and fragments: one step's gradient is right to float16's precision, in every row and column."""
    case = problem(21, sizes)
    truth = moved(case, torch.device("cpu"), torch.float64)
    reference.fit_mlp_(**truth, **OPTIONS, kind=kind, n_iter=1)
    loss = emulate(case, "tensor", 16, 1, 2, group, kind=kind, n_iter=1)
    gradient = truth["exp_avg"]
    # l1's gradient is a sign: a residual near 0 may turn.
    allowed = 0.05 if kind == "l1" else 3e-3
    error = (case["exp_avg"].double() - gradient).norm(dim=1) / gradient.norm(dim=1)
    assert error.max() < allowed
    expected = search(faces(case, slice(None)), kind=kind, n_iter=0)
    torch.testing.assert_close(loss, expected, rtol=2e-3, atol=1e-4)


@pytest.mark.parametrize(("batch", "warps", "group"), [(3, 1, 1), (37, 1, 1), (37, 2, 4)])
def test_tensor_faces_do_not_depend_on_each_other(batch, warps, group):
    """Partial tiles, compaction: a face gets the bits it gets alone, wherever it lies and whoever leaves."""
    case = mixed(batch, (24, 40, 48, 40))
    together = faces(case, slice(None))
    options = dict(kind="huber", n_iter=9, tol=0.03)
    loss = emulate(together, "tensor", 16, 1, warps, group, **options)
    assert loss[2].isnan()
    assert not together["active"][2]
    for face in range(0, batch, 3):
        alone = faces(case, slice(face, face + 1))
        alone_loss = emulate(alone, "tensor", 16, 1, 1, group, **options)
        assert torch.equal(alone_loss, loss[face : face + 1])
        assert_same_bits(alone, faces(together, slice(face, face + 1)))


@pytest.mark.parametrize("kind", ["squared", "huber", "cosine"])
@pytest.mark.parametrize(("scale", "group"), [(1e-4, 4), (1.0, 1), (1e4, 4)])
def test_tensor_scales_gradients(kind, scale, group):
    """Weights of the distance far from 1 lose nothing to float16's small range."""
    case = problem(5)
    for name in ("feature_weight", "prior_precision", "prior_rate"):
        case[name] *= scale
    truth = moved(case, torch.device("cpu"), torch.float64)
    reference.fit_mlp_(**truth, **OPTIONS, kind=kind, n_iter=1)
    emulate(case, "tensor", 16, 1, 1, group, kind=kind, n_iter=1)
    error = (case["exp_avg"].double() - truth["exp_avg"]).norm(dim=1) / truth["exp_avg"].norm(dim=1)
    assert error.max() < 3e-3


@pytest.mark.parametrize("group", [1, 4])
def test_tensor_accuracy_of_a_settled_search(group):
    """What float16 costs the result: far below what an Action Unit's intensity is known to."""
    case = problem(16)
    truth = moved(case, torch.device("cpu"), torch.float64)
    options = dict(n_iter=150, lr_decay=0.96)
    search(truth, **options)
    emulate(case, "tensor", 16, 1, 1, group, **options)
    error = (case["params"].double() - truth["params"]).abs()
    assert error.max() < 2e-3, error.max()


def test_tensor_kernel_refuses_what_it_would_load_across_its_vectors():
    case = problem(3, (8, 16, 16, 8))
    case["target"] = torch.cat([torch.zeros(1), case["target"].flatten()])[1:].view(3, 8)
    with pytest.raises(ValueError, match="target and prior_mean aligned to 16 bytes"):
        emulate(case, "tensor", 16, 1, 1, n_iter=1)


def test_tensor_continued_search():
    whole = problem(7, (24, 40, 48, 40))
    parts = faces(whole, slice(None))
    loss = emulate(whole, "tensor", 16, 1, 1, n_iter=12, tol=0.03)
    for n_iter in (5, 7):
        last = emulate(parts, "tensor", 16, 1, 1, n_iter=n_iter, tol=0.03)
    assert torch.equal(loss, last)
    assert_same_bits(whole, parts)


A100 = dict(capability=80, multiprocessors=108, shared_per_block=166912, shared_per_multiprocessor=167936)
CONSUMER = dict(capability=89, multiprocessors=46, shared_per_block=101376, shared_per_multiprocessor=102400)


@pytest.mark.parametrize("device", [{}, A100, CONSUMER], ids=["H100", "A100", "4070"])
@pytest.mark.parametrize("batch", [1, 131, 132, 4096, 10**6])
def test_plan_fits_the_device(device, batch):
    limits = {"shared_per_block": 232448, "multiprocessors": 132, **device}
    plan = _C.fit_mlp_plan(batch, **device)
    assert plan["tile_faces"] in (1, 4, 16)
    assert plan["shared_bytes"] <= limits["shared_per_block"]
    assert 1 <= plan["blocks"] <= 2 * limits["multiprocessors"]
    assert plan["blocks"] * plan["tile_faces"] < batch + plan["tile_faces"]
    if batch >= 64 * limits["multiprocessors"]:
        assert plan["blocks"] >= limits["multiprocessors"]


@pytest.mark.parametrize(
    ("batch", "tile", "blocks"),
    [
        (1, 1, 1),
        (132, 1, 132),
        (133, 4, 34),
        (528, 4, 132),
        (1024, 16, 64),
        (4096, 16, 256),
        (10**6, 16, 264),
    ],
)
def test_full_precision_plans_are_the_fastest_measured(batch, tile, blocks):
    plan = _C.fit_mlp_plan(batch)
    assert (plan["tile_faces"], plan["blocks"]) == (tile, blocks)


@pytest.mark.parametrize(
    ("batch", "threads", "blocks"), [(1, 128, 1), (4096, 128, 64), (8448, 128, 132), (16384, 256, 128)]
)
def test_tensor_plans_come_in_groups_on_hopper(batch, threads, blocks):
    plan = _C.fit_mlp_plan(batch, precision="tensor")
    assert (plan["threads"], plan["blocks"], plan["group_warps"]) == (threads, blocks, 4)


def test_tensor_plan_without_groups():
    plan = _C.fit_mlp_plan(10**6, precision="tensor", **A100)
    assert (plan["threads"], plan["blocks"], plan["group_warps"]) == (64, 108, 1)


def test_plan_refuses_what_has_no_kernel():
    with pytest.raises(ValueError, match="precision: tensor needs at most 96 parameters"):
        _C.fit_mlp_plan(1, width=104, precision="tensor")
    with pytest.raises(ValueError, match="precision: tensor needs float32 tensors"):
        _C.fit_mlp_plan(1, precision="tensor", float64=True)
    with pytest.raises(ValueError, match=r"precision: tensor needs a GPU of compute capability 8\.0"):
        _C.fit_mlp_plan(1, precision="tensor", capability=75)
    with pytest.raises(ValueError, match="precision: tensor needs more shared memory"):
        _C.fit_mlp_plan(1, precision="tensor", **CONSUMER)


@pytest.mark.parametrize(
    ("kind", "tol", "largest"),
    [
        ("squared", SearchSettings.tol, 0.002),
        # A face that stops a step earlier leaves up to tol in a parameter, which is 2.5 times that in AU26.
        ("huber", SearchSettings.tol, 2.5 * SearchSettings.tol),
        ("cosine", SearchSettings.tol, 2.5 * SearchSettings.tol),
        # All steps, so that it is precision alone.
        ("squared", 0.0, 0.001),
        ("huber", 0.0, 0.001),
        ("cosine", 0.0, 0.001),
    ],
)
def test_tensor_precision_moves_no_au_of_the_shipped_search(kind, tol, largest):
    """The search as shipped, from 32 regressed starts, float16 products against float64 throughout."""
    models, settings, table = load_models(), SearchSettings(), load_action_units()
    random = torch.Generator().manual_seed(0)
    truth = torch.rand(32, models.space.size, generator=random) * models.space.upper.clamp(max=0.6)
    start = truth + 0.1 * torch.randn(truth.shape, generator=random)
    start = start.clamp(models.space.lower, models.space.upper)
    features = models.feature_generator(truth)
    prior = models.prior
    case = dict(
        params=start,
        exp_avg=torch.zeros_like(start),
        exp_avg_sq=torch.zeros_like(start),
        step=torch.zeros(len(start), dtype=torch.int32),
        active=torch.ones(len(start), dtype=torch.bool),
        target=features + 0.5 * torch.randn(features.shape, generator=random),
        mlp=models.feature_generator.mlp_weights(),
        feature_weight=prior.feature_weight,
        prior_mean=prior_mean(models, start),
        prior_precision=prior.precision,
        prior_rate=prior.rate,
        lower=models.space.lower,
        upper=models.space.upper,
    )
    options = dict(kind=kind, delta=settings.delta, lr=settings.lr, lr_decay=settings.lr_decay)
    options |= dict(betas=settings.betas, eps=settings.eps, tol=tol, n_iter=settings.iterations)
    exact, tensor = (moved(case, torch.device("cpu"), dtype) for dtype in (torch.float64, torch.float32))
    ops.fit_mlp_(**exact, **options)
    emulate(tensor, "tensor", 16, 1, 8, group=4, **options)
    aus = [table.values(found["params"].double().numpy()) for found in (exact, tensor)]
    assert 0 < np.nanmax(np.abs(aus[0] - aus[1])) < largest
