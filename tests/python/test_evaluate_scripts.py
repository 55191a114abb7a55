"""The evaluation scripts on tiny made-up data, with untrained networks: they run, repeat and count right.

Not whether the figures are good: that is what the scripts are for.
"""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from made_up_renders import save_renders
from PIL import Image
from skimage import data as pictures

from genet_ext.action_units import load_action_units
from genet_ext.models import random_models
from genet_ext.parameters import load_parameter_space
from genet_ext.solver import SearchSettings
from python.evaluate import cut_tiles, eval_disfa, eval_photos, eval_recovery, eval_variants, second_model
from python.evaluate.pictures import load_test_set

COUNT = 8
NAMES = load_action_units().names


@pytest.fixture(scope="module")
def models():
    return random_models(0)


def write_renders(folder: Path) -> Path:
    """A folder in python/render's format: blotchy pictures of four people, the first two neutral."""
    rng = np.random.default_rng(0)
    space = load_parameter_space()
    theta = np.zeros((COUNT, space.size), np.float32)
    theta[:, :3] = rng.normal(0, 0.3, (COUNT, 3))
    theta[2:, space.indices("expression")] = rng.random((COUNT - 2, 46)) ** 2
    theta[:, space.indices("identity")] = rng.normal(0, 1, (COUNT, 47))
    blotches = rng.integers(0, 255, (COUNT, 24, 24, 4), np.uint8)
    fields = {
        "images": np.repeat(np.repeat(blotches, 8, 1), 8, 2),
        "theta": theta,
        "landmarks": rng.uniform(50, 140, (COUNT, 68, 2)).astype(np.float32),
        "appearance": rng.standard_normal((COUNT, 16)).astype(np.float32),
        "identity": (np.arange(COUNT) // 2).astype(np.int32),
    }
    return save_renders(folder, [*(f"a{i}" for i in range(15)), "exposure"], fields)


@pytest.fixture(scope="module")
def renders(tmp_path_factory):
    return write_renders(tmp_path_factory.mktemp("renders"))


def test_pictures_are_a_function_of_the_seed(renders):
    first, again, other = (list(load_test_set(renders, seed).pictures()) for seed in (0, 0, 1))
    assert all((a == b).all() for a, b in zip(first, again, strict=True))
    assert any(a.shape != b.shape or (a != b).any() for a, b in zip(first, other, strict=True))


def test_test_set_scales_truth_with_the_picture(renders):
    test = load_test_set(renders)
    assert test.neutral.tolist() == [True, True] + [False] * (COUNT - 2)
    for picture, scale, box, points, render in zip(
        test.pictures(), test.scale, test.box, test.landmarks, test.renders.landmarks, strict=True
    ):
        assert picture.shape == (round(192 * scale), round(192 * scale), 3)
        assert picture.dtype == np.uint8
        np.testing.assert_allclose(points, (render + 0.5) * scale - 0.5)
        assert 80 * scale < box[2] - box[0] < 140 * scale
    assert set(test.groups) == {"yaw", "skin", "resolution"}


def test_recovery_runs_and_repeats_itself(renders, models, tmp_path):
    settings = SearchSettings(iterations=3)
    reports = [
        eval_recovery.evaluate(
            renders,
            tmp_path,
            models,
            image_faces=2,
            sweep_faces=3,
            temper=[0.25],
            rate=[2.0],
            settings=settings,
        )
        for _ in range(2)
    ]
    found = reports[0]["methods"]
    assert list(found) == [
        "regressor",
        "mean face",
        "Bayesian",
        "Bayesian, distance x 0.25",
        "Bayesian, sparsity x 2",
        "image",
    ]
    assert found["Bayesian"]["faces"] == COUNT
    assert found["image"]["faces"] == 2
    assert found["regressor"]["iterations_median"] == 0
    for name in found:
        one, two = (report["methods"][name] for report in reports)
        np.testing.assert_array_equal(one["cross_talk_slopes"], two["cross_talk_slopes"])
        assert one["mae"] == two["mae"]
    written = json.loads((tmp_path / "recovery.json").read_text())
    assert {"commit", "machine", "device", "seed", "settings"} <= set(written["provenance"])
    assert written["methods"]["Bayesian"]["per_au"]["AU11"]["r"] is None
    assert "| Bayesian |" in (tmp_path / "recovery.md").read_text()
    for name in ("cross_talk.png", "convergence.png"):
        assert Image.open(tmp_path / name).size[0] > 500


def test_variants_each_change_the_result(renders, models, tmp_path):
    report = eval_variants.compare(models, renders, renders, [renders], tmp_path, steps=5, limit=None, seed=0)
    found = report["variants"]
    assert list(found) == ["regressor", *(variant.name for variant in eval_variants.VARIANTS)]
    errors = [row[renders.name]["mae"] for row in found.values()]
    assert np.isfinite(errors).all()
    assert len(set(errors)) == len(errors)  # no variant is another one under a new name
    report["provenance"] = {"commit": "-", "machine": "-", "device": "-", "seed": 0}
    assert eval_variants.tables(report).count("| H 256 wide |") == 1


def test_labels_of_the_photographs_that_come_with_packages(tmp_path):
    table = Path(eval_photos.HERE) / "package_photos.csv"
    with table.open(newline="") as file:
        names = [row["file"] for row in csv.DictReader(file)]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    photos = eval_photos.read_labels(tmp_path, table)
    assert [photo.path for photo in photos] == [tmp_path / name for name in names]
    assert {photo.label for photo in photos} >= {"smile", "anger", "surprise", "neutral"}


def test_truth_csv_is_the_truth_where_there_is_one(tmp_path):
    folder = write_renders(tmp_path)
    columns = ["index", "kind", "person", "ramp", "ramp_au", "level", "tone", *NAMES]
    with (folder / "truth.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        for k in range(COUNT):
            row = dict.fromkeys(NAMES, 0.0) | {"AU11": "nan", "AU12": k / COUNT}
            writer.writerow(
                row | dict(index=k, kind="ramp", person=0, ramp=3, ramp_au="AU12", level=k / 8, tone=0.1)
            )
    test = load_test_set(folder)
    np.testing.assert_allclose(test.aus[:, NAMES.index("AU12")], np.arange(COUNT) / COUNT)
    assert set(test.ramp_au) == {"AU12"}
    (folder / "truth.csv").write_text("index,tone\n0,0.1\n")
    with pytest.raises(ValueError, match="expected a line for every picture; picture 1 has none"):
        load_test_set(folder)


@pytest.fixture(scope="module")
def face(tmp_path_factory):
    path = tmp_path_factory.mktemp("face") / "astronaut.png"
    Image.fromarray(pictures.astronaut()[:256, 96:352]).save(path)
    return path


def test_photos_end_to_end(face, models, tmp_path):
    labels = tmp_path / "labels.csv"
    name = face.name
    labels.write_text(
        f"file,label,subject,x1,y1,x2,y2\n{name},happiness,a,80,60,180,180\n{name},neutral,a,,,,\n"
    )
    report = eval_photos.evaluate(face.parent, labels, tmp_path, models)
    assert report["photographs"] == 2
    assert set(report["auc"]) == {"AU06", "AU12"}
    assert "astronaut.png" in (tmp_path / "photos.md").read_text()
    shared = eval_photos.evaluate(face.parent, labels, tmp_path, models, identity="shared")
    assert shared["provenance"]["identity"] == "shared"
    assert shared["ranks"] != report["ranks"], "what both pictures of the person show is its rest"
    labels.write_text(f"file,label\n{name},AU06+AU99\n")
    with pytest.raises(ValueError, match=r"line 2: label: expected one of neutral, .*; got 'AU06\+AU99'"):
        eval_photos.read_labels(face.parent, labels)
    labels.write_text("file,label\nmissing.jpg,neutral\n")
    with pytest.raises(FileNotFoundError, match=r"line 2: no such photograph: .*missing\.jpg"):
        eval_photos.read_labels(face.parent, labels)


def test_a_grid_is_cut_row_by_row(tmp_path, monkeypatch):
    pixels = np.arange(6, dtype=np.uint8).reshape(2, 3).repeat(4, 0).repeat(5, 1)
    Image.fromarray(pixels).save(tmp_path / "grid.png")
    command = ["cut_tiles", tmp_path / "grid.png", "--rows", 2, "--columns", 3, "--out", tmp_path / "tiles"]
    monkeypatch.setattr(sys, "argv", [str(part) for part in command])
    cut_tiles.main()
    tiles = [np.asarray(Image.open(path)) for path in sorted((tmp_path / "tiles").iterdir())]
    assert [tile.shape for tile in tiles] == [(4, 5, 3)] * 6
    assert [set(tile.ravel()) for tile in tiles] == [{k} for k in range(6)]


def test_labels_of_the_grid_are_understood(tmp_path):
    for k in range(25):
        (tmp_path / f"{k:02d}.png").touch()
    photos = eval_photos.read_labels(tmp_path, Path(eval_photos.HERE) / "grid_photos.csv")
    assert len(photos) == 19
    assert {photo.subject for photo in photos} == {"a"}


def test_photo_figures_by_hand():
    photos = [
        eval_photos.Photo(Path(f"{k}.jpg"), label, frozenset(aus), subject, None)
        for k, (label, aus, subject) in enumerate(
            [("smile", ["AU12"], "a"), ("neutral", [], "a"), ("smile", ["AU12"], "b"), ("neutral", [], "b")]
        )
    ]
    aus = np.zeros((4, len(NAMES)))
    aus[:, NAMES.index("AU12")] = [0.8, 0.1, 0.2, 0.35]
    aus[2, NAMES.index("AU04")] = 0.9
    report = eval_photos.judge(photos, aus)
    assert report["pairs"]["smile AU12"]["higher"] == 1
    assert report["pairs"]["smile AU12"]["mean_rise"] == pytest.approx((0.7 - 0.15) / 2)
    assert report["pairs"]["smile AU12"]["p"] == pytest.approx(1.0)
    assert report["auc"]["AU12"]["auc"] == pytest.approx(3 / 4)
    assert report["ranks"][2]["expected"]["AU12"]["rank"] == 2
    assert report["neutral"]["with_a_false_au"] == pytest.approx(1 / 2)


def test_photos_by_another_detectors_table(tmp_path):
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / name).touch()  # none is looked at
    labels, table = tmp_path / "labels.csv", tmp_path / "other.csv"
    labels.write_text("file,label\na.jpg,AU12\nb.jpg,neutral\n")
    table.write_text("file,AU12,AU04\nelsewhere/b.jpg,0.1,0.4\na.jpg,0.9,0.2\nc.jpg,1,1\n")
    report = eval_photos.evaluate_table(tmp_path, labels, tmp_path, table)
    assert report["provenance"]["table"] == "other.csv"
    assert report["ranks"][0]["leading"] == {"AU12": 0.9, "AU04": 0.2}
    assert report["neutral"]["with_a_false_au"] == 1.0
    table.write_text("picture,AU12\na.jpg,0.9\n")
    with pytest.raises(
        ValueError, match="expected a column input or file, and AUs as AU01; got picture, AU12"
    ):
        eval_photos.evaluate_table(tmp_path, labels, tmp_path, table)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--table", "t.csv", "--identity", "shared"], "--table: expected no --weights and no --identity"),
        ([], "No such file"),
    ],
)
def test_wrong_arguments_for_photos_are_told(options, said, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["eval_photos", str(tmp_path), "--out", str(tmp_path), *options])
    with pytest.raises(SystemExit):
        eval_photos.main()
    assert said in capsys.readouterr().err


def write_disfa_plus(root: Path, face: Path) -> None:
    labels, images = root / "Labels" / "SN001" / "A1", root / "Images" / "SN001" / "A1"
    labels.mkdir(parents=True)
    images.mkdir(parents=True)
    for k in range(3):
        Image.open(face).save(images / f"{k:03d}.jpg")
    for number in eval_disfa.AU_NUMBERS:
        lines = [f"{k:03d}.jpg {(k * number) % 6}" for k in range(4)]  # the last frame has no picture
        (labels / f"AU{number}.txt").write_text("# frame intensity\n" + "\n".join(lines) + "\n")


def write_disfa(root: Path, face: Path) -> None:
    labels = root / "ActionUnit_Labels" / "SN001"
    labels.mkdir(parents=True)
    (root / "Videos_LeftCamera").mkdir()
    bgr = np.asarray(Image.open(face))[..., ::-1]
    video = cv2.VideoWriter(
        str(root / "Videos_LeftCamera" / "LeftVideoSN001_comp.avi"),
        cv2.VideoWriter_fourcc(*"MJPG"),
        20,
        (256, 256),
    )
    for _ in range(4):
        video.write(np.ascontiguousarray(bgr))
    video.release()
    for number in eval_disfa.AU_NUMBERS:
        lines = "".join(f"{k},{(k * number) % 6}\n" for k in range(1, 5))
        (labels / f"SN001_au{number}.txt").write_text(lines)


def write_disfa_of_pyfeat(root: Path, face: Path) -> None:
    (root / "aligned").mkdir(parents=True)
    Image.open(face).save(root / "aligned" / "1.png")
    aus = [f"AU{number}" for number in eval_disfa.AU_NUMBERS]
    with (root / "DISFA_main_New.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["", "subject", "frame", "data_split", "aligned_path", *aus])
        writer.writerow([0, "SN002", 1, "P3", "/elsewhere/DISFA_/aligned/1.png", *range(12)])
        writer.writerow([1, "SN002", 2, "P3", "/elsewhere/DISFA_/aligned/missing.png", *range(12)])
        writer.writerow([2, "SN003", 1, "P1", "/elsewhere/DISFA_/aligned/1.png", *range(12)])


def test_disfa_end_to_end(face, models, tmp_path):
    root = tmp_path / "data"
    write_disfa_plus(root, face)
    report = eval_disfa.evaluate(root, tmp_path / "out", models, threshold=0.3)
    assert (report["frames"], report["frames_without_a_face"]) == (3, 0)
    assert set(report["per_au"]) == set(eval_disfa.AUS)
    with (tmp_path / "out" / "predictions.csv").open() as file:
        assert [row["frame"] for row in csv.DictReader(file)] == ["000.jpg", "001.jpg", "002.jpg"]
    assert "| mean |" in (tmp_path / "out" / "disfa.md").read_text()


def test_disfa_videos(face, tmp_path):
    write_disfa(tmp_path, face)
    (recording,) = eval_disfa.recordings(tmp_path, stride=2)
    assert recording.frames == ["1", "3"]
    assert recording.intensity[1].tolist() == [(3 * number) % 6 for number in eval_disfa.AU_NUMBERS]
    shown = np.asarray(Image.open(face)).astype(int)
    frames = list(recording.images)
    assert len(frames) == 2
    # RGB, not BGR: closer to the picture as it is than to the one with red and blue exchanged.
    for frame in frames:
        assert np.abs(frame - shown).mean() < 0.5 * np.abs(frame[..., ::-1] - shown).mean()
    with pytest.raises(ValueError, match="expected at least 9 frames, got 4"):
        list(eval_disfa._video_frames(tmp_path / "Videos_LeftCamera" / "LeftVideoSN001_comp.avi", [9]))


def test_disfa_split_and_stride(face, tmp_path):
    write_disfa_of_pyfeat(tmp_path, face)
    assert [r.subject for r in eval_disfa.recordings(tmp_path, "P1")] == ["SN003"]
    other = tmp_path / "plus"
    write_disfa_plus(other, face)
    (recording,) = eval_disfa.recordings(other, stride=2)
    assert recording.frames == ["000.jpg", "002.jpg"]
    assert recording.intensity[1].tolist() == [(2 * number) % 6 for number in eval_disfa.AU_NUMBERS]
    with pytest.raises(FileNotFoundError, match="root: expected a folder with Labels"):
        eval_disfa.recordings(face.parent)


def test_disfa_figures_by_hand():
    truth, prediction = np.zeros((4, 12)), np.zeros((4, 12))
    truth[:, 0], prediction[:, 0] = [0, 2, 5, 1], [0.0, 0.6, 0.4, 0.7]
    prediction[3, 1] = np.nan
    report = eval_disfa.judge(truth, prediction, threshold=0.4)
    au01, au02 = report["per_au"]["AU01"], report["per_au"]["AU02"]
    assert au01["f1"] == pytest.approx(2 * 1 / (2 + 2))
    assert au01["f1_at_threshold"] == pytest.approx(2 * 2 / (2 + 3))
    assert au01["mae"] == pytest.approx((0 + 1 + 3 + 2.5) / 4)
    assert (au02["n"], au02["f1"]) == (3, 0.0)


@pytest.mark.parametrize("script", [eval_recovery, eval_photos, eval_disfa, second_model])
def test_help_shows_a_command_to_copy(script, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["script", "--help"])
    with pytest.raises(SystemExit, match="0"):
        script.main()
    said = capsys.readouterr().out
    assert "--out" in said
    assert f"python -m {script.__name__}" in said
