"""The search itself: that it finds what is there to find, and holds what it is told to hold."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_models import tiny_models

from genet_ext import reference
from genet_ext.action_units import load_action_units
from genet_ext.models import Prior, load_models, random_models
from genet_ext.objective import Target, image_objective, prior_mean
from genet_ext.reference import prior_energy
from genet_ext.solver import SearchSettings, search


def weak_prior(models):
    return replace(models, prior=replace(models.prior, precision=models.prior.precision * 1e-4))


def target_of(models, features, regressed):
    batch = len(features)
    return Target(
        features, regressed, torch.zeros(batch, 16), torch.zeros(batch, 68, 2), torch.ones(batch, dtype=bool)
    )


@pytest.fixture(scope="module")
def problem():
    """Features that H itself made from known parameters, and a start beside them."""
    models = weak_prior(random_models(5))
    with torch.no_grad():
        models.feature_generator.layer3.weight *= 20
    generator = torch.Generator().manual_seed(0)
    truth = torch.rand(5, models.space.size, generator=generator) * 0.5 + 0.2
    start = truth + 0.1 * torch.randn(truth.shape, generator=generator)
    return models, target_of(models, models.feature_generator(truth), start), truth


def test_search_finds_the_features(problem):
    models, target, _ = problem
    outcome = search(models, target, target.regressed, SearchSettings(iterations=300))
    before = search(models, target, target.regressed, SearchSettings(iterations=0)).loss
    assert (outcome.loss < 0.02 * before).all()


def test_both_backends_take_the_same_way(problem):
    models, target, _ = problem
    native, plain = (
        search(models, target, target.regressed, SearchSettings(iterations=30, backend=backend))
        for backend in ("native", "reference")
    )
    assert torch.allclose(native.theta, plain.theta, atol=1e-4)
    assert torch.allclose(native.loss, plain.loss, rtol=1e-3, atol=1e-5)
    assert torch.equal(native.iterations, plain.iterations)


def test_equal_bounds_hold_a_parameter(problem):
    models, target, _ = problem
    lower, upper = models.space.lower.clone(), models.space.upper.clone()
    lower[49:] = upper[49:] = 0.25
    outcome = search(models, target, target.regressed, SearchSettings(iterations=10), lower, upper)
    assert (outcome.theta[:, 49:] == 0.25).all()
    assert (outcome.theta[:, :49] != target.regressed[:, :49]).any()


def test_parameters_stay_within_bounds(problem):
    models, target, _ = problem
    outcome = search(models, target, target.regressed * 100, SearchSettings(iterations=5, lr=1.0))
    assert (outcome.theta >= models.space.lower).all()
    assert (outcome.theta <= models.space.upper).all()


@pytest.mark.parametrize("objective", ["feature", "image"])
def test_convergence_is_per_face(objective):
    """The face that starts at its optimum stops at once; its neighbour goes on."""
    models = tiny_models(2)
    models = replace(models, prior=replace(models.prior, feature_weight=torch.zeros(256)))
    regressed = torch.full((2, models.space.size), 0.3)
    regressed[:, models.space.indices("identity")] = 0
    start = regressed.clone()
    start[1, :49] = 0.6
    target = target_of(models, torch.zeros(2, 256), regressed)
    settings = SearchSettings(objective=objective, iterations=200, lr=0.02, tol=1e-4)
    outcome = search(models, target, start, settings)
    assert outcome.converged.tolist() == [True, True]
    assert outcome.iterations[0] == 1
    assert outcome.iterations[1] > 20
    assert torch.allclose(outcome.theta[1], regressed[1], atol=0.02)


@pytest.mark.parametrize("objective", ["feature", "image"])
def test_invalid_and_not_finite_faces_are_left_out(objective):
    models = tiny_models(2)
    features = torch.zeros(3, 256)
    features[1] = torch.nan
    target = target_of(models, features, torch.full((3, models.space.size), 0.3))
    target = replace(target, valid=torch.tensor([False, True, True]))
    outcome = search(models, target, target.regressed, SearchSettings(objective=objective, iterations=3))
    assert outcome.loss.isnan().tolist() == [True, True, False]
    assert outcome.iterations.tolist() == [0, 0, 3]
    assert outcome.converged.tolist() == [False, False, False]
    assert torch.equal(outcome.theta[:2], target.regressed[:2])


def test_gradient_of_the_image_objective():
    """The kernel's slope carried through F and G, against finite differences of the loss."""
    models = tiny_models(4)
    for part in (models.extractor, models.image_generator):
        part.double()
    models = replace(models, prior=Prior(**{name: x.double() for name, x in vars(models.prior).items()}))
    generator = torch.Generator().manual_seed(1)
    theta = torch.rand(2, models.space.size, generator=generator).double()
    target = target_of(models, torch.randn(2, 256, generator=generator).double(), theta)
    target = replace(target, appearance=target.appearance.double())
    mean = prior_mean(models, theta)

    def objective(x):
        loss, grad = image_objective(models, x, target, mean, "squared", 1.0, reference)
        return loss - prior_energy(x, mean, models.prior.precision, models.prior.rate), grad

    _, grad = objective(theta)
    direction = torch.nn.functional.normalize(grad, dim=1)
    step = 1e-5
    rise = (objective(theta + step * direction)[0] - objective(theta - step * direction)[0]) / (2 * step)
    assert torch.allclose(rise, grad.norm(dim=1), rtol=1e-4)


def test_tensor_precision_says_what_it_needs(problem):
    models, target, _ = problem
    with pytest.raises(ValueError, match="precision: 'tensor' needs device='cuda', got 'cpu'"):
        search(models, target, target.regressed, SearchSettings(precision="tensor"))
    with pytest.raises(ValueError, match="precision: 'tensor' goes with objective='feature'"):
        SearchSettings(precision="tensor", objective="image")
    with pytest.raises(ValueError, match="precision: expected one of 'full', 'tensor'"):
        SearchSettings(precision="half")


@pytest.mark.cuda
def test_tensor_precision_changes_no_au_by_much():
    models = load_models("cuda")
    generator = torch.Generator().manual_seed(0)
    truth = torch.rand(64, models.space.size, generator=generator) * models.space.upper.clamp(max=1)
    features = models.feature_generator(truth.cuda())
    start = (truth + 0.1 * torch.randn(truth.shape, generator=generator)).cuda()
    target = target_of(models, features, start)
    target = replace(target, appearance=target.appearance.cuda(), valid=target.valid.cuda())
    full, tensor = (
        search(models, target, start, SearchSettings(precision=precision)) for precision in ("full", "tensor")
    )
    table = load_action_units()
    aus = [table.values(outcome.theta.double().cpu().numpy()) for outcome in (full, tensor)]
    assert np.nanmax(np.abs(aus[0] - aus[1])) < 0.002
