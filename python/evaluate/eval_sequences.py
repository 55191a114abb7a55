"""What a film has over single photographs: the shared identity, smoothing and a neutral picture, measured.

Renders films of people of the test split whose AUs are known in every frame (python/evaluate/sequences.py),
fits every frame for itself as `genet_ext.fit` does, and then ties the frames of each person together:

  each frame for itself   `genet_ext.fit(frames)`
  shared head alone       the first step of `identity="shared"`, without landmarks and resting face
  shared identity         `identity="shared"`
  smoothing W             `smoothing=W`
  neutral picture         `neutral=...`, another photograph of the person at rest
  and their combinations

Twice: on the films as they are, and with a tenth of the frames blurred or the face partly covered. With
--config, on people whom the face model does not span. What is shared must not be an expression that is held
all along: films of nothing but a person's strongest expression show how much of it is left.

Writes sequences.json and sequences.md into --out. About two minutes on one core.

    python -m python.evaluate.eval_sequences --assets ASSETS --out runs/sequences
    python -m python.evaluate.eval_sequences --assets ASSETS --out runs/strange --config \
        python/render/configs/strange.toml
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from genet_ext.fitting import fit, fit_neutral, resolve_device
from genet_ext.models import Models, load_models
from genet_ext.persons import share_head, share_identity, smooth, subtract_neutral
from genet_ext.result import FitResult
from python.evaluate import metrics
from python.evaluate.common import Stopwatch, markdown_table, provenance, write_json
from python.evaluate.metrics import Array
from python.evaluate.sequences import FRAMES, PHOTO_BOX, SPOILT, Film, render_films, spoil
from python.render.assets import add_assets_option
from python.render.config import read_config
from python.render.sampling import SPLITS

ALONE = "each frame for itself"
RESAMPLES = 100
BLINK_AU = "AU43"
HELD_FRAMES = 12  # of a film of one expression, of which APEX of its strength are enough
APEX, CLEAR = 0.8, 0.3
# Figure, its title, and whether more is better.
FIGURES = (
    ("mae", "MAE", False),
    ("r", "mean r", True),
    ("within_person_r", "r within person", True),
    ("step_error", "step error", False),
    ("jitter", "jitter at rest", False),
    ("false_any_au", "neutral with a false AU", False),
    ("blink_r", f"r of {BLINK_AU}", True),
    ("misfit", "misfit", False),
)
COMPARED = ("mae", "within_person_r", "step_error")  # with an interval of the difference to single frames


def tie(
    result: FitResult, films: Sequence[Film], smoothing: Sequence[float]
) -> dict[str, tuple[FitResult, float]]:
    """The result of every method, and the seconds that it took beyond the single frames."""
    person = [number for number, film in enumerate(films) for _ in film.frames]
    frames = np.concatenate([np.arange(len(film.frames)) for film in films])
    photos = {number: film.photo for number, film in enumerate(films)}
    device = result.models.device
    options = {"models": result.models, "boxes": PHOTO_BOX, "uncertainty": False}
    still = fit_neutral(photos, person, **options)

    def timed(tie: Callable[[], FitResult]) -> tuple[FitResult, float]:
        with Stopwatch(device) as watch:
            tied = tie()
        return tied, watch.seconds

    out = {ALONE: (result, 0.0)}
    out["shared head alone"] = timed(lambda: share_head(result, person, uncertainty=False))
    shared, sharing = timed(lambda: share_identity(result, person, uncertainty=False))
    out["shared identity"] = shared, sharing
    for width in smoothing:
        smoothed, smoothing_took = timed(lambda w=width: smooth(result, person, frames, w))
        out[f"smoothing {width:g}"] = smoothed, smoothing_took
        both = smooth(shared, person, frames, width)
        out[f"shared identity, smoothing {width:g}"] = both, sharing + smoothing_took
    out["neutral picture"] = timed(lambda: subtract_neutral(result, person, still, uncertainty=False))
    both, took = timed(lambda: share_identity(result, person, uncertainty=False, neutral=still))
    out["shared identity, neutral picture"] = both, took
    width = smoothing[0]
    all_three, more = timed(lambda: smooth(both, person, frames, width))
    out[f"shared identity, smoothing {width:g}, neutral picture"] = all_three, took + more
    return out


def held(result: FitResult, truth: Array, person: Array) -> float:
    """How much of an expression `identity="shared"` leaves where a film shows nothing else: a share.

    Args:
        result: the frames, fitted for themselves.
        truth: [T, A].
        person: [T].
    """
    strength, rows = np.nan_to_num(truth).sum(1), []
    for number in np.unique(person):
        own = np.flatnonzero(person == number)
        rows.append(np.resize(own[strength[own] >= APEX * strength[own].max()], HELD_FRAMES))
    at = np.concatenate(rows)
    before, clear = result[at], truth[at] >= CLEAR
    after = share_identity(before, person[at].tolist(), uncertainty=False)
    return float(after.aus.to_numpy()[clear].sum() / before.aus.to_numpy()[clear].sum())


def judge(names: Sequence[str], truth: Array, predicted: Array, person: Array) -> dict[str, float]:
    """All figures of one method; the rows of a person are its frames in order."""
    table = metrics.au_table(names, truth, predicted)
    within = [
        metrics.within_person(truth[:, j], predicted[:, j], person)
        for j in range(len(names))
        if np.isfinite(table[names[j]]["r"])
    ]
    same = person[1:] == person[:-1]
    steps, true_steps = np.diff(predicted, axis=0)[same], np.diff(truth, axis=0)[same]
    at_rest = ~(np.abs(np.nan_to_num(true_steps)) > 0).any(1)
    neutral = ~(np.nan_to_num(truth) > 0).any(1)
    return {
        "mae": metrics.mean_of(table, "mae"),
        "r": metrics.mean_of(table, "r"),
        "within_person_r": float(np.nanmean(within)) if within else float("nan"),
        "step_error": float(np.nanmean(np.abs(steps - true_steps))),
        "jitter": float(np.nanmean(np.abs(steps[at_rest]))) if at_rest.any() else float("nan"),
        "false_any_au": metrics.false_positives(predicted[neutral])[1],
        "blink_r": table[BLINK_AU]["r"],
    }


def differences(
    names: Sequence[str], truth: Array, predictions: dict[str, Array], person: Array
) -> dict[str, dict[str, tuple[float, float]]]:
    """95 % interval of each method's difference to ALONE in the COMPARED figures, resampling people."""
    rng = np.random.default_rng(0)
    rows = [np.flatnonzero(person == number) for number in np.unique(person)]
    others = [name for name in predictions if name != ALONE]
    drawn = np.zeros((RESAMPLES, len(others), len(COMPARED)))
    for draw in drawn:
        chosen = [rows[k] for k in rng.integers(len(rows), size=len(rows))]
        at = np.concatenate(chosen)
        who = np.repeat(np.arange(len(chosen)), [len(c) for c in chosen])
        judged = {name: judge(names, truth[at], predictions[name][at], who) for name in predictions}
        draw[:] = [[judged[name][f] - judged[ALONE][f] for f in COMPARED] for name in others]
    low, high = np.nanquantile(drawn, [0.025, 0.975], axis=0)
    return {
        name: {f: (float(low[i, j]), float(high[i, j])) for j, f in enumerate(COMPARED)}
        for i, name in enumerate(others)
    }


def measure(films: Sequence[Film], models: Models, smoothing: Sequence[float]) -> dict[str, Any]:
    """Fit the films and judge every method."""
    frames = [frame for film in films for frame in film.frames]
    boxes = np.concatenate([film.boxes for film in films])[:, None]
    with Stopwatch(models.device) as watch:
        result = fit(frames, boxes=boxes, keep_crops=0, uncertainty=False, progress=False, models=models)
    truth = np.concatenate([film.aus for film in films])
    person = np.repeat(np.arange(len(films)), [len(film.frames) for film in films])
    names = list(result.aus.columns)
    tied = tie(result, films, smoothing)
    predictions = {name: of.aus.to_numpy() for name, (of, _) in tied.items()}
    intervals = differences(names, truth, predictions, person)
    methods = {
        name: {
            **judge(names, truth, predictions[name], person),
            "misfit": float(np.nanmean(of.misfit)),
            "difference": intervals.get(name, {}),
            "ms_per_frame": 1e3 * seconds / len(frames),
        }
        for name, (of, seconds) in tied.items()
    }
    return {
        "fit_ms_per_frame": 1e3 * watch.seconds / len(frames),
        "held": held(result, truth, person),
        "methods": methods,
    }


def write_tables(path: Path, report: dict[str, Any]) -> None:
    """sequences.md."""
    run_on = report["provenance"]
    text = [
        "# Films: shared identity, smoothing, neutral picture",
        f"{run_on['people']} people of the {run_on['split']} split, {run_on['frames']} frames each"
        f"{', rendered with ' + run_on['config'] if run_on['config'] else ''}; "
        f"seed {run_on['seed']}; weights {run_on['weights']}; commit {run_on['commit']}; "
        f"{run_on['machine']}, {run_on['device']}.",
    ]
    for title, part in report["films"].items():
        text += [
            f"## {title}",
            markdown_table(
                ["", *(name for _, name, _ in FIGURES), "ms per frame"],
                [
                    [name, *(row[key] for key, _, _ in FIGURES), row["ms_per_frame"]]
                    for name, row in part["methods"].items()
                ],
            ),
            "Difference to single frames, 95 % interval over people:",
            markdown_table(
                ["", *COMPARED],
                [
                    [name, *(_interval(row["difference"][figure]) for figure in COMPARED)]
                    for name, row in part["methods"].items()
                    if name != ALONE
                ],
            ),
            f"Fitting each frame for itself takes {part['fit_ms_per_frame']:.1f} ms. Where a film shows "
            f"nothing but its strongest expression, the shared identity leaves {part['held']:.0%} of that.",
        ]
    text.append(
        "Step error: mean |change of the AU - true change| from frame to frame. Jitter at rest: mean change "
        f"where no AU moves. A false AU is one at {metrics.FALSE_POSITIVE} or more on a neutral frame. "
        f"{BLINK_AU} holds the blinks, three frames each, which too much smoothing takes away."
    )
    path.write_text("\n\n".join(text) + "\n")


def _interval(interval: tuple[float, float]) -> str:
    low, high = interval
    return f"{low:+.4f} to {high:+.4f}"


def evaluate(
    films: Sequence[Film], out: Path, models: Models, smoothing: Sequence[float], **settings: Any
) -> dict[str, Any]:
    """Judge the films as they are and spoilt, and write sequences.json and .md into `out`."""
    rng = np.random.default_rng(settings.get("seed", 0))
    spoilt = [spoil(film, rng) for film in films]
    report: dict[str, Any] = {
        "provenance": provenance(
            models.device,
            settings.pop("weights", None),
            people=len(films),
            frames=len(films[0].frames),
            smoothing=list(smoothing),
            **settings,
        ),
        "films": {
            "As filmed": measure(films, models, smoothing),
            f"{SPOILT:.0%} of the frames blurred or covered": measure(spoilt, models, smoothing),
        },
    }
    write_json(out / "sequences.json", report)
    write_tables(out / "sequences.md", report)
    return report


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_assets_option(parser)
    parser.add_argument("--out", type=Path, required=True, help="folder for figures and tables")
    parser.add_argument("--weights", type=Path, help="folder of other weights than the shipped ones")
    parser.add_argument("--people", type=int, default=24, help="films (default 24)")
    parser.add_argument("--frames", type=int, default=FRAMES, help=f"of a film (default {FRAMES})")
    parser.add_argument("--seed", type=int, default=300, help="of people, expressions and cameras")
    parser.add_argument("--split", choices=SPLITS, default="test", help="whose skins (default test)")
    parser.add_argument("--config", type=Path, help="TOML with [sampling], as for python.render")
    parser.add_argument(
        "--smoothing", type=float, nargs="+", default=[0.5, 1.0], help="frames (default 0.5 1)"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda (default auto)")
    a = parser.parse_args()
    a.out.mkdir(parents=True, exist_ok=True)
    models = load_models(resolve_device(a.device), a.weights)
    config = read_config(a.config)[0] if a.config else None
    rendered = render_films(a.assets, a.people, a.seed, a.frames, a.split, config)
    films = list(tqdm(rendered, total=a.people, desc="films"))
    settings = {"seed": a.seed, "split": a.split, "config": a.config.name if a.config else ""}
    report = evaluate(films, a.out, models, a.smoothing, weights=a.weights, **settings)
    for title, part in report["films"].items():
        for name, row in part["methods"].items():
            figures = ", ".join(f"{title} {row[key]:.4f}" for key, title, _ in FIGURES)
            print(f"{title} | {name}: {figures}", flush=True)
    print(f"wrote {a.out / 'sequences.md'}, sequences.json", flush=True)


if __name__ == "__main__":
    main()
