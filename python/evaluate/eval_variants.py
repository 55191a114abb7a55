r"""What each ingredient of the search is worth: features, H, whitening, prior, distance; one changed at once.

For every kind of features, and every width, H is distilled anew from --data. Whitening and prior are taken
from the first half of --held-out (other people), the figures from its second half and from the folders of
--other, such as pictures of a second face model. The first line is the regressor, the second what is shipped.

Writes variants.json and variants.md into --out.

    python -m python.evaluate.eval_variants --data renders/train --held-out renders/validation \
        --other data/second_model --out runs/variants
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from genet_ext.action_units import load_action_units
from genet_ext.faces import both_ways
from genet_ext.fitting import resolve_device
from genet_ext.generators import FeatureGenerator
from genet_ext.models import Models, Prior, load_models
from genet_ext.objective import Target
from genet_ext.parameters import EXPRESSION
from genet_ext.reference import DistanceKind
from genet_ext.solver import SearchSettings, search
from python.evaluate import metrics
from python.evaluate.common import markdown_table, provenance, write_json
from python.evaluate.pictures import load_test_set
from python.render.reader import RenderDataset, load_dataset
from python.train.crops import Photographer
from python.train.distill_features import (
    JITTERS,
    SHRINKAGE,
    error_covariance,
    inverse_root,
    train,
    whiten_outputs,
)

REGIONS = 4  # the face is cut into 4 x 4 squares, in each of which a layer's channels are averaged
SIZE = 256  # features of a kind that has more are reduced to so many principal components
BATCH = 128
TEMPER = 32.0  # the distance is divided by this, as in configs/full.toml; only its ratio to the prior counts
DISTILL = {"batch": 1024, "lr": 3e-3, "weight_decay": 1e-4, "log_every": 1000}


@dataclass(frozen=True)
class Variant:
    """One way to search; the defaults are what is shipped."""

    name: str
    features: str = "embedding"
    hidden: int = 128
    whitening: str = "residual"
    precision: float = 1.0
    diagonal: bool = False
    kind: DistanceKind = "squared"
    sparsity: float = 0.25  # as in configs/full.toml
    from_mean: bool = False


SHIPPED = "as shipped"
VARIANTS = (
    Variant(SHIPPED),
    Variant("features: layers by face region", features="layers"),
    Variant("features: embedding and layers", features="embedding and layers"),
    Variant("features: landmarks", features="landmarks"),
    Variant("H 64 wide", hidden=64),
    Variant("H 256 wide", hidden=256),
    Variant("whitening by the features' own covariance", whitening="features"),
    Variant("no whitening, one scale per feature", whitening="none"),
    Variant("distance x 4 (the same as prior x 1/4)", precision=0.25),
    Variant("distance x 1/4 (prior x 4)", precision=4.0),
    Variant("prior without correlations", diagonal=True),
    Variant("no sparsity", sparsity=0.0),
    Variant("sparsity 1 on every expression", sparsity=1.0),
    Variant("sparsity 4 on every expression", sparsity=4.0),
    Variant("started at the average face", from_mean=True),
    Variant("Huber distance", kind="huber"),
    Variant("cosine distance", kind="cosine"),
)


@dataclass(frozen=True)
class Seen:
    """What F says of N crops, and the truth.

    Attributes:
        features: by kind, [N, D] each.
        regressed, theta: [N, P].
    """

    features: dict[str, Tensor]
    regressed: Tensor
    theta: Tensor

    def rows(self, rows: slice) -> Seen:
        """Some of them."""
        return Seen({k: v[rows] for k, v in self.features.items()}, self.regressed[rows], self.theta[rows])


@torch.no_grad()
def look(models: Models, renders: RenderDataset, seed: int) -> Seen:
    """One photograph-like crop of every render, aligned as F's own landmarks would leave it.

    "layers" are the channels of F's last two stages, averaged in each face region.
    """
    photographer = Photographer(renders, models.device, seed)
    lower, upper = models.space.lower.to(models.device), models.space.upper.to(models.device)
    maps: list[Tensor] = []
    hooks = [
        block.register_forward_hook(lambda _, __, out: maps.append(out))
        for block in models.extractor.blocks[1:]
    ]
    kinds: dict[str, list[Tensor]] = {"embedding": [], "landmarks": [], "layers": []}
    regressed, theta = [], []
    batches = photographer.in_order(BATCH, JITTERS, 1)
    for batch in tqdm(batches, total=-(-len(renders) // BATCH), disable=None):
        maps.clear()
        seen = models.extractor(batch["pixels"])
        kinds["embedding"].append(seen.features)
        kinds["landmarks"].append(seen.landmarks.flatten(1))
        pooled = [functional.adaptive_avg_pool2d(x, REGIONS).flatten(1) for x in maps]
        kinds["layers"].append(torch.cat(pooled, 1))
        of_both = both_ways(seen.parameters, models.extractor(batch["pixels"].flip(3)).parameters)
        regressed.append(of_both.clamp(lower, upper))
        theta.append(batch["theta"])
    for hook in hooks:
        hook.remove()
    features = {kind: torch.cat(values) for kind, values in kinds.items()}
    return Seen(features, torch.cat(regressed), torch.cat(theta))


def reductions(seen: Seen) -> dict[str, Callable[[Seen], Tensor]]:
    """How to take each kind of features from what was seen; learnt on training renders."""
    components = principal(seen.features["layers"])
    of_embedding = seen.features["embedding"].var(0).sum().sqrt()
    of_layers = components(seen.features["layers"]).var(0).sum().sqrt()

    def both(other: Seen) -> Tensor:
        x, y = other.features["embedding"], components(other.features["layers"])
        return torch.cat([x / of_embedding, y / of_layers], 1)

    together = principal(both(seen))
    return {
        "embedding": lambda other: other.features["embedding"],
        "landmarks": lambda other: other.features["landmarks"],
        "layers": lambda other: components(other.features["layers"]),
        "embedding and layers": lambda other: together(both(other)),
    }


def principal(values: Tensor) -> Callable[[Tensor], Tensor]:
    """Projection on the SIZE largest principal components of values [N, D]."""
    mean = values.mean(0)
    centred = values - mean
    *_, basis = torch.pca_lowrank(centred, min(SIZE, *centred.shape), center=False, niter=4)
    return lambda other: (other - mean) @ basis


def whitened(
    kind: str, generator: FeatureGenerator, theta: Tensor, features: Tensor
) -> tuple[FeatureGenerator, Tensor, Tensor]:
    """H with whitened outputs, the mean and the whitening [D, D] of held-out features [N, D]."""
    mean = features.mean(0)
    residual, centred = features - generator(theta), features - mean
    if kind == "residual":
        whitening = inverse_root(residual.T @ residual / len(residual))
    elif kind == "features":
        # Scaled so that the distance is as strong as the shipped one on average.
        whitening = inverse_root(centred.T @ centred / len(centred))
        whitening = whitening / (residual @ whitening).square().mean().sqrt()
    else:
        whitening = torch.diag(1 / residual.square().mean(0).sqrt())
    out = FeatureGenerator(theta.shape[1], features.shape[1], generator.layer1.out_features).to(theta.device)
    out.load_state_dict(generator.state_dict())
    whiten_outputs(out, mean, whitening)
    return out.requires_grad_(False), mean, whitening


def error_precision(seen: Seen, variant: Variant) -> Tensor:
    """[P, P]: the prior around the regressed expression and pose, and the average identity."""
    covariance = error_covariance(seen.regressed, seen.theta)
    spread = torch.diag(covariance.diagonal())
    covariance = spread if variant.diagonal else covariance + SHRINKAGE * spread
    return variant.precision * torch.linalg.inv(covariance)


def sparsity_rate(models: Models, strength: float) -> Tensor:
    """[P]: an exponential prior on the expressions alone, which draws them to rest."""
    rate = torch.zeros(models.space.size, device=models.device)
    rate[models.space.indices(EXPRESSION)] = strength
    return rate


def searched(
    models: Models, generator: FeatureGenerator, prior: Prior, features: Tensor, seen: Seen, variant: Variant
) -> Tensor:
    """Where the search of a variant ends for every face seen: [N, P]."""
    nothing = torch.zeros(len(features), 1, device=features.device)
    target = Target(
        features=prior.whiten(features).contiguous(),
        regressed=seen.regressed,
        appearance=nothing,
        landmarks=nothing,
        valid=torch.ones(len(features), dtype=torch.bool, device=features.device),
    )
    start = torch.zeros_like(seen.regressed) if variant.from_mean else seen.regressed
    models = replace(models, feature_generator=generator, prior=prior)
    return search(models, target, start, SearchSettings(kind=variant.kind)).theta


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="training renders, for H")
    parser.add_argument("--held-out", type=Path, required=True, help="renders of other people")
    parser.add_argument("--other", type=Path, nargs="*", default=[], help="more pictures with AU truth")
    parser.add_argument("--out", type=Path, required=True, help="folder of results")
    parser.add_argument("--weights", type=Path, help="other weights than the shipped ones")
    parser.add_argument("--steps", type=int, default=4000, help="of distilling each H (default 4000)")
    parser.add_argument("--limit", type=int, help="use so many training renders only")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    models = load_models(resolve_device(arguments.device), arguments.weights)
    report = compare(
        models, arguments.data, arguments.held_out, arguments.other, arguments.out,
        arguments.steps, arguments.limit, arguments.seed,
    )  # fmt: skip
    report["provenance"] = provenance(models.device, arguments.weights, seed=arguments.seed)
    write_json(arguments.out / "variants.json", report)
    text = tables(report)
    (arguments.out / "variants.md").write_text(text)
    print(text)


def compare(
    models: Models, data: Path, held_out: Path, others: list[Path], out: Path, steps: int,
    limit: int | None, seed: int,
) -> dict[str, Any]:  # fmt: skip
    """Figures of the regressor and of every variant, by folder."""
    out.mkdir(parents=True, exist_ok=True)
    learnt = look(models, load_dataset(data), seed).rows(slice(limit))
    take = reductions(learnt)
    held = look(models, load_dataset(held_out), seed + 1)
    half = len(held.theta) // 2
    calibration = held.rows(slice(half))
    truth = load_test_set(held_out)
    judged = {held_out.name: (held.rows(slice(half, None)), truth.aus[half:])}
    for folder in others:
        judged[folder.name] = (look(models, load_dataset(folder), seed + 1), load_test_set(folder).aus)

    def figures(theta: dict[str, Tensor]) -> dict[str, Any]:
        table = load_action_units()
        return {
            name: metrics.summary(table.names, judged[name][1], table.values(values.double().cpu().numpy()))
            for name, values in theta.items()
        }

    rows = {"regressor": figures({name: seen.regressed for name, (seen, _) in judged.items()})}
    generators: dict[tuple[str, int], FeatureGenerator] = {}
    for variant in VARIANTS:
        key = variant.features, variant.hidden
        if key not in generators:
            folder = out / f"{variant.features}-{variant.hidden}".replace(" ", "-")
            folder.mkdir(exist_ok=True)
            config = DISTILL | {"steps": steps, "save_every": steps}
            generators[key] = train(
                learnt.theta, take[variant.features](learnt), config, folder, seed, variant.hidden
            )
        features = take[variant.features](calibration)
        generator, mean, whitening = whitened(variant.whitening, generators[key], calibration.theta, features)
        precision = error_precision(calibration, variant)
        prior = replace(
            models.prior,
            feature_mean=mean,
            whitening=whitening,
            feature_weight=torch.full_like(mean, 1 / TEMPER),
            precision=(precision + precision.T) / 2,
            rate=sparsity_rate(models, variant.sparsity),
        )
        rows[variant.name] = figures(
            {
                name: searched(models, generator, prior, take[variant.features](seen), seen, variant)
                for name, (seen, _) in judged.items()
            }
        )
        print(variant.name, {name: round(float(row["r"]), 4) for name, row in rows[variant.name].items()})
    return {"variants": rows}


def tables(report: dict[str, Any]) -> str:
    """variants.md: one line per variant, mean r and neutral faces with a false AU for every folder."""
    rows = report["variants"]
    folders = list(next(iter(rows.values())))
    header = ["variant"]
    for folder in folders:
        header += [f"r, {folder}", f"MAE, {folder}", f"neutral with a false AU, {folder}"]
    run_on = report["provenance"]
    return (
        "\n\n".join(
            [
                "# Variants of the search",
                f"Commit {run_on['commit']}; {run_on['machine']}, {run_on['device']}; seed {run_on['seed']}.",
                markdown_table(
                    header,
                    [
                        [name, *(row[f][key] for f in folders for key in ("r", "mae", "false_any_au"))]
                        for name, row in rows.items()
                    ],
                ),
            ]
        )
        + "\n"
    )


if __name__ == "__main__":
    main()
