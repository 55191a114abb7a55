"""Rendered films without the renderer, and the figures made of them."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from skimage.data import astronaut

from genet_ext.action_units import load_action_units
from genet_ext.models import random_models
from genet_ext.parameters import EXPRESSION, load_parameter_space
from python.evaluate import eval_sequences, sequences
from python.evaluate.sequences import BLINK, REST, Film, act, head_motion, spoil
from python.render.assets import read_parameters
from python.render.sampling import SamplingConfig, sample_one

NAMES = load_action_units().names
FRAMES = 40


@pytest.fixture(scope="module")
def samples():
    config = replace(SamplingConfig(), images_per_identity=FRAMES)
    darkness, rows = np.linspace(0, 1, 6, dtype=np.float32), np.arange(6)
    table = read_parameters()
    return [sample_one(0, "test", k, table, darkness, rows, config) for k in range(FRAMES)]


def test_people_act_and_rest(samples):
    space = load_parameter_space()
    theta = act(np.random.default_rng(0), samples, FRAMES)
    aus = np.nan_to_num(load_action_units().values(theta))
    expression = theta[:, space.indices(EXPRESSION)]
    assert expression.min() >= 0
    assert expression.max() <= 1
    assert (theta[:, space.indices("identity")] == theta[0, space.indices("identity")]).all()
    assert not aus[:REST].any(), "a neutral start"
    assert (aus.max(1) > 0.1).sum() > 10, "then something happens"
    assert aus[:, NAMES.index("AU43")].max() >= max(BLINK), "and a blink"
    assert np.abs(np.diff(theta[:, :2], axis=0)).max() < 0.1, "the head turns slowly"
    assert np.ptp(theta[:, 1]) > 0.05
    again = act(np.random.default_rng(0), samples, FRAMES)
    assert np.array_equal(theta, again)


def test_spoiling_leaves_the_other_frames_alone():
    frame = np.ascontiguousarray(astronaut()[:192, 128:320])
    film = Film([frame] * 50, np.zeros((50, 4)), np.zeros((50, 20)), frame)
    spoilt = spoil(film, np.random.default_rng(0), 0.3)
    changed = [not np.array_equal(one, frame) for one in spoilt.frames]
    assert 5 < sum(changed) < 25
    assert all(one is frame for one, other in zip(spoilt.frames, changed, strict=True) if not other)
    assert spoil(film, np.random.default_rng(0), 0.0).frames == film.frames


def test_figures_of_a_known_course():
    """Truth is a step in AU12; one prediction is right but for an offset, another jitters."""
    truth, person = np.zeros((40, 20)), np.repeat([0, 1], 20)
    truth[10:20, 9] = truth[30:, 9] = 1.0
    rng = np.random.default_rng(0)
    late, noisy = truth + 0.1, truth + 0.1 * rng.choice([-1, 1], truth.shape)
    right, wrong = (eval_sequences.judge(NAMES, truth, x, person) for x in (late, noisy))
    assert np.isclose(right["mae"], 0.1)
    assert np.isclose(right["step_error"], 0)
    assert np.isclose(right["jitter"], 0)
    assert right["within_person_r"] > 0.999
    assert 0.05 < wrong["jitter"] < 0.15
    intervals = eval_sequences.differences(
        NAMES, truth, {eval_sequences.ALONE: noisy, "still": late}, person
    )["still"]
    assert intervals["step_error"][1] < 0


def test_report(tmp_path):
    """Made-up films through every method, with untrained networks."""
    rng = np.random.default_rng(0)
    films = []
    for _ in range(2):
        frame = np.ascontiguousarray(astronaut()[20:212, 128:320])
        frames = [frame ^ rng.integers(0, 30, 3, np.uint8) for _ in range(4)]
        aus = np.where(np.arange(4)[:, None] > 1, rng.random((4, 20)), 0.0)
        box = sequences.PHOTO_BOX + rng.normal(size=(4, 4))
        films.append(Film(frames, box, aus, frame))
    settings = {"seed": 3, "split": "test", "config": "strange.toml"}
    report = eval_sequences.evaluate(films, tmp_path, random_models(0), [0.5], **settings)
    stored = json.loads((tmp_path / "sequences.json").read_text())
    for part in stored["films"].values():
        assert list(part["methods"]) == [
            "each frame for itself",
            "shared head alone",
            "shared identity",
            "smoothing 0.5",
            "shared identity, smoothing 0.5",
            "neutral picture",
            "shared identity, neutral picture",
            "shared identity, smoothing 0.5, neutral picture",
        ]
    as_filmed = report["films"]["As filmed"]["methods"]
    assert as_filmed["smoothing 0.5"]["jitter"] < as_filmed["each frame for itself"]["jitter"]
    assert as_filmed["smoothing 0.5"]["mae"] != as_filmed["shared identity"]["mae"]
    text = (tmp_path / "sequences.md").read_text()
    assert text.count("| shared identity, smoothing 0.5 |") == 4
    assert "people of the test split, 4 frames each, rendered with strange.toml; seed 3" in text


def test_head_motion_is_slow():
    motion = head_motion(np.random.default_rng(0), 40)
    assert np.abs(np.diff(motion[:, :2], axis=0)).max() < 3
    assert np.abs(np.diff(motion[:, 2])).max() < 0.05
