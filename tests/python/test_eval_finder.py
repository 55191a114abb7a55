"""Finders are judged by which faces they frame, however; the scenes have the faces they claim."""

from __future__ import annotations

import json

import numpy as np
import pytest
from skimage.data import astronaut

from genet_ext.face_finder import find_faces
from genet_ext.models import random_models
from python.evaluate import eval_finder
from python.evaluate.eval_finder import Picture, judge, match, summary

TRUTH = np.array([[100.0, 100, 200, 200], [300, 100, 400, 200]])


@pytest.mark.parametrize(
    ("boxes", "pairs"),
    [
        ([[105, 95, 195, 215]], [(0, 0)]),  # taller than wide
        ([[310, 110, 390, 190], [90, 90, 210, 210]], [(0, 1), (1, 0)]),
        ([[100, 100, 200, 200], [102, 102, 198, 198]], [(0, 0)]),  # a face is found once
        ([[150, 100, 250, 200]], []),  # half a face beside it
        ([[130, 130, 170, 170]], []),  # a nose
        ([], []),
    ],
)
def test_match(boxes, pairs):
    assert sorted(match(np.reshape(np.array(boxes, float), (-1, 4)), TRUTH)) == pairs


def test_match_without_a_face():
    assert match(TRUTH, np.empty((0, 4))) == []


def test_judge_counts_what_is_found_missed_and_made_up():
    picture = Picture(
        "astronaut", astronaut(), np.array([eval_finder.ASTRONAUT, (300, 300, 400, 400)], float)
    )

    def with_nonsense(pixels):
        boxes, scores = find_faces(pixels)
        return np.vstack([boxes, [[0, 0, 50, 50]]]), np.append(scores, 0.5)

    (row,) = judge(with_nonsense, [picture], random_models())
    assert (row["faces"], row["found"], row["made_up"]) == (2, 1, 1)
    assert row["scores_found"][0] > 0.9 and row["scores_made_up"] == [0.5]
    values = summary([row, row])
    assert (values["pictures"], values["faces"], values["recall"], values["made_up"]) == (2, 4, 0.5, 2)
    assert values["cpu_ms_mean"] > 0 and values["crop_px_median"] is None


def test_pasted_face_is_where_it_is_said_to_be():
    face = astronaut()[50:180, 150:300]
    scene = eval_finder._paste(face, eval_finder._scenery("coffee"), 200, np.array([700, 400]))
    assert scene.shape == (eval_finder.HEIGHT, eval_finder.WIDTH, 3)
    (box,) = find_faces(scene)[0]
    scale = np.array([200 / 150, 200 / 130] * 2)
    wanted = (np.array(eval_finder.ASTRONAUT) - [150, 50, 150, 50]) * scale + [700, 400, 700, 400]
    assert match(box[None], wanted[None]) == [(0, 0)]


def test_command(tmp_path, monkeypatch):
    monkeypatch.setattr(eval_finder, "FACELESS", ("coffee",))
    monkeypatch.setattr(eval_finder, "pin_threads", lambda count: [0])
    out = tmp_path / "finder.json"
    assert eval_finder.main(["--out", str(out)]) == 0
    results = json.loads(out.read_text())["results"]
    assert [(row["finder"], row["pictures"]) for row in results] == [
        (finder, kind) for finder in ("genet_ext", "cascade") for kind in ("photographs", "no face")
    ]
    assert all(row["groups"]["all"]["made_up"] == 0 for row in results)
    assert results[0]["groups"]["all"]["recall"] == 1
