r"""What landmarks would add where there are several pictures of a person: a lead, not what ``fit`` does.

How high somebody's brows are at rest cannot be told from one picture, so the extractor hardly reads from
where they are whether they are raised. Several pictures of a person tell: how far the landmarks are from
where this person's mostly are is movement. Each picture's landmarks, as the extractor sees them, are laid
over those of the face model at the regressed pose and the person's mean identity; what is left, less the
person's median of it, is read by least squares as movements of the face model, all parameters in [0, 1].

Compares that with the extractor's own AUs, their sum, and the landmarks with the extractor's parameters as
prior. Writes known_faces.json and known_faces.md into --out; for sets with several pictures of each person:

    python -m python.render --out renders/persons --count 768 --per-identity 24 --seed 302 \
        --split validation --config python/render/configs/strange.toml
    python -m python.evaluate.eval_known_faces --data renders/persons data/second_model --assets ASSETS \
        --out runs/known
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import lsq_linear
from tqdm import trange

from genet_ext.action_units import load_action_units
from genet_ext.faces import transform
from genet_ext.models import load_models
from genet_ext.parameters import EXPRESSION, IDENTITY, load_parameter_space
from python.evaluate import metrics
from python.evaluate.common import markdown_table, provenance, write_json
from python.evaluate.eval_shapes import aus_of, movements_of_parameters, outer_distance
from python.evaluate.methods import extract_all
from python.evaluate.metrics import Array
from python.evaluate.pictures import TestSet, load_test_set
from python.render.assets import N_IDENTITY, add_assets_option, load_face_model
from python.render.geometry import rotation, similarity

# The bridge and foot of the nose and the corners of the eyes: what no expression moves far.
STABLE = [27, 28, 29, 30, 31, 33, 35, 36, 39, 42, 45]
READ = slice(17, 68)  # the jaw line slides over the cheek as the head turns
ALONE = 0.03  # landmarks' deviation over that of a parameter, where landmarks are all that is known
WITH_PRIOR = 0.2  # the same with the extractor's parameters as prior
ADDED = 0.25  # of the landmarks' AUs to the extractor's


@dataclass(frozen=True)
class LandmarkModel:
    """The face model's 68 landmarks; the unit of length is the distance between the eyes' outer corners."""

    neutral: Array  # [68, 3]
    identity: Array  # [K, 68, 3]
    expression: Array  # [46, 68, 3]

    def seen(self, points: Array, pose: Array) -> Array:
        """Points [..., 68, 3] from far away at a pose (pitch, yaw, ...): [..., 68, 2], y down."""
        turned = points @ rotation(float(pose[0]), float(pose[1]), 0.0).astype(np.float64).T
        return turned[..., :2] * [1, -1]


def load_landmark_model(assets: Path) -> LandmarkModel:
    """Of ict_facekit.npz in a folder."""
    face = load_face_model(assets / "ict_facekit.npz")
    neutral = face.neutral[face.landmarks].astype(np.float64)
    unit = outer_distance(neutral)
    identity = face.landmark_deltas[:N_IDENTITY].astype(np.float64)
    return LandmarkModel(neutral / unit, identity / unit, movements_of_parameters(face))


def movement(model: LandmarkModel, landmarks: Array, theta: Array, person: Array) -> tuple[Array, Array]:
    """How far landmarks are from where they should be: by the model, and by the person's other pictures.

    Args:
        model: the face model's landmarks.
        landmarks: [N, 68, 2] px.
        theta: [N, P] as regressed.
        person: [N].

    Returns:
        [N, 68, 2] each, in units of the model and along the axes of a head without roll.
    """
    identity = theta[:, load_parameter_space().indices(IDENTITY)]
    off, moved = np.empty_like(landmarks), np.empty_like(landmarks)
    for who in np.unique(person):
        rows = np.flatnonzero(person == who)
        rest = model.neutral + np.tensordot(identity[rows].mean(0), model.identity, 1)
        for row in rows:
            expected = model.seen(rest, theta[row])
            off[row] = (
                transform(similarity(landmarks[row, STABLE], expected[STABLE]), landmarks[row]) - expected
            )
        moved[rows] = off[rows] - np.median(off[rows], 0)
    return off, moved


def read(model: LandmarkModel, moved: Array, theta: Array, doubt: float, prior: Array | None = None) -> Array:
    """AUs [N, A] of the movement [N, 68, 2] of landmarks at the poses of theta [N, P].

    ``doubt`` is the landmarks' deviation over that of a parameter around ``prior`` [N, 46] (None: 0).
    """
    count = len(model.expression)
    found = np.empty((len(moved), count))
    for row in trange(len(moved), desc="read", unit="face", disable=None):
        basis = model.seen(model.expression, theta[row])[:, READ].reshape(count, -1).T
        around = np.zeros(count) if prior is None else prior[row]
        found[row] = lsq_linear(
            np.concatenate([basis, doubt * np.eye(count)]),
            np.concatenate([moved[row, READ].ravel(), doubt * around]),
            (0, 1),
            method="bvls",
        ).x
    return aus_of(found)


def compare(model: LandmarkModel, landmarks: Array, theta: Array, person: Array) -> dict[str, Array]:
    """Way to read -> AUs [N, A]."""
    off, moved = movement(model, landmarks, theta, person)
    own = load_action_units().values(theta)
    known = read(model, moved, theta, ALONE)
    prior = theta[:, load_parameter_space().indices(EXPRESSION)]
    return {
        "extractor": own,
        "landmarks of a known face": known,
        "extractor and a quarter of those": np.clip(own + ADDED * known, 0, 1),
        "landmarks of a known face, extractor as prior": read(model, moved, theta, WITH_PRIOR, prior),
        "landmarks of an unknown face, extractor as prior": read(model, off, theta, WITH_PRIOR, prior),
    }


def judge(test: TestSet, aus: Array) -> dict[str, Any]:
    """Figures of merit of AUs [N, A]."""
    table, by_person = metrics.au_table(test.names, test.aus, aus), test.by_person(aus, slice(None))
    return {
        **metrics.summary(test.names, test.aus, aus),
        "within_person_r": metrics.mean_of(by_person, "within_person_r"),
        "per_au": {name: table[name] | by_person[name] for name in table},
    }


def table_of(report: dict[str, Any]) -> str:
    """known_faces.md."""
    figures = ("within_person_r", "r", "mae", "false_any_au", "false_worst_au")
    parts = ["# What landmarks add where a person is known"]
    for name, ways in report["sets"].items():
        rows = [[way, *(judged[figure] for figure in figures)] for way, judged in ways.items()]
        parts += [f"## {name}", markdown_table(["AUs of", *figures], rows)]
        header = ["AU, r within a person", *ways]
        aus = [
            [au, *(judged["per_au"][au]["within_person_r"] for judged in ways.values())]
            for au in load_action_units().names
        ]
        parts.append(markdown_table(header, aus))
    return "\n\n".join(parts) + "\n"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, nargs="+", required=True, help="folders of held-out renders")
    add_assets_option(parser, "ict_facekit.npz")
    parser.add_argument("--weights", type=Path, help="folder of weights (default: the shipped ones)")
    parser.add_argument("--limit", type=int, help="only the first so many pictures of each set")
    parser.add_argument("--out", type=Path, required=True, help="folder for the figures")
    arguments = parser.parse_args()
    try:
        model = load_landmark_model(arguments.assets)
        sets = {folder.name: load_test_set(folder, limit=arguments.limit) for folder in arguments.data}
    except (OSError, ValueError) as error:
        parser.error(str(error))
    models = load_models("cpu", arguments.weights)
    found = {}
    for name, test in sets.items():
        seen = extract_all(models, test.pictures(), test.box)
        theta = seen.target.regressed.double().cpu().numpy()
        ways = compare(model, seen.landmarks, theta, test.person)
        found[name] = {way: judge(test, aus) for way, aus in ways.items()}
    report = {"provenance": provenance("cpu", arguments.weights), "sets": found}
    write_json(arguments.out / "known_faces.json", report)
    (arguments.out / "known_faces.md").write_text(table_of(report))
    print(table_of(report))


if __name__ == "__main__":
    main()
