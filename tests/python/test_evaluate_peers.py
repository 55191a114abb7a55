"""Tables of other detectors against known truth: the right line for each picture, figures free of scale."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

pytest.importorskip("cv2", reason="needs opencv-python-headless (pip install genet-ext[train])")

from made_up_renders import save_renders
from PIL import Image

from genet_ext.action_units import load_action_units
from genet_ext.parameters import load_parameter_space
from python.evaluate import eval_peers, mediapipe_table, pictures

COUNT = 40


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Grey renders of twenty people, each at rest and with some AUs."""
    rng = np.random.default_rng(0)
    space = load_parameter_space()
    theta = np.zeros((COUNT, space.size), np.float32)
    theta[::2, space.indices("expression")] = rng.random((COUNT // 2, 46))
    fields = {
        "images": np.full((COUNT, 192, 192, 4), 128, np.uint8),
        "theta": theta,
        "landmarks": rng.uniform(50, 140, (COUNT, 68, 2)).astype(np.float32),
        "appearance": np.zeros((COUNT, 1), np.float32),
        "identity": (np.arange(COUNT) // 2).astype(np.int32),
    }
    return save_renders(tmp_path_factory.mktemp("renders"), ["exposure"], fields)


@pytest.fixture(scope="module")
def known(folder: Path) -> pictures.TestSet:
    return pictures.load_test_set(folder)


def write_table(path: Path, aus: np.ndarray, names: tuple[str, ...], **columns: object) -> Path:
    table = pd.DataFrame(aus, columns=list(names)).assign(**columns)
    table.insert(0, "input", [f"/somewhere/{k:05d}.png" for k in range(len(aus))])
    table.to_csv(path, index=False)
    return path


def judged(known: pictures.TestSet, *tables: Path) -> dict:
    read = {path.stem: eval_peers.read_table(path, known.names, len(known)) for path in tables}
    return eval_peers.judge(known, read)


def test_pictures_are_written_with_their_boxes(
    folder: Path, known: pictures.TestSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["pictures", "--data", folder, "--out", tmp_path, "--limit", 3]
    monkeypatch.setattr(sys, "argv", ["eval_peers", *map(str, command)])
    eval_peers.main()
    assert sorted(p.name for p in tmp_path.glob("*.png")) == ["00000.png", "00001.png", "00002.png"]
    first = next(iter(known.pictures()))
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "00000.png")), first)
    boxes = pd.read_csv(tmp_path / "boxes.csv")
    np.testing.assert_allclose(
        boxes.drop(columns="file"), pictures.load_test_set(folder, limit=3).box, atol=0.01
    )


def test_the_truth_is_perfect_at_any_scale_and_noise_is_not(known: pictures.TestSet, tmp_path: Path) -> None:
    truth = known.aus
    noise = np.random.default_rng(1).random(truth.shape)
    tables = [
        write_table(tmp_path / "truth.csv", truth, known.names),
        write_table(tmp_path / "scaled.csv", 5 * truth + 1, known.names),
        write_table(tmp_path / "noise.csv", noise, known.names),
    ]
    report = judged(known, *tables)
    found = report["detectors"]
    assert report["pictures"] == COUNT and "AU11" not in report["aus"] and len(report["aus"]) == 19
    for figure in ("r", "within_person_r", "auc"):
        assert found["truth"][figure] == pytest.approx(1)
        assert found["scaled"][figure] == pytest.approx(1)
        assert abs(found["noise"][figure]) < 0.75
    assert found["truth"]["neutral_with_an_au"] == 0
    assert found["scaled"]["neutral_with_an_au"] == 1


def test_only_what_all_have_is_compared(known: pictures.TestSet, tmp_path: Path) -> None:
    missed = known.aus.copy()
    missed[:10] = np.nan
    fewer = pd.read_csv(write_table(tmp_path / "all.csv", known.aus, known.names))
    fewer[["input", "AU12", "AU01"]].iloc[5:].to_csv(tmp_path / "fewer.csv", index=False)
    report = judged(known, write_table(tmp_path / "missed.csv", missed, known.names), tmp_path / "fewer.csv")
    assert report["aus"] == ["AU01", "AU12"]
    assert report["pictures"] == COUNT - 10
    assert report["detectors"]["fewer"]["faces_found"] == COUNT - 5
    assert report["detectors"]["missed"]["faces_found"] == COUNT - 10


def test_the_surest_face_of_a_picture_counts(known: pictures.TestSet, tmp_path: Path) -> None:
    right = write_table(tmp_path / "right.csv", known.aus, known.names, FaceScore=0.9)
    wrong = write_table(tmp_path / "wrong.csv", 1 - known.aus, known.names, FaceScore=0.4)
    pd.concat([pd.read_csv(wrong), pd.read_csv(right)]).to_csv(tmp_path / "two.csv", index=False)
    assert judged(known, tmp_path / "two.csv")["detectors"]["two"]["r"] == pytest.approx(1)


def test_the_command_writes_tables_and_names_what_is_wrong(
    folder: Path,
    known: pictures.TestSet,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def run(*tables: Path) -> None:
        command = ["judge", "--data", folder, "--out", tmp_path / "out", *tables]
        monkeypatch.setattr(sys, "argv", ["eval_peers", *map(str, command)])
        eval_peers.main()

    run(write_table(tmp_path / "one.csv", known.aus, known.names))
    assert json.loads((tmp_path / "out" / "peers.json").read_text())["detectors"]["one"]["r"] == 1
    text = (tmp_path / "out" / "peers.md").read_text()
    assert "| one | 40 | 1.000 |" in text and "| AU12 | 1.000 | 1.000 |" in text
    bad = tmp_path / "bad.csv"
    for content, said in (
        ("picture,AU01\n00000.png,0\n", "expected a column input or file"),
        ("input,happiness\n00000.png,0\n", "and AUs as AU01"),
        ("input,AU01\n00040.png,0\n", "expected pictures 00000.png to 00039.png, got '00040'"),
    ):
        bad.write_text(content)
        with pytest.raises(SystemExit):
            run(bad)
        assert said in capsys.readouterr().err
    with pytest.raises(SystemExit):
        run(tmp_path / "missing.csv")
    assert "missing.csv" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        run(tmp_path / "one.csv", tmp_path / "other" / "one.csv")
    assert "two files have the same name" in capsys.readouterr().err


def test_blendshapes_are_averaged_to_known_aus() -> None:
    of_au = mediapipe_table.read_map()
    assert set(of_au) == set(load_action_units().names) - {"AU11", "AU23", "AU25"}
    names = [name for names in of_au.values() for name in names]
    assert len(names) == len(set(names)), "each is one movement"
    scores = dict.fromkeys(names, 0.0) | {"mouthSmileLeft": 0.2, "mouthSmileRight": 0.6, "jawOpen": 0.5}
    aus = mediapipe_table.aus_of(scores, of_au)
    assert aus["AU12"] == pytest.approx(0.4)
    assert aus["AU26"] == 0.5
    assert sum(aus.values()) == pytest.approx(0.9)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["{folder}", "--model", "{folder}/m.task"], "pictures: expected pictures, found none in"),
        (["{folder}/a.png", "--model", "{folder}/m.task"], "pictures: expected pictures, found none in"),
        ([__file__, "--model", "{folder}/m.task"], "--model: expected MediaPipe's face_landmarker.task"),
    ],
)
def test_what_mediapipe_needs_is_named(
    arguments: list[str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = [text.format(folder=tmp_path) for text in arguments]
    monkeypatch.setattr(sys, "argv", ["mediapipe_table", *arguments, "--out", str(tmp_path / "out.csv")])
    with pytest.raises(SystemExit):
        mediapipe_table.main()
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out.csv").exists()
