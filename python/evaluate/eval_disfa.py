"""AU intensities on DISFA or DISFA+, by py-feat's own protocol, for those who hold the data.

The protocol is that of py-feat's feat.evaluation. Three layouts are understood:

  DISFA+    ROOT/Labels/SN001/<trial>/AU1.txt, lines "frame.jpg intensity",
            ROOT/Images/SN001/<trial>/frame.jpg
  DISFA     ROOT/ActionUnit_Labels/SN001/SN001_au1.txt, lines "frame,intensity" with frames from 1,
            ROOT/Videos_LeftCamera/LeftVideoSN001_comp.avi
  py-feat   ROOT/DISFA_main_New.csv, columns AU1 ... AU26, subject, frame, data_split, aligned_path

Per AU and in the mean over AUs, all frames pooled:

  F1        truth >= 2 against prediction >= 0.5
  ICC(3,1)  as py-feat computes it (truth 0-5 against prediction 0-1), and with the prediction on 0-5
  PCC, MAE  Pearson's r; mean absolute error on 0-5

py-feat's predictions are probabilities and these are intensities: 0.5 here means half of the strongest
movement, FACS level 2-3. `--threshold` sets another cut for F1 in addition. Frames without a face are left
out and counted. The results go into disfa.json and disfa.md in --out; the predictions, frame by frame, into
predictions.csv.

    python -m python.evaluate.eval_disfa data/DISFAPlusDataset --out runs/disfaplus --stride 5
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from genet_ext.action_units import FACS_LEVELS, load_action_units
from genet_ext.fitting import fit_stream, resolve_device
from genet_ext.models import Models, load_models
from python.evaluate import metrics
from python.evaluate.common import markdown_table, provenance, write_json
from python.evaluate.metrics import Array

AU_NUMBERS = (1, 2, 4, 5, 6, 9, 12, 15, 17, 20, 25, 26)
AUS = tuple(f"AU{number:02d}" for number in AU_NUMBERS)
TRUTH_PRESENT = 2  # py-feat's binarisation, with metrics.PRESENT


@dataclass(frozen=True)
class Recording:
    """Frames of one subject: `images` (paths or RGB arrays) and their `intensity` [N, 12], 0-5, in order."""

    subject: str
    trial: str
    frames: list[str]
    intensity: Array
    images: Iterable[Any]


def recordings(root: Path, split: str | None = None, stride: int = 1) -> Iterator[Recording]:
    """What the folder holds, whichever layout it has; every `stride`-th frame.

    Raises FileNotFoundError where it has none of them.
    """
    if (root / "Labels").is_dir():
        return _disfa_plus(root, stride)
    if (root / "ActionUnit_Labels").is_dir():
        return _disfa(root, stride)
    if (root / "DISFA_main_New.csv").is_file():
        return _disfa_of_pyfeat(root, split, stride)
    raise FileNotFoundError(
        f"root: expected a folder with Labels (DISFA+), ActionUnit_Labels (DISFA) or DISFA_main_New.csv; "
        f"{root} has none of them"
    )


def _disfa_plus(root: Path, stride: int) -> Iterator[Recording]:
    for folder in sorted(p for p in (root / "Labels").glob("*/*") if p.is_dir()):
        files = [folder / f"AU{number}.txt" for number in AU_NUMBERS]
        if not all(file.is_file() for file in files):
            continue
        columns = [_read_pairs(file) for file in files]
        images = root / "Images" / folder.parent.name / folder.name
        shared = sorted(set.intersection(*(set(column) for column in columns)))
        frames = [frame for frame in shared if (images / frame).is_file()][::stride]
        if frames:
            yield Recording(
                subject=folder.parent.name,
                trial=folder.name,
                frames=frames,
                intensity=np.array([[column[frame] for column in columns] for frame in frames]),
                images=[images / frame for frame in frames],
            )


def _disfa(root: Path, stride: int) -> Iterator[Recording]:
    for folder in sorted(p for p in (root / "ActionUnit_Labels").iterdir() if p.is_dir()):
        columns = [_read_pairs(folder / f"{folder.name}_au{number}.txt") for number in AU_NUMBERS]
        video = root / "Videos_LeftCamera" / f"LeftVideo{folder.name}_comp.avi"
        if not video.is_file():
            raise FileNotFoundError(f"root: expected the video {video}")
        frames = sorted(set.intersection(*(set(column) for column in columns)), key=int)[::stride]
        yield Recording(
            subject=folder.name,
            trial="left",
            frames=frames,
            intensity=np.array([[column[frame] for column in columns] for frame in frames]),
            images=_video_frames(video, [int(frame) for frame in frames]),
        )


def _disfa_of_pyfeat(root: Path, split: str | None, stride: int) -> Iterator[Recording]:
    subjects: dict[str, list[dict[str, str]]] = {}
    with (root / "DISFA_main_New.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            if split is None or row["data_split"] == split:
                subjects.setdefault(row["subject"], []).append(row)
    for subject, rows in sorted(subjects.items()):
        # Absolute paths of another machine are looked up by their last parts, below the root.
        paths = [_below(root, Path(row["aligned_path"])) for row in rows]
        kept = [(row, path) for row, path in zip(rows, paths, strict=True) if path is not None][::stride]
        if kept:
            yield Recording(
                subject=subject,
                trial=kept[0][0]["data_split"],
                frames=[row["frame"] for row, _ in kept],
                intensity=np.array([[float(row[f"AU{n}"]) for n in AU_NUMBERS] for row, _ in kept]),
                images=[path for _, path in kept],
            )


def _below(root: Path, path: Path) -> Path | None:
    candidates = (path, *(root.joinpath(*path.parts[k:]) for k in range(1, len(path.parts))))
    return next((candidate for candidate in candidates if candidate.is_file()), None)


def _read_pairs(path: Path) -> dict[str, float]:
    """Lines "frame intensity" or "frame,intensity"; # starts a comment."""
    pairs = {}
    for line in path.read_text().splitlines():
        fields = line.replace(",", " ").split()
        if len(fields) >= 2 and not fields[0].startswith("#"):
            pairs[fields[0]] = float(fields[1])
    return pairs


def _video_frames(path: Path, wanted: list[int]) -> Iterator[npt.NDArray[np.uint8]]:
    """RGB frames by number, from 1, ascending. Raises ValueError where the video ends before."""
    video = cv2.VideoCapture(str(path))
    number = 0
    try:
        for frame in wanted:
            while number < frame:
                read, image = video.read()
                if not read:
                    raise ValueError(f"{path}: expected at least {frame} frames, got {number}")
                number += 1
            yield cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
    finally:
        video.release()


def predict(recording: Recording, models: Models) -> Array:
    """[N, 12] AUs in [0, 1] of the best face of each frame; NaN where none was found."""
    names = load_action_units().names
    columns = [names.index(au) for au in AUS]
    out = np.full((len(recording.frames), len(AUS)), np.nan)
    images = recording.images if isinstance(recording.images, list) else iter(recording.images)
    for part in fit_stream(images, models=models, uncertainty=False, keep_crops=0):
        best = part.face == 0
        out[part.image[best]] = part.aus.to_numpy()[best][:, columns]
    return out


def judge(truth: Array, prediction: Array, threshold: float | None = None) -> dict[str, Any]:
    """Figures per AU and their means; `truth` [N, 12] 0-5, `prediction` [N, 12] 0-1."""
    per_au = {}
    for j, au in enumerate(AUS):
        known = np.isfinite(truth[:, j]) & np.isfinite(prediction[:, j])
        t, p = truth[known, j], prediction[known, j]
        present = t >= TRUTH_PRESENT
        per_au[au] = {
            "n": len(t),
            "present": int(present.sum()),
            # As py-feat: 0 where neither truth nor prediction ever has the AU.
            "f1": float(np.nan_to_num(metrics.f1(present, p >= metrics.PRESENT))),
            "icc_pyfeat": metrics.icc31(t, p),
            "icc": metrics.icc31(t, FACS_LEVELS * p),
            "pcc": metrics.pearson(t, p),
            "mae": metrics.mean_absolute_error(t, FACS_LEVELS * p),
        }
        if threshold is not None:
            per_au[au]["f1_at_threshold"] = float(np.nan_to_num(metrics.f1(present, p >= threshold)))
    figures = [name for name in next(iter(per_au.values())) if name not in ("n", "present")]
    return {"per_au": per_au, "mean": {name: metrics.mean_of(per_au, name) for name in figures}}


def evaluate(
    root: Path,
    out: Path,
    models: Models,
    weights: Path | None = None,
    split: str | None = None,
    stride: int = 1,
    threshold: float | None = None,
) -> dict[str, Any]:
    """Run everything and write it into `out`; the content of disfa.json."""
    out.mkdir(parents=True, exist_ok=True)
    truth, prediction = [], []
    with (out / "predictions.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["subject", "trial", "frame", *AUS, *(f"true_{au}" for au in AUS)])
        for recording in tqdm(recordings(root, split, stride), unit="recording", desc="DISFA"):
            values = predict(recording, models)
            for frame, p, t in zip(recording.frames, values, recording.intensity, strict=True):
                writer.writerow([recording.subject, recording.trial, frame, *np.round(p, 4), *t])
            truth.append(recording.intensity)
            prediction.append(values)
    if not truth:
        raise ValueError(
            f"root: no labelled frame with its picture in {root}" + (f", split {split}" if split else "")
        )
    all_truth, all_predictions = np.concatenate(truth), np.concatenate(prediction)
    found = np.isfinite(all_predictions).any(1)
    report = {
        "provenance": provenance(
            models.device, weights, data=root.name, split=split, stride=stride, threshold=threshold
        ),
        "frames": len(found),
        "frames_without_a_face": int((~found).sum()),
        **judge(all_truth, all_predictions, threshold),
    }
    write_json(out / "disfa.json", report)
    columns = list(report["mean"])
    rows = [
        [au, row["n"], row["present"], *(row[c] for c in columns)] for au, row in report["per_au"].items()
    ]
    rows.append(["mean", "", "", *report["mean"].values()])
    (out / "disfa.md").write_text(
        f"# {root.name}\n\n{report['frames']} frames, {report['frames_without_a_face']} of them without a "
        f"face; commit {report['provenance']['commit']}.\n\n"
        + markdown_table(["AU", "n", "present", *columns], rows)
        + "\n"
    )
    return report


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("root", type=Path, help="folder of the data set")
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    parser.add_argument("--split", help="P1, P2 or P3 of py-feat's table (default: all)")
    parser.add_argument("--stride", type=int, default=1, help="use every so-many-th frame (default 1)")
    parser.add_argument("--threshold", type=float, help="another cut of the prediction for F1, besides 0.5")
    parser.add_argument("--weights", type=Path, help="folder of other weights than the shipped ones")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda (default auto)")
    a = parser.parse_args()
    models = load_models(resolve_device(a.device), a.weights)
    evaluate(a.root, a.out, models, a.weights, a.split, a.stride, a.threshold)
    print((a.out / "disfa.md").read_text())


if __name__ == "__main__":
    main()
