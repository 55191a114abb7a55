"""How well AU intensities, pose and landmarks are recovered from pictures whose truth is known.

The pictures are held-out renders made photograph-like (background, light, blur, noise, smaller sizes) with
loose face boxes, and go the whole way that `genet_ext.fit` goes: crop, alignment by the extractor's own
landmarks, features, search. Extraction is done once; then each method searches from the same features:

  regressor         the extractor's own estimate, no search
  mean face         search from the average face with a prior that knows only how faces vary
  Bayesian          the search as shipped: prior centred on the regressor's estimate
  image             the same objective through image generator and extractor, on the first --image-faces faces

Works on renders of the training face model (python -m python.render --split test) and of the second face
model (python -m python.evaluate.second_model), where the AUs are not of the same strength and so absolute
errors (mae) mean little.

Writes into --out: recovery.json (all figures), recovery.md (tables), cross_talk.png, convergence.png.

    python -m python.evaluate.eval_recovery --data data/test --out runs/recovery
    python -m python.evaluate.eval_recovery --data data/second_model --out runs/second --temper 0.25 0.0625
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from genet_ext.action_units import load_action_units
from genet_ext.fitting import resolve_device
from genet_ext.models import Models, load_models
from genet_ext.solver import SearchSettings
from python.evaluate import metrics
from python.evaluate.common import markdown_table, provenance, write_json
from python.evaluate.methods import Extracted, Fitted, Method, extract_all, posterior_of, run
from python.evaluate.metrics import Array
from python.evaluate.pictures import TestSet, load_test_set
from python.evaluate.plots import plot_convergence, plot_cross_talk

REGRESSOR, MEAN_FACE, BAYESIAN, IMAGE = "regressor", "mean face", "Bayesian", "image"
SWEEP = (0, 5, 10, 20, 30, 50, 80, 120, 200, 300)
AT_112 = 112 / 128  # landmark errors are given in px of a face crop of 112 px
RESAMPLES = 200
LEVELS = (0.5, 0.8, 0.95)  # of the intervals whose coverage is counted
ESTIMATES = (0, 0.05, 0.15, 0.3, 0.6, 1)  # between these it is counted by estimate: what a reader sees


def methods(
    settings: SearchSettings, image_faces: int, temper: Sequence[float], rate: Sequence[float]
) -> list[Method]:
    """The methods to compare."""
    out = [
        Method(REGRESSOR, replace(settings, iterations=0)),
        Method(MEAN_FACE, settings, from_mean=True),
        Method(BAYESIAN, settings),
    ]
    out += [Method(f"{BAYESIAN}, distance x {scale:g}", settings, distance_scale=scale) for scale in temper]
    out += [Method(f"{BAYESIAN}, sparsity x {scale:g}", settings, rate_scale=scale) for scale in rate]
    if image_faces:
        out.append(Method(IMAGE, replace(settings, objective="image"), limit=image_faces))
    return out


def judge(test: TestSet, extracted: Extracted, fitted: Fitted) -> dict[str, Any]:
    """All figures of one method."""
    n = len(fitted.theta)
    aus, person, names = test.aus[:n], test.person[:n], test.names
    predicted = load_action_units().values(fitted.theta)
    pose = fitted.theta[:, :3].copy()
    pose[:, 2] += extracted.roll[:n]
    table = metrics.au_table(names, aus, predicted)
    by_person = test.by_person(predicted, slice(n))
    for j, name in enumerate(names):
        pairs = metrics.concordance(aus[:, j], predicted[:, j], person)
        table[name] |= {**by_person[name], "ordered_pairs": pairs}
    neutral = test.neutral[:n]
    rate, _ = metrics.false_positives(predicted[neutral])
    for j, name in enumerate(names):
        table[name]["false_on_neutral"] = float(rate[j])
    slopes = metrics.cross_talk(aus, predicted)
    return {
        **metrics.summary(names, aus, predicted),
        "r_interval": r_interval(aus, predicted, person),
        **{
            figure: metrics.mean_of(table, figure)
            for figure in ("within_person_r", "ordered_pairs", "rising_steps")
        },
        "weakest_au_r": weakest(table),
        "cross_talk": metrics.off_diagonal(slopes),
        "pose_deg": metrics.pose_error(test.pose[:n], pose),
        "landmark_px_112": metrics.landmark_error(
            test.landmarks[:n], extracted.landmarks[:n], AT_112 / test.scale[:n]
        ),
        "iterations_median": float(np.median(fitted.iterations)),
        "search_us_per_face": 1e6 * fitted.seconds / n,
        "per_au": table,
        "cross_talk_slopes": slopes,
        "groups": {
            kind: metrics.by_group(names, aus, predicted, labels[:n]) for kind, labels in test.groups.items()
        },
        "neutral_groups": {
            kind: metrics.by_group(names, aus[neutral], predicted[neutral], labels[:n][neutral])
            for kind, labels in (test.neutral_groups | test.groups).items()
        },
    }


def weakest(table: dict[str, dict[str, float]]) -> str:
    """Name and figure of the AU with the lowest correlation."""
    known = {name: row["r"] for name, row in table.items() if np.isfinite(row["r"])}
    name = min(known, key=known.__getitem__, default="")
    return f"{name} {known[name]:.2f}" if name else "-"


def r_interval(aus: Array, predicted: Array, person: Array) -> tuple[float, float]:
    """95 % interval of the mean correlation over AUs, resampling people (not pictures) with replacement."""
    rng = np.random.default_rng(0)
    people = [np.flatnonzero(person == name) for name in np.unique(person)]
    if len(people) < 5:
        return float("nan"), float("nan")
    means = []
    for _ in range(RESAMPLES):
        rows = np.concatenate([people[k] for k in rng.integers(len(people), size=len(people))])
        r = [metrics.pearson(aus[rows, j], predicted[rows, j]) for j in range(aus.shape[1])]
        known = [value for value in r if np.isfinite(value)]
        means.append(np.mean(known) if known else np.nan)
    low, high = np.nanquantile(means, [0.025, 0.975]) if np.isfinite(means).any() else (np.nan, np.nan)
    return float(low), float(high)


def covered(aus: Array, posterior: Array) -> dict[str, dict[str, float]]:
    """Share of the truths in the intervals of each level: of all AUs, by truth, and by estimate."""
    reach, estimate = metrics.reach(aus, posterior), posterior[..., 0].clip(0, 1)
    kinds = {"all": aus >= 0, "present": aus > 0, "absent": aus == 0}
    for low, high in pairwise(ESTIMATES):
        kinds[f"estimate {low:g}-{high:g}"] = (estimate >= low) & ((estimate < high) | (high == 1))
    return {
        f"{level:.0%}": {
            kind: metrics.coverage(np.where(mask, reach, np.nan), level) for kind, mask in kinds.items()
        }
        for level in LEVELS
    }


def converge(
    models: Models, test: TestSet, extracted: Extracted, settings: SearchSettings, faces: int
) -> dict[str, list[dict[str, float]]]:
    """Error against iterations and time, for both starts, on the first `faces` faces."""
    curves: dict[str, list[dict[str, float]]] = {}
    for name, from_mean in ((MEAN_FACE, True), (BAYESIAN, False)):
        curves[name] = []
        for iterations in SWEEP:
            method = Method(name, replace(settings, iterations=iterations), from_mean, limit=faces)
            fitted = run(models, extracted.target, method)
            n = len(fitted.theta)
            table = metrics.au_table(test.names, test.aus[:n], load_action_units().values(fitted.theta))
            point = {figure: metrics.mean_of(table, figure) for figure in ("r", "mae")}
            curves[name].append({"iterations": iterations, "us_per_face": 1e6 * fitted.seconds / n, **point})
    return curves


COLUMNS = (
    ("faces", "faces"),
    ("r", "mean r"),
    ("r_interval", "95 % of r"),
    ("weakest_au_r", "weakest AU"),
    ("within_person_r", "r within person"),
    ("ordered_pairs", "pairs in order"),
    ("rising_steps", "rising steps"),
    ("icc", "ICC(3,1)"),
    ("mae", "MAE"),
    ("false_any_au", "neutral with a false AU"),
    ("false_worst_au", "worst AU on neutral"),
    ("cross_talk", "cross-talk"),
)
AU_COLUMNS = ("r", "within_person_r", "rising_steps", "icc", "mae", "false_on_neutral")


def write_tables(path: Path, report: dict[str, Any]) -> None:
    """recovery.md: methods, then AUs and groups of the search as shipped."""
    results = report["methods"]
    shipped = results[BAYESIAN]
    run_on = report["provenance"]
    text = [
        "# Recovery of known AU intensities",
        f"{run_on['faces']} pictures of {run_on['people']} people from {run_on['data']}; "
        f"seed {run_on['seed']}; commit {run_on['commit']}; {run_on['machine']}, {run_on['device']}. "
        f"Alignment and extraction: {report['extract_ms_per_face']:.1f} ms per face.",
        markdown_table(
            ["method", *(title for _, title in COLUMNS), "search, us per face"],
            [
                [name, *(_figure(result[key]) for key, _ in COLUMNS), result["search_us_per_face"]]
                for name, result in results.items()
            ],
        ),
        f"Landmarks: {shipped['landmark_px_112']:.2f} px at 112 px. Pose, mean absolute error in degrees "
        "(the last column after each angle's constant offset is removed):",
        markdown_table(
            ["method", "pitch", "yaw", "roll", "all", "offset removed"],
            [[name, *result["pose_deg"].values()] for name, result in results.items()],
        ),
        "Coverage of the intervals of the Bayesian search:",
        markdown_table(
            ["interval", *next(iter(report["coverage"].values()))],
            [[level, *shares.values()] for level, shares in report["coverage"].items()],
        ),
        "## By AU",
        markdown_table(
            ["AU", *(f"{name}: {column}" for column in AU_COLUMNS for name in (REGRESSOR, BAYESIAN))],
            [
                [au, *(results[name]["per_au"][au][c] for c in AU_COLUMNS for name in (REGRESSOR, BAYESIAN))]
                for au in shipped["per_au"]
            ],
        ),
        f"## By group ({BAYESIAN})",
        markdown_table(
            ["group", "", "faces", "mean r", "MAE"],
            [
                [kind, label, g["faces"], g["r"], g["mae"]]
                for kind, groups in shipped["groups"].items()
                for label, g in groups.items()
            ],
        ),
        "Neutral faces:",
        markdown_table(
            ["group", "", "neutral faces", "with a false AU", "worst AU"],
            [
                [kind, label, g["neutral_faces"], g["false_any_au"], g["false_worst_au"]]
                for kind, groups in shipped["neutral_groups"].items()
                for label, g in groups.items()
            ],
        ),
        f"A false AU is one at {metrics.FALSE_POSITIVE} or more on a neutral face. Cross-talk: mean absolute "
        "slope of a predicted AU on the other true AUs. Rising steps and pairs in order: chance is 0.5.",
    ]
    path.write_text("\n\n".join(text) + "\n")


def _figure(value: Any) -> Any:
    if isinstance(value, tuple):
        return f"{value[0]:.3f} - {value[1]:.3f}" if np.isfinite(value[0]) else "-"
    return value


def evaluate(
    data: Path,
    out: Path,
    models: Models,
    weights: Path | None = None,
    limit: int | None = None,
    seed: int = 0,
    image_faces: int = 0,
    sweep_faces: int = 500,
    temper: Sequence[float] = (),
    rate: Sequence[float] = (),
    settings: SearchSettings | None = None,
) -> dict[str, Any]:
    """Run everything and write it into `out`; the content of recovery.json."""
    settings = settings or SearchSettings()
    test = load_test_set(data, seed, limit)
    extracted = extract_all(models, test.pictures(), test.box)
    results = {}
    for method in methods(settings, image_faces, temper, rate):
        fitted = run(models, extracted.target, method)
        results[method.name] = judge(test, extracted, fitted)
        line = results[method.name]
        print(
            f"{method.name}: r {line['r']:.3f}, within person {line['within_person_r']:.3f}, "
            f"rising steps {line['rising_steps']:.3f}, MAE {line['mae']:.3f}, "
            f"neutral with a false AU {line['false_any_au']:.3f}, {line['search_us_per_face']:.0f} us/face",
            flush=True,
        )
    report: dict[str, Any] = {
        "provenance": provenance(
            models.device,
            weights,
            data=data.name,
            faces=len(test),
            people=len(np.unique(test.person)),
            seed=seed,
            settings=vars(settings),
        ),
        "extract_ms_per_face": 1e3 * extracted.seconds / len(test),
        "methods": results,
    }
    shipped = Method(BAYESIAN, settings)
    fitted = run(models, extracted.target, shipped)
    report["coverage"] = covered(test.aus, posterior_of(models, extracted.target, fitted, shipped))
    if sweep_faces:
        report["convergence"] = converge(models, test, extracted, settings, sweep_faces)
        plot_convergence(report["convergence"], out / "convergence.png")
    write_json(out / "recovery.json", report)
    write_tables(out / "recovery.md", report)
    plot_cross_talk(
        test.names,
        {name: results[name]["cross_talk_slopes"] for name in (REGRESSOR, BAYESIAN)},
        out / "cross_talk.png",
    )
    return report


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of held-out renders")
    parser.add_argument("--out", type=Path, required=True, help="folder for figures, tables and plots")
    parser.add_argument("--weights", type=Path, help="folder of other weights than the shipped ones")
    parser.add_argument("--limit", type=int, help="only the first so many pictures")
    parser.add_argument(
        "--seed", type=int, default=0, help="of boxes, backgrounds, blur, noise, ... (default 0)"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda (default auto)")
    parser.add_argument(
        "--image-faces",
        type=int,
        default=0,
        help="faces for the image-space objective, slow (default 0: left out)",
    )
    parser.add_argument(
        "--sweep-faces",
        type=int,
        default=500,
        help="faces for error against iterations, 0 for none (default 500)",
    )
    parser.add_argument(
        "--temper", type=float, nargs="*", default=[], help="also with the distance times these"
    )
    parser.add_argument(
        "--rate", type=float, nargs="*", default=[], help="also with the sparsity times these"
    )
    parser.add_argument("--iterations", type=int, default=SearchSettings.iterations, help="of each search")
    parser.add_argument("--lr", type=float, default=SearchSettings.lr, help="learning rate of the search")
    parser.add_argument(
        "--backend",
        choices=("native", "reference"),
        default="native",
        help="kernels, or the same in plain PyTorch",
    )
    a = parser.parse_args()
    a.out.mkdir(parents=True, exist_ok=True)
    models = load_models(resolve_device(a.device), a.weights)
    settings = SearchSettings(iterations=a.iterations, lr=a.lr, backend=a.backend)
    evaluate(
        a.data,
        a.out,
        models,
        a.weights,
        a.limit,
        a.seed,
        a.image_faces,
        a.sweep_faces,
        a.temper,
        a.rate,
        settings,
    )
    print(f"wrote {a.out / 'recovery.md'}, recovery.json, cross_talk.png", flush=True)


if __name__ == "__main__":
    main()
