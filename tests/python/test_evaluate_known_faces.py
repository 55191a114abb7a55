"""Several pictures of a person, compared: made-up pictures through every way, with untrained networks."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("cv2", reason="needs opencv-python-headless (pip install genet-ext[train])")

from made_up_renders import save_renders
from tiny_models import tiny_models

from genet_ext.parameters import EXPRESSION, load_parameter_space
from python.evaluate import eval_known_faces
from python.evaluate.eval_known_faces import ALONE, BARE, NEUTRAL, SHARED, SUBTRACTED, THOSE, in_lots
from python.evaluate.pictures import load_test_set

PEOPLE, PICTURES = 3, 9


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Nine pictures of each of three people, two of them neutral; the last has no neutral one."""
    rng = np.random.default_rng(0)
    space, count = load_parameter_space(), PEOPLE * PICTURES
    theta = np.zeros((count, space.size), np.float32)
    theta[:, space.indices(EXPRESSION)] = rng.random((count, 46))
    person, number = np.divmod(np.arange(count), PICTURES)
    theta[np.ix_((number < 2) & (person < PEOPLE - 1), np.arange(space.size)[space.indices(EXPRESSION)])] = 0
    fields = {
        "images": np.repeat(np.repeat(rng.integers(0, 255, (count, 24, 24, 4), np.uint8), 8, 1), 8, 2),
        "theta": theta,
        "landmarks": rng.uniform(50, 140, (count, 68, 2)).astype(np.float32),
        "appearance": rng.standard_normal((count, 16)).astype(np.float32),
        "identity": person.astype(np.int32),
    }
    return save_renders(tmp_path / "set", ["exposure", *"abcdefghijklmno"], fields)


def test_every_way_is_judged(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eval_known_faces, "load_models", lambda *_: tiny_models(3))
    command = ["--data", folder, "--out", tmp_path / "out"]
    monkeypatch.setattr(sys, "argv", ["eval_known_faces", *map(str, command)])
    eval_known_faces.main()
    ways = json.loads((tmp_path / "out" / "known_faces.json").read_text())["sets"]["set"]
    lots = {f"shared, {n} pictures": PEOPLE * (PICTURES // n) * n for n in (2, 4, 8)}
    others = 2 * PICTURES - 2  # of those who have a neutral picture, without that
    expected = {ALONE: 27, BARE: 27, **lots, SHARED: 27, THOSE: others, SUBTRACTED: others, NEUTRAL: others}
    assert {way: judged["faces"] for way, judged in ways.items()} == expected
    assert ways[SHARED]["mae"] != ways[BARE]["mae"], "landmarks make a difference"
    assert ways[NEUTRAL]["neutral_faces"] == 2
    assert 0 <= ways[SHARED]["coverage"]["95%"]["all"] <= 1
    text = (tmp_path / "out" / "known_faces.md").read_text()
    assert text.count(f"| {SHARED} | ") == 3, "figures, intervals, AUs"
    assert "| AU12 |" in text


def test_lots_are_of_one_person_and_whole(folder: Path) -> None:
    person = load_test_set(folder).person
    rows, lots = in_lots(person, 4)
    assert len(set(rows.tolist())) == len(rows) == len(lots) == PEOPLE * 8
    for lot in set(lots):
        own = [row for row, other in zip(rows, lots, strict=True) if other == lot]
        assert len(own) == 4
        assert set(person[own]) == {lot[0]}


def test_missing_renders_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["x", "--data", str(tmp_path / "none"), "--out", str(tmp_path)])
    with pytest.raises(SystemExit):
        eval_known_faces.main()
    assert "none" in capsys.readouterr().err
