"""Renders and data sets from the real assets; skipped where GENET_ASSETS does not name their folder."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("numba", reason="the renderer needs numba (pip install genet-ext[train])")
pytest.importorskip("cv2", reason="the renderer needs opencv-python-headless (pip install genet-ext[train])")

from python.render.__main__ import main
from python.render.dataset import FIELDS, DatasetSpec, prepare, render_dataset, shard_path
from python.render.geometry import CANVAS, MARGIN, TEMPLATE, alignment_points, similarity
from python.render.reader import load_dataset
from python.render.renderer import APPEARANCE, Renderer
from python.render.sampling import Sample, SamplingConfig

ASSETS = Path(os.environ.get("GENET_ASSETS", ""))
pytestmark = pytest.mark.skipif(
    not os.environ.get("GENET_ASSETS") or not (ASSETS / "ict_facekit.npz").is_file(),
    reason="GENET_ASSETS does not name a folder with ict_facekit.npz and frll_albedo_train.npz",
)


@pytest.fixture(scope="module")
def renderer() -> Renderer:
    return Renderer(ASSETS)


@pytest.fixture
def plain(renderer: Renderer) -> Sample:
    """A frontal neutral face of average shape, bald and without glasses."""
    sample = renderer.sample(11, 0)
    sample.theta[:] = 0
    sample.hidden_shapes.clear()
    sample.brows = None
    sample.glasses = None
    sample.hair = replace(sample.hair, bald=True)
    sample.light = replace(sample.light, direction=(0.0, 0.6, 0.8), share=0.4, exposure=0.0, tint=(0.0, 0.0))
    sample.distance = 100.0
    return sample


def _colours(image: np.ndarray) -> np.ndarray:
    return image[..., :3].astype(np.float32) * (image[..., 3:] / 255)


def test_neutral_face_lies_on_the_template(renderer: Renderer, plain: Sample) -> None:
    plain.distance = 1e6
    points = alignment_points(renderer.render(plain).landmarks)
    np.testing.assert_allclose(points, TEMPLATE + MARGIN, atol=0.02)


def test_brows_rest_where_they_shall_whoever_it_is(renderer: Renderer, plain: Sample) -> None:
    """Seen from afar and from the front, on the face model's average face and on two other people."""
    plain.distance = 1e6
    identities = np.random.default_rng(0).normal(0, 1, (2, 47)).astype(np.float32)
    for identity in (np.zeros(47, np.float32), *identities):
        plain.theta[-47:] = identity
        for height, tilt in ((0.2, 0.09), (0.23, 0.12)):
            plain.brows = (height, tilt)
            points = renderer.render(plain).landmarks
            unit, y = np.linalg.norm(points[45, :2] - points[36, :2]), -points[:, 1]
            assert (y[17:27].mean() - y[[36, 39, 42, 45]].mean()) / unit == pytest.approx(height, abs=0.01)
            assert (y[[21, 22]].mean() - y[[17, 26]].mean()) / unit == pytest.approx(tilt, abs=0.01)


def test_template_is_that_of_the_package() -> None:
    faces = pytest.importorskip("genet_ext.faces", exc_type=ImportError)
    np.testing.assert_allclose(np.asarray(faces.TEMPLATE), TEMPLATE, atol=0.02)


def test_every_face_is_aligned(renderer: Renderer) -> None:
    for i in range(6):
        r = renderer.render(renderer.sample(5, i))
        matrix = similarity(alignment_points(r.landmarks), TEMPLATE + MARGIN)
        np.testing.assert_allclose(matrix, [[1, 0, 0], [0, 1, 0]], atol=2e-3)


def test_signs_of_the_pose_on_landmarks(renderer: Renderer, plain: Sample) -> None:
    def nose_and_bridge(**pose: float) -> np.ndarray:
        for name, value in pose.items():
            plain.theta[renderer.table.index(name)] = value
        r = renderer.render(plain)
        plain.theta[:3] = 0
        eyes = alignment_points(r.landmarks)[:2].mean(0)
        return r.landmarks[30] - eyes

    neutral = nose_and_bridge()
    assert nose_and_bridge(yaw=0.4)[0] < neutral[0] - 3
    assert nose_and_bridge(yaw=-0.4)[0] > neutral[0] + 3
    assert nose_and_bridge(pitch=0.3)[1] < neutral[1] - 3
    assert nose_and_bridge(pitch=-0.3)[1] > neutral[1] + 3


def test_roll_is_the_tilt_left_in_the_crop(renderer: Renderer, plain: Sample) -> None:
    """Seen against its unrolled pose, the eye line of a turned head is turned by the label."""
    plain.theta[renderer.table.index("pitch")] = 0.3
    assert abs(renderer.render(plain).theta[2]) < 1e-4  # symmetric: no tilt
    plain.theta[renderer.table.index("yaw")] = 0.5
    r = renderer.render(plain)
    roll = float(r.theta[2])
    assert abs(roll) > 0.02
    # Without roll the eye line of this pose is known; image axes (y down) turn it by -roll.
    head = renderer.face.neutral[renderer.face.landmarks] @ renderer._rot.T
    upright = (head[42:48].mean(0) - head[36:42].mean(0))[:2] * [1, -1]
    shown = r.landmarks[42:48].mean(0) - r.landmarks[36:42].mean(0)
    turned = np.arctan2(shown[1], shown[0]) - np.arctan2(upright[1], upright[0])
    assert turned == pytest.approx(-roll, abs=0.02)


def test_every_expression_parameter_moves_pixels(renderer: Renderer, plain: Sample) -> None:
    before = _colours(renderer.render(plain).image)
    for name in renderer.table.expression:
        plain.theta[:] = 0
        plain.theta[renderer.table.index(name)] = 1.0
        r = renderer.render(plain)
        changed = np.abs(_colours(r.image) - before).max(-1) > 12
        assert changed.sum() > 15, f"{name} moves {changed.sum()} pixels"
        assert np.isfinite(r.landmarks).all()


def test_identity_and_pose_move_pixels(renderer: Renderer, plain: Sample) -> None:
    before = _colours(renderer.render(plain).image)
    for name in ("pitch", "yaw", "id_00", "id_20", "id_46"):
        plain.theta[:] = 0
        plain.theta[renderer.table.index(name)] = 0.5 if name in ("pitch", "yaw") else 2.0
        assert (np.abs(_colours(renderer.render(plain).image) - before).max(-1) > 12).sum() > 15, name


def test_eyes_show_white_iris_and_pupil(renderer: Renderer, plain: Sample) -> None:
    plain.theta[renderer.table.index("AU05_L")] = 1
    plain.theta[renderer.table.index("AU05_R")] = 1
    r = renderer.render(plain)
    centre = np.round(r.landmarks[[37, 38, 40, 41]].mean(0)).astype(int)
    around = _colours(r.image)[centre[1] - 3 : centre[1] + 4, centre[0] - 8 : centre[0] + 9].mean(-1)
    assert around.max() > 2 * around.min()


@pytest.mark.parametrize(("look", "axis", "sign"), [("AU61", 0, 1), ("AU62", 0, -1), ("AU63", 1, -1)])
def test_gaze_moves_the_iris(renderer: Renderer, plain: Sample, look: str, axis: int, sign: int) -> None:
    def dark_centre() -> np.ndarray:
        r = renderer.render(plain)
        centre = np.round(r.landmarks[36:42].mean(0)).astype(int)
        eye = 255 - _colours(r.image)[centre[1] - 5 : centre[1] + 6, centre[0] - 7 : centre[0] + 8].mean(-1)
        weight = np.clip(eye - np.percentile(eye, 80), 0, None)
        grid = np.stack(np.meshgrid(np.arange(15), np.arange(11)), -1)
        return (grid * weight[..., None]).sum((0, 1)) / weight.sum()

    plain.eyes = replace(plain.eyes, iris=(0.02, 0.01, 0.005), sclera=0.8)
    plain.skin = replace(plain.skin, darkness=0.1)
    straight = dark_centre()
    plain.theta[renderer.table.index(look)] = 0.8
    assert sign * (dark_centre() - straight)[axis] > 0.7


def test_no_holes_in_the_face(renderer: Renderer) -> None:
    for i in range(8):
        r = renderer.render(renderer.sample(8, i))
        inner = np.round(r.landmarks[27:68]).astype(int)
        x0, y0 = inner.min(0) + 2
        x1, y1 = inner.max(0) - 2
        assert (r.image[y0:y1, (x0 + x1) // 2, 3] == 255).all()


def test_dense_points_are_seen_on_the_near_side(renderer: Renderer, plain: Sample) -> None:
    plain.theta[renderer.table.index("yaw")] = 0.8  # shows the subject's left cheek
    r = renderer.render(plain)
    side = renderer.face.neutral[renderer.face.dense][:, 0]
    assert r.dense_visible[side > 2.5].mean() > r.dense_visible[side < -2.5].mean() + 0.3


def _read_all(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*.npy"))}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, DatasetSpec]:
    folder, spec = tmp_path_factory.mktemp("data"), DatasetSpec(count=10, seed=4, shard_size=4)
    assert sum(render_dataset(ASSETS, folder, spec)) == 10
    return folder, spec


def test_worker_count_does_not_change_a_byte(made: tuple[Path, DatasetSpec], tmp_path: Path) -> None:
    folder, spec = made
    assert sum(render_dataset(ASSETS, tmp_path, spec, workers=2)) == 10
    assert _read_all(tmp_path) == _read_all(folder)


def test_an_interrupted_run_continues(made: tuple[Path, DatasetSpec], tmp_path: Path) -> None:
    folder, spec = made
    run = render_dataset(ASSETS, tmp_path, spec)
    next(run)
    run.close()
    for number in (1, 2):  # what the worker went on to while it was being stopped
        shutil.rmtree(shard_path(tmp_path, number), ignore_errors=True)
    (tmp_path / ".shard-00001").mkdir(exist_ok=True)  # what a killed worker leaves
    assert prepare(ASSETS, tmp_path, spec) == [1, 2]
    assert sum(render_dataset(ASSETS, tmp_path, spec)) == 6
    assert _read_all(tmp_path) == _read_all(folder)
    assert prepare(ASSETS, tmp_path, spec) == []


def test_a_folder_with_another_data_set_is_refused(made: tuple[Path, DatasetSpec]) -> None:
    folder, spec = made
    with pytest.raises(ValueError, match=r"differs in seed"):
        prepare(ASSETS, folder, replace(spec, seed=5))


def test_reader_returns_what_was_rendered(made: tuple[Path, DatasetSpec], renderer: Renderer) -> None:
    folder, spec = made
    data = load_dataset(folder)
    assert len(data) == 10
    assert data.complete
    assert data.images([9, 0, 5]).shape == (3, CANVAS, CANVAS, 4)
    r = renderer.render(renderer.sample(spec.seed, 5))
    np.testing.assert_array_equal(data.images(5)[0], r.image)
    np.testing.assert_array_equal(data.theta[5], r.theta)
    assert data.appearance.shape == (10, len(APPEARANCE)) == (10, 16)
    for name, (dtype, _) in FIELDS.items():
        if name != "images":
            assert getattr(data, name).dtype == dtype
    np.testing.assert_array_equal(data.index, np.arange(10))


def test_labels_are_within_bounds(made: tuple[Path, DatasetSpec], renderer: Renderer) -> None:
    data = load_dataset(made[0])
    assert (data.theta >= renderer.table.lower).all()
    assert (data.theta <= renderer.table.upper).all()
    assert np.isfinite(data.appearance).all()
    assert ((data.landmarks > -20) & (data.landmarks < CANVAS + 20)).all()
    assert data.images(slice(None))[..., 3].max() == 255


def test_a_render_does_not_depend_on_what_was_drawn_before(renderer: Renderer) -> None:
    first = renderer.render(renderer.sample(21, 3))
    for i in range(4, 9):
        renderer.render(renderer.sample(21, i))
    again = renderer.render(renderer.sample(21, 3))
    for name in ("image", "theta", "landmarks", "dense", "dense_visible", "appearance"):
        np.testing.assert_array_equal(getattr(first, name), getattr(again, name))


def test_a_strange_person_has_the_same_labels_on_another_head(renderer: Renderer) -> None:
    config = SamplingConfig(strange_shift=0.3, strange_gain=0.4, strange_turn=0.35)
    strange = Renderer(ASSETS, config=config)
    one, other = (r.render(r.sample(11, 3)) for r in (renderer, strange))
    roll = renderer.table.index("roll")
    assert np.array_equal(np.delete(one.theta, roll), np.delete(other.theta, roll))
    assert 0.3 < abs(one.landmarks - other.landmarks).mean() < 4  # px
    assert abs(other.landmarks[36:48].mean(0) - one.landmarks[36:48].mean(0)).max() < 1  # still aligned


def test_habits_move_the_face_and_not_its_labels(renderer: Renderer) -> None:
    config = SamplingConfig(strange_habit=0.4)
    habitual = Renderer(ASSETS, config=config)
    roll = renderer.table.index("roll")
    for index in range(3, 9):
        one, other = (r.render(r.sample(11, index)) for r in (renderer, habitual))
        assert np.array_equal(np.delete(one.theta, roll), np.delete(other.theta, roll))
        habits = habitual.sample(11, index).strangeness.habits
        moves = any(one.theta[renderer.table.index(n)] > 0 for n in renderer.table.expression if n in habits)
        # At rest there is nothing to move; the alignment may differ by rounding.
        assert (abs(one.landmarks - other.landmarks).mean() > 1e-3) == moves


def test_a_plain_face_is_what_its_labels_say(renderer: Renderer) -> None:
    """Two people who share theta, skin and light look alike to the last bit, and otherwise they do not."""
    usual = Renderer(ASSETS, config=SamplingConfig(plain=True))

    def pair(source: Renderer) -> list[np.ndarray]:
        one, other = source.sample(11, 3), source.sample(11, 4)
        other.theta[:] = one.theta
        other.light = one.light
        look = replace(one.skin, beard=other.skin.beard, age=other.skin.age, mottle=other.skin.mottle)
        return [source.render(s).image for s in (one, replace(other, skin=look))]

    one, other = pair(usual)
    np.testing.assert_array_equal(one, other)
    one, other = pair(renderer)
    assert np.abs(_colours(one) - _colours(other)).mean() > 1


def test_test_split_uses_other_skins(renderer: Renderer) -> None:
    held_out = Renderer(ASSETS, split="test")
    assert not set(held_out.skin.rows) & set(renderer.skin.rows)
    np.testing.assert_array_equal(held_out.skin.components, renderer.skin.components)


def test_command_line_reports_bad_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--assets", str(tmp_path), "--out", str(tmp_path / "o"), "--count", "3"]) == 2
    assert "ict_facekit.npz" in capsys.readouterr().err
    assert main(["--assets", str(ASSETS), "--out", str(tmp_path / "o"), "--count", "0"]) == 2
    assert "count" in capsys.readouterr().err
    config = tmp_path / "config.toml"
    config.write_text("[sampling]\nyaw = 3\n")
    arguments = [
        "--assets",
        str(ASSETS),
        "--out",
        str(tmp_path / "o"),
        "--count",
        "3",
        "--config",
        str(config),
    ]
    assert main(arguments) == 2
    assert "yaw_sd" in capsys.readouterr().err
