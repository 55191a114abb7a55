r"""Other AU detectors on pictures whose truth is known, beside genet-ext: the same pictures for all of them.

``pictures`` writes the photograph-like test pictures of a folder of held-out renders (python/render or
python.evaluate.second_model) as PNG files, and boxes.csv, a loose face box for each. Any detector may be run
over them; ``judge`` then compares the tables it wrote:

    python -m python.evaluate.eval_peers pictures --data data/second_model --out runs/pictures
    genet-ext fit runs/pictures --out runs/genet.csv
    python -c "from pathlib import Path; from feat import MPDetector; \
        files = sorted(map(str, Path('runs/pictures').glob('*.png'))); \
        MPDetector().detect(files, data_type='image').to_csv('runs/mediapipe.csv')"
    python -m python.evaluate.eval_peers judge --data data/second_model --out runs/peers \
        runs/genet.csv runs/mediapipe.csv

Where MPDetector's weights cannot be downloaded, python/evaluate/mediapipe_table.py writes the table of the 52
blendshapes that it stands on.

A table has a line per face: the picture (input, as py-feat calls it, or file), AU01, AU02, ..., and FaceScore
where there may be several faces in a picture, of which the highest counts. Detectors differ in what their
numbers mean, so nothing is compared that a change of scale would change, but for the AUs of neutral faces
that reach 0.5, where py-feat calls an AU present. Compared are the AUs that all tables have, on the pictures
in which all found a face. ``judge`` writes peers.json and peers.md into --out.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from python.evaluate import metrics
from python.evaluate.common import markdown_table, provenance, read_detections, write_json
from python.evaluate.pictures import TestSet, load_test_set


def write_pictures(test: TestSet, out: Path) -> None:
    """The pictures of ``test`` as 00000.png, 00001.png, ..., and boxes.csv: file, x1, y1, x2, y2 in px."""
    out.mkdir(parents=True, exist_ok=True)
    names = [f"{k:05d}.png" for k in range(len(test))]
    for name, pixels in zip(names, tqdm(test.pictures(), total=len(test), unit="picture"), strict=True):
        Image.fromarray(pixels).save(out / name)
    boxes = pd.DataFrame(test.box.round(2), columns=["x1", "y1", "x2", "y2"])
    boxes.insert(0, "file", names)
    boxes.to_csv(out / "boxes.csv", index=False)


def read_table(path: Path, names: Sequence[str], count: int) -> pd.DataFrame:
    """The AUs of one table, a row for each of ``count`` pictures: NaN where no face was found.

    Raises:
        ValueError: there is no column with the picture, or none of the AUs ``names``, or a picture is none of
            those that were written.
    """
    table = read_detections(path, names)
    stem = table.index.map(lambda name: Path(name).stem)
    strange = [name for name in stem if not (name.isdecimal() and int(name) < count)]
    if strange:
        raise ValueError(f"{path}: expected pictures 00000.png to {count - 1:05d}.png, got {strange[0]!r}")
    table.index = stem.astype(int)
    return table[~table.index.duplicated()].reindex(range(count))


def judge(test: TestSet, tables: dict[str, pd.DataFrame]) -> dict[str, Any]:
    """What each table is worth, on the AUs and the pictures that all of them have.

    Raises ValueError where there are none.
    """
    shared = [name for name in test.names if all(name in table for table in tables.values())]
    has_face = {name: table[shared].notna().all(axis=1).to_numpy() for name, table in tables.items()}
    found = np.logical_and.reduce(list(has_face.values()))
    if not (shared and found.any()):
        raise ValueError(f"tables: expected pictures and AUs that all of {', '.join(tables)} have; got none")
    return {
        "pictures": int(found.sum()),
        "aus": shared,
        "detectors": {
            name: {"faces_found": int(has_face[name].sum()), **_figures(test, found, table[shared])}
            for name, table in tables.items()
        },
    }


def _figures(test: TestSet, found: NDArray[np.bool_], table: pd.DataFrame) -> dict[str, Any]:
    """What the AUs of one detector are worth on the pictures ``found`` [N]."""
    truth, read = test.aus[found], table.reindex(columns=list(test.names)).to_numpy(float)[found]
    by_person, by_au = test.by_person(read, found), {}
    for name in table:
        j = test.names.index(name)
        by_au[name] = {
            "r": metrics.pearson(truth[:, j], read[:, j]),
            **by_person[name],
            "auc": metrics.auc(truth[:, j] > 0, read[:, j]),
        }
    return {
        **{figure: metrics.mean_of(by_au, figure) for figure in next(iter(by_au.values()))},
        "neutral_with_an_au": metrics.false_positives(read[test.neutral[found]], metrics.PRESENT)[1],
        "per_au": by_au,
    }


def tables_of(report: dict[str, Any]) -> str:
    """peers.md."""
    about, detectors = report["provenance"], report["detectors"]
    figures = {
        "faces found": "faces_found",
        "mean r": "r",
        "r within person": "within_person_r",
        "rising steps": "rising_steps",
        "AUC, present against absent": "auc",
        f"neutral faces with an AU >= {metrics.PRESENT}": "neutral_with_an_au",
    }
    overall = [[name, *(judged[key] for key in figures.values())] for name, judged in detectors.items()]
    columns = [(name, figure) for figure in ("r", "auc") for name in detectors]
    by_au = [
        [au, *(detectors[name]["per_au"][au][figure] for name, figure in columns)] for au in report["aus"]
    ]
    about_set = (
        f"{report['pictures']} pictures of {about['data']} in which all found a face; the AUs that all give; "
        f"commit {about['commit']}."
    )
    parts = [
        "# AU detectors on pictures of known truth",
        about_set,
        markdown_table(["detector", *figures], overall),
        markdown_table(["AU", *(f"{name}: {figure}" for name, figure in columns)], by_au),
    ]
    return "\n\n".join(parts) + "\n"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    write = commands.add_parser("pictures", help="write the test pictures")
    compare = commands.add_parser("judge", help="compare the tables that detectors wrote of them")
    compare.add_argument("tables", type=Path, nargs="+", help="a CSV file per detector")
    for command, what in ((write, "the pictures"), (compare, "peers.json and peers.md")):
        command.add_argument("--data", type=Path, required=True, help="folder of held-out renders")
        command.add_argument("--out", type=Path, required=True, help=f"folder for {what}")
        command.add_argument("--limit", type=int, help="only the first so many pictures")
        command.add_argument("--seed", type=int, default=0, help="of the camera and the boxes (default 0)")
    arguments = parser.parse_args()
    if arguments.command == "judge" and len({path.stem for path in arguments.tables}) < len(arguments.tables):
        parser.error("tables: expected a name for each detector; two files have the same name")
    test = load_test_set(arguments.data, arguments.seed, arguments.limit)
    if arguments.command == "pictures":
        write_pictures(test, arguments.out)
        return
    try:
        tables = {path.stem: read_table(path, test.names, len(test)) for path in arguments.tables}
        found = judge(test, tables)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    report = {"provenance": provenance("cpu", data=arguments.data.name, seed=arguments.seed), **found}
    write_json(arguments.out / "peers.json", report)
    (arguments.out / "peers.md").write_text(tables_of(report))
    print(tables_of(report))


if __name__ == "__main__":
    main()
