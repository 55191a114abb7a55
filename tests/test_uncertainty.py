"""The Laplace approximation: against autograd, and against sampling where the posterior is known."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from genet_ext.action_units import build_action_units, load_action_units
from genet_ext.models import SD_LEVELS, random_models
from genet_ext.reference import feature_distance, prior_energy
from genet_ext.uncertainty import au_posterior, deviation, feature_jacobian, interval


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
    found = au_posterior(models, table, theta, features, theta, kind)[0, :, 1]

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


def test_without_features_the_posterior_is_the_prior(models):
    prior = replace(
        models.prior,
        feature_weight=torch.zeros(256),
        precision=torch.eye(models.space.size) * 25.0,  # sd 0.2
        sd_scale=models.prior.sd_scale * 1.5,
    )
    table = build_action_units(
        [{"au": "AU17", "parameter": "AU17", "weight": "1"}, {"au": "AU11", "parameter": "", "weight": ""}],
        models.space,
    )
    models = replace(models, prior=replace(prior, sd_scale=prior.sd_scale[:2]))
    mean = torch.full((1, models.space.size), -0.4)
    found = au_posterior(models, table, mean.clamp(0, 1), torch.zeros(1, 256), mean)[0]
    assert np.allclose(found[0], [-0.4, 0.3], atol=1e-6)
    assert np.isnan(found[1]).all()


def test_deviations_are_stretched_by_the_level_of_the_estimate(models):
    by_level = torch.linspace(1, 3, len(SD_LEVELS))
    prior = replace(
        models.prior,
        feature_weight=torch.zeros(256),
        precision=torch.eye(models.space.size) * 25.0,  # sd 0.2
        sd_by_level=by_level,
    )
    mean = torch.tensor([-0.4, 0.0, SD_LEVELS[2], 0.5 * (SD_LEVELS[2] + SD_LEVELS[3]), 1.0])
    theta = mean[:, None].expand(-1, models.space.size).contiguous()
    models = replace(models, prior=prior)
    found = au_posterior(models, load_action_units(), theta, torch.zeros(5, 256), theta)
    au17 = found[:, load_action_units().names.index("AU17")]
    expected = [by_level[0], by_level[0], by_level[2], (by_level[2] + by_level[3]) / 2, by_level[-1]]
    assert np.allclose(au17[:, 1], 0.2 * np.array(expected), atol=1e-6)


@pytest.mark.parametrize("mean", [-0.4, 0.0, 0.1, 0.5, 1.2])
def test_deviation_and_interval_are_those_of_the_clipped_variable(mean):
    samples = np.random.default_rng(0).normal(mean, 0.2, 2_000_000).clip(0, 1)
    posterior = np.array([mean, 0.2])
    assert np.isclose(deviation(posterior), samples.std(), rtol=0.01, atol=1e-4)
    for level in (0.5, 0.95):
        expected = np.quantile(samples, [0.5 - level / 2, 0.5 + level / 2])
        assert np.allclose(interval(posterior, level), expected, atol=2e-3)


def test_what_is_taken_off_comes_off_the_top():
    """A variable in [0.3, 1] less 0.3."""
    samples = np.random.default_rng(0).normal(0.8, 0.3, 2_000_000).clip(0.3, 1) - 0.3
    posterior = np.array([0.5, 0.3])
    assert np.isclose(deviation(posterior, 0.7), samples.std(), rtol=0.01)
    assert np.allclose(interval(posterior, 0.8, 0.7), np.quantile(samples, [0.1, 0.9]), atol=2e-3)


def test_interval_says_what_it_needs():
    with pytest.raises(ValueError, match="level: expected a number between 0 and 1, got 95"):
        interval(np.zeros((1, 2)), 95)


@pytest.mark.parametrize("kind", ["squared", "huber", "l1", "cosine"])
def test_faces_do_not_influence_each_other(models, kind):
    generator = torch.Generator().manual_seed(0)
    theta = torch.rand(6, models.space.size, generator=generator)
    features = torch.randn(6, 256, generator=generator)
    theta[2] = torch.nan
    table = load_action_units()
    together = au_posterior(models, table, theta, features, theta, kind)
    assert np.isnan(together[2]).all()
    assert np.isfinite(together[[0, 1, 3, 4, 5]][:, table.expressible]).all()
    for row in (0, 5):
        one = slice(row, row + 1)
        alone = au_posterior(models, table, theta[one], features[one], theta[one], kind)
        assert np.array_equal(alone[0], together[row], equal_nan=True)
