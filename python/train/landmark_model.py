r"""The face model's landmarks, and how far the extractor's are from them: writes landmark_model.safetensors.

    python -m python.render --out renders/persons --count 1536 --per-identity 24 --seed 302 \
        --split validation --config python/render/configs/strange.toml
    python -m python.train.landmark_model --weights runs/h --held-out renders/persons --assets ASSETS

The renders, several of each person, go the whole way that genet_ext.fit goes with identity="shared". How far
each picture's landmarks are from where the true expression puts them, about the person's mean, is the noise
that genet_ext/known_face.py reckons with.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from genet_ext.fitting import fit
from genet_ext.landmark_model import COORDINATES, LandmarkModel
from genet_ext.models import Models, load_models
from genet_ext.parameters import EXPRESSION
from genet_ext.persons import share_head
from genet_ext.sequences import groups
from genet_ext.similarity import FloatArray
from python.evaluate.pictures import TestSet, load_test_set
from python.render.assets import (
    N_IDENTITY,
    FaceModel,
    add_assets_option,
    load_face_model,
    read_parameters,
)
from python.render.geometry import outer_eye_distance
from python.train.common import held_out_parser

FLOOR = 0.5  # of the mean variance, added to each: other faces than renders err in other directions, too
NAME = "landmark_model.safetensors"


def main() -> None:
    parser = held_out_parser(__doc__)
    parser.add_argument("--weights", type=Path, required=True, help="folder of weights; the file goes there")
    add_assets_option(parser, "ict_facekit.npz")
    arguments = parser.parse_args()
    path = arguments.weights / NAME
    model = geometry(load_face_model(arguments.assets / "ict_facekit.npz"))
    model.save(path)  # so that the weights are complete; heads are shared without the noise

    models = load_models(arguments.device, arguments.weights)
    measured(models, load_test_set(arguments.held_out, arguments.seed)).save(path)


def measured(models: Models, test: TestSet) -> LandmarkModel:
    """The landmark model of `models` with the precision that the pictures of several people show."""
    model = models.landmark_model
    pictures = list(test.pictures())
    result = fit(pictures, test.box[:, None], keep_crops=0, uncertainty=False, models=models)
    rows = result.fitted
    known = share_head(result, test.person.tolist(), uncertainty=False)[rows]
    truth = test.renders.theta[test.rows[rows]][:, models.space.indices(EXPRESSION)]
    expected = (truth[:, None].astype(np.float64) @ model.movements(known.theta))[:, 0]
    off = about_the_mean(model.displacement(known.landmarks, known.theta) - expected, test.person[rows])
    print(f"{rows.sum()} of {len(rows)} pictures of {len(np.unique(test.person))} people")
    print(f"deviation of the landmarks: {off.std():.4f} of the distance of the outer corners of the eyes")
    return replace(model, precision=precision(off))


def geometry(face: FaceModel) -> LandmarkModel:
    """The landmarks of the face model, with a precision of 1."""
    table, deltas = read_parameters(), face.landmark_deltas.astype(np.float64)
    shapes = face.shape_matrix([table.shape_weights[name] for name in table.expression])
    rest = face.neutral[face.landmarks].astype(np.float64)
    expression = np.tensordot(shapes.astype(np.float64), deltas[N_IDENTITY:], 1)
    parts = (rest, deltas[:N_IDENTITY], expression)
    return LandmarkModel(*(part / outer_eye_distance(rest) for part in parts), np.eye(COORDINATES))


def about_the_mean(off: FloatArray, person: np.ndarray) -> FloatArray:
    """[N, D] less each person's mean, [N]."""
    out = off.copy()
    for rows in groups(person.tolist()):
        out[rows] -= off[rows].mean(0)
    return out


def precision(off: FloatArray) -> FloatArray:
    """Inverse covariance [D, D] of [N, D], with a floor."""
    covariance = np.cov(off.T)
    floor = FLOOR * covariance.trace() / len(covariance) * np.eye(len(covariance))
    inverse: FloatArray = np.linalg.inv(covariance + floor)
    return inverse


if __name__ == "__main__":
    main()
