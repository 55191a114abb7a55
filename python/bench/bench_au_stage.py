"""What the AU stage costs in py-feat, per face: genet-ext beside HOG features and `xgb`, in one run.

    python -m python.bench.bench_au_stage --data data/test --out bench-results/au-stage-cpu.json

Both get what py-feat's detector has at that point: genet-ext frames and face boxes, `xgb` crops of 112 px and
68 landmarks. One CPU thread. The weights of `xgb` are a download: where they are not in py-feat's cache and
the hub cannot be reached, its HOG features are timed alone, and the line says so. Needs py-feat.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import xgboost  # noqa: F401  # before torch, as py-feat does: its OpenMP runtime must be the first

# isort: split
import numpy as np
import torch
from feat.detector import Detectorv1
from feat.utils.face_mask import extract_hog_features_batched
from feat.utils.image_operations import HOGLayer
from torch import Tensor

from genet_ext.faces import BOX_CENTRE, BOX_SIDE
from genet_ext.pyfeat.model import GenetAUModel
from python.bench.common import machine, measure, pin_threads, write_result
from python.evaluate.pictures import TestSet, load_test_set
from python.render.geometry import MARGIN

SCHEMA = 1
CROP = 112  # px, what py-feat cuts out
NO_WEIGHTS = "HOG features alone: the weights of xgb could not be had"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of renders")
    parser.add_argument("--faces", type=int, default=64, help="in a batch (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=20.0, help="per stage (default: %(default)s)")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    options = parser.parse_args(argv)
    processors = pin_threads(1)
    test = load_test_set(options.data, limit=options.faces)
    stages = {"genet": genet_stage(test)} | dict([xgb_stage(test)])
    result: dict[str, Any] = dict(
        schema=SCHEMA, benchmark="au-stage", machine=machine(), threads=1, processors=processors,
        faces=len(test), results=[],
    )  # fmt: skip
    for name, stage in stages.items():
        timing = measure(lambda: None, lambda _, stage=stage: stage(), torch.device("cpu"),
                         seconds=options.seconds, warm_up=2, least=3)  # fmt: skip
        ms = {key: 1e3 * timing[key] / len(test) for key in ("median", "q1", "q3")}
        print(f"{name}: {ms['median']:.1f} ms a face (quartiles {ms['q1']:.1f} to {ms['q3']:.1f})")
        result["results"].append(dict(stage=name, ms_per_face=ms, repeats=timing["repeats"]))
    write_result(options.out, result)
    return 0


def genet_stage(test: TestSet) -> Callable[[], Any]:
    """Frames and boxes to AU columns."""
    frames = [torch.from_numpy(picture).permute(2, 0, 1) for picture in test.pictures()]
    boxes = [torch.from_numpy(box[None]).round() for box in test.box]
    model = GenetAUModel("cpu")
    return lambda: model.detect_au_from_frames(frames, boxes)


def xgb_stage(test: TestSet) -> tuple[str, Callable[[], Any]]:
    """Crops and landmarks to HOG features, and to probabilities where the classifiers can be had."""
    crops, landmarks = pyfeat_crops(test)
    classifier = _classifier()
    # As Detectorv1 makes it, once.
    layer = HOGLayer(
        orientations=8,
        pixels_per_cell=8,
        cells_per_block=2,
        block_normalization="L2-Hys",
        feature_vector=True,
    )

    def run() -> Any:
        features, aligned = extract_hog_features_batched(crops, landmarks, hog_layer=layer)
        return features if classifier is None else classifier.detect_au(frame=features, landmarks=[aligned])

    return ("xgb" if classifier is not None else NO_WEIGHTS), run


def pyfeat_crops(test: TestSet) -> tuple[Tensor, Tensor]:
    """What py-feat hands on: crops [N, 3, 112, 112] in [0, 1], and landmarks [N, 136] in parts of them."""
    low = BOX_CENTRE + MARGIN - BOX_SIDE / 2
    crops, landmarks = [], []
    for picture, points, scale in zip(test.pictures(), test.landmarks, test.scale, strict=True):
        left, top = (low * scale).round().astype(int)
        side = round(BOX_SIDE * scale)
        cut = torch.from_numpy(picture[top : top + side, left : left + side]).permute(2, 0, 1)[None] / 255
        crops.append(torch.nn.functional.interpolate(cut, (CROP, CROP), mode="bilinear"))
        landmarks.append(((points - [left, top]) / side).ravel().astype(np.float32))
    return torch.cat(crops), torch.from_numpy(np.stack(landmarks))


def _classifier() -> Any:
    try:
        with torch.enable_grad():  # put back afterwards: building py-feat's RetinaFace switches autograd off
            detector = Detectorv1(
                landmark_model="mobilefacenet", au_model="xgb", emotion_model=None, identity_model=None
            )
    except Exception as error:  # whatever the hub's client raises where there is no network
        print(f"xgb: {type(error).__name__}, its weights are neither in the cache nor to be had")
        return None
    return detector.au_detector


if __name__ == "__main__":
    raise SystemExit(main())
