r"""Calibrate the uncertainty and the quality flag on held-out renders, and write them into prior.safetensors.

    python -m python.train.calibrate --weights runs/h --held-out renders/validation

The renders go the whole way that genet_ext.fit goes, from photograph-like pictures and loose boxes. The
standard deviation of each AU is stretched until 95 % of the renders lie in its 95 % interval; the limit of
the quality flag is the misfit that 1 in 100 exceeds.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from genet_ext.action_units import load_action_units
from genet_ext.models import load_models
from genet_ext.objective import misfit_of
from genet_ext.solver import SearchSettings
from python.evaluate import metrics
from python.evaluate.methods import Method, extract_all, posterior_of, run
from python.evaluate.pictures import load_test_set

LEVEL = 0.95
DOUBTFUL_SHARE = 0.01


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--weights", type=Path, required=True, help="folder of weights; its prior is changed")
    parser.add_argument("--held-out", type=Path, required=True, help="folder of renders with other skins")
    parser.add_argument("--seed", type=int, default=0, help="of boxes, backgrounds, blur, noise, ...")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()
    path = arguments.weights / "prior.safetensors"
    tensors = load_file(path)
    tensors["sd_scale"] = torch.ones(len(load_action_units().names))
    save_file(tensors, path)

    models = load_models(arguments.device, arguments.weights)
    test = load_test_set(arguments.held_out, arguments.seed)
    extracted = extract_all(models, test.pictures(), test.box)
    method = Method("as shipped", SearchSettings())
    fitted = run(models, extracted.target, method)
    posterior = posterior_of(models, extracted.target, fitted, method)
    reach = metrics.reach(test.aus, posterior)
    stretch = sd_scale(reach)
    theta = torch.from_numpy(fitted.theta).to(extracted.target.features)
    misfit = misfit_of(models, theta, extracted.target.features, method.settings.ops)

    tensors["sd_scale"] = torch.from_numpy(stretch).float()
    tensors["misfit_limit"] = misfit[misfit.isfinite()].quantile(1 - DOUBTFUL_SHARE).cpu()
    save_file(tensors, path)
    before, after = metrics.coverage(reach, LEVEL), metrics.coverage(reach / stretch, LEVEL)
    print(f"coverage of the {LEVEL:.0%} intervals: {before:.3f} before, {after:.3f} after")
    print(f"stretch of the standard deviations: {np.array2string(stretch, precision=2)}")
    print(f"misfit limit: {tensors['misfit_limit']:.2f}, median misfit {misfit.nanmedian():.2f}")


def sd_scale(reach: metrics.Array) -> metrics.Array:
    """By how much each AU's deviations must grow so that LEVEL of the truths are covered: [A].

    Args:
        reach: [N, A] standard deviations between estimates and truths, see :func:`metrics.reach`.
    """
    known = np.isfinite(reach).any(0)
    scale = np.ones(reach.shape[1])
    scale[known] = np.nanquantile(reach[:, known], LEVEL, axis=0) / metrics.normal_reach(LEVEL)
    return scale


if __name__ == "__main__":
    main()
