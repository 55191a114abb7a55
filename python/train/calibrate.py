r"""Calibrate what is believed beyond the search on held-out renders, and write it into prior.safetensors.

    python -m python.train.calibrate --weights runs/h --held-out renders/validation

The renders go the whole way that genet_ext.fit goes, from photograph-like pictures and loose boxes. The
standard deviation of an AU is stretched until 95 % of the truths lie in its 95 % interval, whatever the
estimate: by a factor for how strong the AU seems, and one for which AU it is. The limit of the quality flag
is the misfit that 1 in 100 exceeds. How far off an AU is read on a resting face, which the pictures of a
person share (`genet_ext/resting.py`), comes from the neutral ones.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load_file, save_file

from genet_ext.action_units import load_action_units
from genet_ext.models import REST_SPREAD, SD_LEVELS, load_models
from genet_ext.objective import misfit_of
from genet_ext.solver import SearchSettings
from python.evaluate import metrics
from python.evaluate.methods import Method, extract_all, posterior_of, run
from python.evaluate.pictures import load_test_set
from python.train.common import held_out_parser

LEVEL = 0.95
DOUBTFUL_SHARE = 0.01
LEAST = 0.3  # no deviation shrinks further: a factor of 0 would promise the impossible
FEW = 50  # faces that tell as much as believing that nothing is unusual
ROUNDS = 5
# Real faces are stranger than renders, and no AU is always read right.
REST_STRETCH, LEAST_REST, MOST_REST = 2.0, 0.08, 0.25
_BORDERS = tuple((low + high) / 2 for low, high in pairwise(SD_LEVELS))


def main() -> None:
    parser = held_out_parser(__doc__)
    parser.add_argument("--weights", type=Path, required=True, help="folder of weights; its prior is changed")
    arguments = parser.parse_args()
    path = arguments.weights / "prior.safetensors"
    tensors = load_file(path)
    tensors["sd_scale"] = torch.ones(len(load_action_units().names))
    tensors["sd_by_level"] = torch.ones(len(SD_LEVELS))
    save_file(tensors, path)

    models = load_models(arguments.device, arguments.weights)
    test = load_test_set(arguments.held_out, arguments.seed)
    extracted = extract_all(models, test.pictures(), test.box)
    method = Method("as shipped", SearchSettings())
    fitted = run(models, extracted.target, method)
    posterior = posterior_of(models, extracted.target, fitted, method)
    reach = metrics.reach(test.aus, posterior)
    by_level, by_au = stretches(reach, posterior[..., 0])
    theta = torch.from_numpy(fitted.theta).to(extracted.target.features)
    misfit = misfit_of(models, theta, extracted.target.features, method.settings.ops)

    tensors["sd_scale"] = torch.from_numpy(by_au).float()
    tensors["sd_by_level"] = torch.from_numpy(by_level).float()
    tensors["misfit_limit"] = misfit[misfit.isfinite()].quantile(1 - DOUBTFUL_SHARE).cpu()
    spread = rest_spread(test.aus, load_action_units().values(fitted.theta))
    tensors["rest_spread"] = torch.from_numpy(spread).float()
    save_file(tensors, path)
    after = reach / (by_au * np.interp(posterior[..., 0], SD_LEVELS, by_level))
    for name, values in (("before", reach), ("after", after)):
        share = [metrics.coverage(values[rows], LEVEL) for rows in level_rows(posterior[..., 0])]
        print(f"coverage of the {LEVEL:.0%} intervals by estimate, {name}: {np.round(share, 3)}")
    print(f"stretch of the standard deviations by estimate: {np.round(by_level, 2)}")
    print(f"and by AU: {np.round(by_au, 2)}")
    print(f"spread of the readings at rest by AU: {np.round(spread, 3)}")
    print(f"misfit limit: {tensors['misfit_limit']:.2f}, median misfit {misfit.nanmedian():.2f}")


def stretches(reach: metrics.Array, estimate: metrics.Array) -> tuple[metrics.Array, metrics.Array]:
    """By how much deviations must grow so that LEVEL of the truths are covered: by estimate [L], by AU [A].

    Args:
        reach: [N, A] standard deviations between estimates and truths, see :func:`metrics.reach`.
        estimate: [N, A] the estimates, not clipped.
    """
    by_level, by_au = np.ones(len(SD_LEVELS)), np.ones(reach.shape[1])
    shown = np.isfinite(reach) & (estimate >= _BORDERS[0])  # of an AU that seems absent any factor would do
    for _ in range(ROUNDS):
        left = reach / (by_au * np.interp(estimate, SD_LEVELS, by_level))
        for k, rows in enumerate(level_rows(estimate)):
            # At rest an interval is cut off at 0, and only its upper end can miss.
            level = LEVEL if k else (1 + LEVEL) / 2
            by_level[k] = max(by_level[k] * _factor(left[rows], level), LEAST)
        left = reach / np.interp(estimate, SD_LEVELS, by_level)
        for au in range(reach.shape[1]):
            values = left[shown[:, au], au]
            # A factor from few faces is as much chance as fact.
            by_au[au] = max(_factor(values, LEVEL), LEAST) ** (len(values) / (len(values) + FEW))
    return by_level, by_au


def level_rows(estimate: metrics.Array) -> list[npt.NDArray[np.bool_]]:
    """Which estimates [N, A] are nearest to each of SD_LEVELS."""
    nearest = np.digitize(estimate, _BORDERS)
    return [(nearest == k) & np.isfinite(estimate) for k in range(len(SD_LEVELS))]


def rest_spread(truth: metrics.Array, estimate: metrics.Array) -> metrics.Array:
    """Standard deviation over people [A] of what is read as an AU on a neutral face.

    Args:
        truth, estimate: [N, A] in [0, 1]; every face of another person.
    """
    neutral = ~(np.nan_to_num(truth) > 0).any(1)
    if neutral.sum() < FEW:
        return np.full(truth.shape[1], REST_SPREAD)
    off = np.sqrt((np.nan_to_num(estimate[neutral]) ** 2).mean(0))
    return np.clip(REST_STRETCH * off, LEAST_REST, MOST_REST)


def _factor(reach: metrics.Array, level: float) -> float:
    """By how much the deviations behind `reach` must grow so that a share of `level` is covered."""
    reach = reach[np.isfinite(reach)]
    return float(np.quantile(reach, level) / metrics.normal_reach(LEVEL)) if len(reach) else 1.0


if __name__ == "__main__":
    main()
