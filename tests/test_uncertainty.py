"""The Laplace approximation: against autograd, and against sampling where the posterior is known."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from genet_ext.action_units import build_action_units, load_action_units
from genet_ext.models import random_models
from genet_ext.reference import feature_distance, prior_energy
from genet_ext.uncertainty import au_standard_deviation, feature_jacobian


@pytest.fixture(scope="module")
def models():
    return random_models(1)


def test_jacobian_is_autograds(models):
    theta = torch.rand(3, models.space.size)
    jacobian = feature_jacobian(models.feature_generator, theta)
    for row in range(3):
        expected = torch.autograd.functional.jacobian(models.feature_generator, theta[row : row + 1])
        assert torch.allclose(jacobian[row], expected[0, :, 0], atol=1e-6)


@pytest.mark.parametrize("kind", ["squared", "huber"])
def test_curvature_is_the_objectives_where_the_features_match(models, kind):
    """At a perfect match Gauss-Newton is exact: the Hessian by autograd gives the same deviations."""
    models = replace(models, prior=replace(models.prior, precision=torch.eye(models.space.size) * 200))
    theta = torch.full((1, models.space.size), 0.5)
    features = models.feature_generator(theta)
    table = load_action_units()
    found = au_standard_deviation(models, table, theta, features, theta, kind)[0]

    generator = random_models(1).feature_generator.double()

    def objective(x):
        loss, _ = feature_distance(generator(x[None]), features.double(), torch.ones(256).double(), kind)
        return (loss + prior_energy(x[None], theta.double(), models.prior.precision.double(), None))[0]

    hessian = torch.autograd.functional.hessian(objective, theta[0].double())
    weights = torch.from_numpy(table.weights)
    expected = (weights @ torch.linalg.inv(hessian) @ weights.T).diagonal().sqrt().numpy()
    inside = table.expressible & (expected > 0) & (table.weights.sum(1) <= 1)  # others are cut off at 1
    assert inside.sum() > 10
    assert np.allclose(found[inside], expected[inside], rtol=2e-3)


def test_deviation_at_the_bound_is_that_of_the_cut_off_density(models):
    """Without features the posterior is the prior: a normal density on [0, 1], known by sampling."""
    models = replace(
        models,
        prior=replace(
            models.prior,
            feature_weight=torch.zeros(256),
            precision=torch.eye(models.space.size) * 25.0,  # sd 0.2
        ),
    )
    table = build_action_units(
        [{"au": "AU17", "parameter": "AU17", "weight": "1"}, {"au": "AU11", "parameter": "", "weight": ""}],
        models.space,
    )
    rng = np.random.default_rng(0)
    for centre in (-0.4, 0.0, 0.1, 0.5):
        mean = torch.full((1, models.space.size), centre)
        found = au_standard_deviation(models, table, mean.clamp(0, 1), torch.zeros(1, 256), mean)[0]
        samples = rng.normal(centre, 0.2, 2_000_000)
        assert np.isclose(found[0], samples[(samples > 0) & (samples < 1)].std(), rtol=0.01)
        assert np.isnan(found[1])


@pytest.mark.parametrize("kind", ["squared", "huber", "l1", "cosine"])
def test_faces_do_not_influence_each_other(models, kind):
    generator = torch.Generator().manual_seed(0)
    theta = torch.rand(6, models.space.size, generator=generator)
    features = torch.randn(6, 256, generator=generator)
    theta[2] = torch.nan
    table = load_action_units()
    together = au_standard_deviation(models, table, theta, features, theta, kind)
    assert np.isnan(together[2]).all()
    assert np.isfinite(together[[0, 1, 3, 4, 5]][:, table.expressible]).all()
    for row in (0, 5):
        one = slice(row, row + 1)
        alone = au_standard_deviation(models, table, theta[one], features[one], theta[one], kind)
        assert np.array_equal(alone[0], together[row], equal_nan=True)
