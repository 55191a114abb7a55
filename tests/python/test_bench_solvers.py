"""Levenberg-Marquardt reaches what the shipped search reaches, every face for itself; bench_solvers runs."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from tiny_models import tiny_models

from genet_ext.objective import Target, prior_mean
from genet_ext.parameters import EXPRESSION
from genet_ext.reference import feature_distance, prior_energy
from genet_ext.solver import SearchSettings, search
from python.bench import bench_solvers
from python.bench.newton import FIRST_DAMPING, _Problem, levenberg_marquardt

FACES = 9


@pytest.fixture(autouse=True)
def _one_thread():
    """Many small products: threads would wait for each other longer than they compute."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def models():
    """With sparsity and uneven feature weights, so that none of the objective's parts is missing."""
    models = tiny_models(3)
    generator = torch.Generator().manual_seed(0)
    rate = torch.zeros(models.space.size)
    rate[models.space.indices(EXPRESSION)] = 0.05
    root = torch.randn(models.space.size, models.space.size, generator=generator) / 10
    prior = replace(
        models.prior,
        rate=rate,
        precision=root @ root.T + torch.eye(models.space.size),
        feature_weight=torch.rand(256, generator=generator) + 0.5,
    )
    return replace(models, prior=prior)


@pytest.fixture(scope="module")
def target(models):
    generator = torch.Generator().manual_seed(1)
    truth = torch.rand(FACES, models.space.size, generator=generator)
    features = models.feature_generator(truth) + 0.05 * torch.randn(FACES, 256, generator=generator)
    start = (truth + 0.3 * torch.randn(truth.shape, generator=generator)).clamp(
        models.space.lower, models.space.upper
    )
    empty = torch.zeros(FACES, 16), torch.zeros(FACES, 68, 2)
    return Target(features, start, *empty, torch.ones(FACES, dtype=torch.bool))


def test_reaches_the_optimum_of_the_long_search(models, target):
    found = levenberg_marquardt(models, target, target.regressed, 30)
    long = search(
        models, target, target.regressed, SearchSettings(iterations=3000, lr=0.01, lr_decay=0.998, tol=0)
    )
    assert (found.loss <= long.loss + 1e-4).all()
    assert torch.allclose(found.theta, long.theta, atol=0.01)
    assert ((found.theta >= models.space.lower) & (found.theta <= models.space.upper)).all()
    assert ((found.theta == models.space.lower) | (found.theta == models.space.upper)).any()


def test_loss_is_the_objective(models, target):
    found = levenberg_marquardt(models, target, target.regressed, 3)
    distance, _ = feature_distance(
        models.feature_generator(found.theta), target.features, models.prior.feature_weight
    )
    prior = prior_energy(
        found.theta, prior_mean(models, target.regressed), models.prior.precision, models.prior.rate
    )
    assert torch.allclose(found.loss, distance + prior, rtol=1e-5)


def test_a_step_never_raises_the_objective(models, target):
    losses = [levenberg_marquardt(models, target, target.regressed, n).loss for n in range(6)]
    for before, after in pairwise(losses):
        assert (after <= before * (1 + 1e-5)).all()


def test_a_first_step_is_the_solution_of_the_damped_system(models, target):
    """With the Jacobian from autograd, where no bound is near."""
    wide = torch.full_like(models.space.lower, 100.0)
    problem = _Problem(models, -wide, wide)
    theta, mean = target.regressed[:1], prior_mean(models, target.regressed)[:1]
    theta = theta + 0.01  # not at 0, where the sparsity has its kink
    loss = problem.loss(theta, target.features[:1], mean)
    damping = torch.full((1,), FIRST_DAMPING)
    moved, _, _ = problem.step(theta, loss, damping, target.features[:1], mean)
    jacobian = torch.autograd.functional.jacobian(models.feature_generator, theta)[0, :, 0].double()
    gradient = torch.func.grad(lambda x: problem.loss(x, target.features[:1], mean).sum())(theta)[0].double()
    weight = models.prior.feature_weight.double()
    curvature = jacobian.T @ (weight[:, None] * jacobian) + models.prior.precision.double()
    curvature += FIRST_DAMPING * curvature.diagonal().diag()
    expected = theta[0].double() - torch.linalg.solve(curvature, gradient)
    assert torch.allclose(moved[0].double(), expected, atol=1e-4)


def test_faces_do_not_influence_each_other(models, target):
    together = levenberg_marquardt(models, target, target.regressed, 10, 1e-3)
    for batch in (1, 2, 5):
        for k in range(0, FACES, batch):
            part = bench_solvers.take(target, slice(k, k + batch))
            alone = levenberg_marquardt(models, part, part.regressed, 10, 1e-3)
            for name in ("theta", "loss", "iterations"):
                assert torch.equal(getattr(alone, name), getattr(together, name)[k : k + batch]), name


def test_bench_and_plot(models, target, tmp_path, monkeypatch):
    monkeypatch.setattr(
        bench_solvers, "STEPS", {"regressor": (0,), "adam": (3,), "levenberg-marquardt": (2,)}
    )
    truth = np.full((FACES, 20), 0.5)
    rows = bench_solvers.bench(models, target, truth, [1, 4], 0.01)
    assert [(r["method"], r["batch"]) for r in rows] == [
        (method, batch) for method in bench_solvers.STEPS for batch in (1, 4)
    ]
    by_method = {row["method"]: row for row in rows}
    assert (
        by_method["levenberg-marquardt"]["loss"] < by_method["adam"]["loss"] < by_method["regressor"]["loss"]
    )
    for row in rows:
        assert row["us_q1"] <= row["us_per_face"] <= row["us_q3"]
        assert row["loss_above_best"] >= 0
    bench_solvers.plot(rows, tmp_path / "solvers.png")
    assert (tmp_path / "solvers.png").stat().st_size > 1000
