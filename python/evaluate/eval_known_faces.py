r"""Several pictures of a person: what `identity="shared"` and `neutral=` make of them, and landmarks in it.

How high somebody's brows are at rest cannot be told from one picture; several tell, or one of the face at
rest (genet_ext/known_face.py). Compared on held-out pictures of people, several of each:

  each picture for itself   `genet_ext.fit(pictures)`
  shared, no landmarks      what `identity="shared"` would be without them: one head, and its resting AUs
  shared, n pictures        `identity="shared"` of n of a person's pictures at a time
  shared, all pictures      `identity="shared"`
  neutral picture           `neutral=...`, one of the person's neutral pictures, on the others; and what each
                            of those reads for itself, and with nothing but the neutral picture's AUs off

Writes known_faces.json and known_faces.md into --out:

    python -m python.render --out renders/persons --count 768 --per-identity 24 --seed 304 \
        --split test --config python/render/configs/strange.toml
    python -m python.evaluate.eval_known_faces --data renders/persons data/second_model --out runs/known
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from genet_ext.action_units import load_action_units
from genet_ext.fitting import fit
from genet_ext.models import Models, load_models
from genet_ext.persons import share_head, share_identity, subtract_neutral, take_resting_aus_off
from genet_ext.result import FitResult
from genet_ext.sequences import groups
from python.evaluate import metrics
from python.evaluate.common import markdown_table, provenance, write_json
from python.evaluate.eval_recovery import covered
from python.evaluate.pictures import TestSet, load_test_set

AT_A_TIME = (2, 4, 8)
ALONE, BARE, SHARED = "each picture for itself", "shared, no landmarks", "shared, all pictures"
SUBTRACTED, NEUTRAL, THOSE = (
    "AUs of a neutral picture off",
    "neutral picture",
    "those pictures for themselves",
)
FIGURES = ("within_person_r", "rising_steps", "r", "icc", "mae", "false_any_au", "false_worst_au")
COVERED = ("all", "present", "estimate 0.15-0.3", "estimate 0.3-0.6", "estimate 0.6-1")


@dataclass(frozen=True)
class Read:
    """What one way reads on some pictures of a test set.

    Attributes:
        rows: [n] of the test set.
        result: [n] faces.
    """

    rows: np.ndarray
    result: FitResult


def ways_to_read(test: TestSet, alone: FitResult) -> dict[str, Read]:
    """Every way, on pictures that were fitted for themselves."""
    everything = np.arange(len(test))
    person = test.person.tolist()
    out = {ALONE: Read(everything, alone)}
    out[BARE] = Read(everything, take_resting_aus_off(share_head(alone, person), person))
    for count in AT_A_TIME:
        rows, labels = in_lots(test.person, count)
        out[f"shared, {count} pictures"] = Read(rows, share_identity(alone[rows], labels))
    out[SHARED] = Read(everything, share_identity(alone, person))
    still = {who: int(np.flatnonzero(test.neutral & (test.person == who))[0]) for who in at_rest(test)}
    rows = np.flatnonzero(np.isin(test.person, list(still)) & ~np.isin(everything, list(still.values())))
    if len(rows):
        labels = test.person[rows].tolist()
        those, neutral = alone[rows], {who: alone[[row]] for who, row in still.items()}
        aus = np.concatenate([neutral[who].aus.to_numpy() for who in labels])
        out[THOSE] = Read(rows, those)
        out[SUBTRACTED] = Read(rows, replace(those, baseline=np.nan_to_num(aus)))
        out[NEUTRAL] = Read(rows, subtract_neutral(those, labels, neutral))
    return out


def in_lots(person: np.ndarray, count: int) -> tuple[np.ndarray, list[tuple[int, int]]]:
    """Rows of whole lots of `count` pictures of a person, drawn at random, and which lot each is in."""
    rng = np.random.default_rng(count)
    rows: list[int] = []
    lots: list[tuple[int, int]] = []
    for own in groups(person.tolist()):
        drawn = rng.permutation(own)[: len(own) // count * count]
        rows += drawn.tolist()
        lots += [(int(person[own[0]]), k // count) for k in range(len(drawn))]
    return np.array(rows, np.int64), lots


def at_rest(test: TestSet) -> list[int]:
    """Who has a neutral picture."""
    return sorted(set(test.person[test.neutral].tolist()))


def judge(test: TestSet, read: Read) -> dict[str, Any]:
    """Figures of merit of one way."""
    aus, truth = read.result.aus.to_numpy(), test.aus[read.rows]
    table, by_person = metrics.au_table(test.names, truth, aus), test.by_person(aus, read.rows)
    posterior = read.result.posterior.copy()
    posterior[..., 0] -= read.result.baseline
    return {
        **metrics.summary(test.names, truth, aus),
        "within_person_r": metrics.mean_of(by_person, "within_person_r"),
        "rising_steps": metrics.mean_of(by_person, "rising_steps"),
        "coverage": covered(truth, posterior),
        "per_au": {name: table[name] | by_person[name] for name in table},
    }


def table_of(report: dict[str, Any]) -> str:
    """known_faces.md."""
    parts = ["# Several pictures of a person"]
    for name, ways in report["sets"].items():
        rows = [[way, judged["faces"], *(judged[f] for f in FIGURES)] for way, judged in ways.items()]
        parts += [f"## {name}", markdown_table(["", "faces", *FIGURES], rows)]
        inside = [
            [way, *(judged["coverage"]["95%"][kind] for kind in COVERED)] for way, judged in ways.items()
        ]
        parts += [
            "Share of the truths inside the 95 % interval:",
            markdown_table(["", *COVERED], inside),
        ]
        of_aus = [
            [au, *(judged["per_au"][au]["within_person_r"] for judged in ways.values())]
            for au in load_action_units().names
        ]
        parts.append(markdown_table(["r within a person", *ways], of_aus))
    return "\n\n".join(parts) + "\n"


def evaluate(test: TestSet, models: Models) -> dict[str, Any]:
    """Way to read -> figures of one test set."""
    pictures = list(test.pictures())
    alone = fit(pictures, test.box[:, None], keep_crops=0, models=models)
    return {way: judge(test, read) for way, read in ways_to_read(test, alone).items()}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, nargs="+", required=True, help="folders of held-out renders")
    parser.add_argument("--weights", type=Path, help="folder of weights (default: the shipped ones)")
    parser.add_argument("--limit", type=int, help="only the first so many pictures of each set")
    parser.add_argument("--out", type=Path, required=True, help="folder for the figures")
    arguments = parser.parse_args()
    try:
        sets = {folder.name: load_test_set(folder, limit=arguments.limit) for folder in arguments.data}
    except (OSError, ValueError) as error:
        parser.error(str(error))
    models = load_models("cpu", arguments.weights)
    report = {
        "provenance": provenance("cpu", arguments.weights),
        "sets": {name: evaluate(test, models) for name, test in sets.items()},
    }
    write_json(arguments.out / "known_faces.json", report)
    (arguments.out / "known_faces.md").write_text(table_of(report))
    print(table_of(report))


if __name__ == "__main__":
    main()
