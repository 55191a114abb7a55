"""The shell command: what it prints, writes and returns."""

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from skimage.data import astronaut
from tiny_models import tiny_models

import genet_ext.fitting as fitting
from genet_ext.cli import main


@pytest.fixture(autouse=True)
def untrained(monkeypatch):
    fitting.shipped_models.cache_clear()
    models = tiny_models(3)
    monkeypatch.setattr(fitting, "load_models", lambda device: models)
    yield
    fitting.shipped_models.cache_clear()


@pytest.fixture
def folder(tmp_path):
    Image.fromarray(astronaut()[:260, 90:360]).save(tmp_path / "b.png")
    Image.fromarray(astronaut()[:250, 100:350, ::-1].copy()).save(tmp_path / "a.jpg")
    return tmp_path


QUICK = ["--device", "cpu", "--iterations", "5"]


def test_fit_prints_writes_and_draws(folder, capsys):
    table, picture = folder / "out.csv", folder / "fit.png"
    code = main(["fit", str(folder), "-o", str(table), "--plot", str(picture), *QUICK])
    printed = capsys.readouterr()
    assert code == 0
    assert "a.jpg #0" in printed.out
    assert "2 faces fitted" in printed.out
    assert str(table) in printed.out
    rows = pd.read_csv(table)
    assert [name.rsplit("/")[-1] for name in rows["input"]] == ["a.jpg", "b.png"]
    assert rows["status"].isin(["converged", "max_iterations"]).all()
    with Image.open(picture) as drawn:
        assert drawn.height > 500


def test_patterns(folder, capsys):
    assert main(["fit", str(folder / "*.png"), *QUICK, "-q"]) == 0
    assert capsys.readouterr().out == "1 face fitted\n"


def test_failed_images_are_listed_and_counted(folder, capsys):
    (folder / "text.jpg").write_text("no photograph")
    table = folder / "out.csv"
    code = main(
        ["fit", str(folder / "b.png"), str(folder / "text.jpg"), "missing.jpg", "-o", str(table), *QUICK]
    )
    printed = capsys.readouterr()
    assert code == 1
    assert "2 not fitted:" in printed.err
    assert "missing.jpg: no such file" in printed.err
    assert "text.jpg: not a readable image" in printed.err
    assert pd.read_csv(table)["status"].tolist()[1:] == ["unreadable", "unreadable"]


def aus_of(table):
    return pd.read_csv(table).filter(regex="^AU").to_numpy()


def test_film_options_are_those_of_fit(folder, capsys):
    table, photos = folder / "out.csv", [str(folder / "a.jpg"), str(folder / "b.png")]
    options = ["--identity", "shared", "--smoothing", "1", "--neutral", photos[1], "-q"]
    assert main(["fit", str(folder), "-o", str(table), *options, *QUICK]) == 0
    expected = fitting.fit(
        photos, identity="shared", smoothing=1.0, neutral=photos[1], device="cpu", iterations=5
    )
    assert np.allclose(aus_of(table), expected.aus, atol=1e-6, equal_nan=True)
    alone = fitting.fit(photos, device="cpu", iterations=5)
    assert not np.allclose(aus_of(table), alone.aus, atol=1e-3, equal_nan=True)


def test_every_folder_is_of_another_person(folder, monkeypatch, capsys):
    whole, told = fitting.fit, []
    monkeypatch.setattr(
        fitting, "fit", lambda imgs, **options: told.append(options) or whole(imgs, **options)
    )
    people = [folder / "anna", folder / "ben"]
    for person, shift in zip(people, (0, 30), strict=True):
        person.mkdir()
        for number in range(2):
            picture = Image.fromarray(astronaut()[shift : 260 + shift, 90 + 5 * number : 360])
            picture.save(person / f"{number}.png")
    table = folder / "out.csv"
    options = ["--identity", "shared", "--subject", "folder", "--neutral", "1.png", "-q"]
    assert main(["fit", *map(str, people), "-o", str(table), *options, *QUICK]) == 0
    identity = pd.read_csv(table).filter(regex="^p_id_").to_numpy()
    assert (identity[0] == identity[1]).all()
    assert (identity[2] == identity[3]).all()
    assert not np.array_equal(identity[0], identity[2])
    names = [str(person) for person in people]
    assert told[0]["subject"] == [names[0], names[0], names[1], names[1]]
    assert told[0]["neutral"] == {name: str(folder / name / "1.png") for name in names}


def test_a_film_with_a_frame_that_fails(folder, capsys, recwarn):
    (folder / "c.jpg").write_text("no photograph")
    assert main(["fit", str(folder), "--smoothing", "1", *QUICK]) == 1
    assert "c.jpg: not a readable image" in capsys.readouterr().err
    assert not [w for w in recwarn if "not fitted" in str(w.message)], "said once"


def test_all_images_failed(capsys):
    assert main(["fit", "missing.jpg", *QUICK]) == 1
    assert "0 faces fitted" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fit", "x.jpg", "--iterations", "-1"], "iterations: expected an integer of at least 0, got -1"),
        (["fit", "x.jpg", "--device", "gpu"], "device: expected 'auto', 'cpu' or 'cuda', got 'gpu'"),
        (["fit", "x.jpg", "-o", "no/such/folder/out.csv"], "no such folder: no/such/folder"),
        (["fit", "nothing*.jpg"], "no file matches 'nothing*.jpg'"),
        (["fit", "x.jpg", "--smoothing", "-1"], "smoothing: expected a number of frames, 0 for none; got -1"),
        (["fit", "x.jpg", "--neutral", "rest.jpg"], "--neutral: no such file: rest.jpg"),
        (["fit", "x.jpg", "--subject", "folder"], "--subject: expected together with --identity shared"),
    ],
)
def test_wrong_usage(arguments, message, capsys):
    assert main(arguments) == 2
    assert message in capsys.readouterr().err


def test_folder_without_photographs(tmp_path, capsys):
    assert main(["fit", str(tmp_path)]) == 2
    assert "no photographs in the folder" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["fit"], ["fit", "x.jpg", "--objective", "both"], ["fly"]])
def test_argparse_errors_exit_with_2(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "usage: genet-ext" in capsys.readouterr().err


def test_an_unknown_option_shows_the_usage_of_its_command(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["fit", "a.jpg", "--au", "3"])
    assert caught.value.code == 2
    said = capsys.readouterr().err
    assert "usage: genet-ext fit" in said
    assert "unrecognized arguments: --au" in said


def test_no_command_shows_the_help(capsys):
    assert main([]) == 2
    assert "genet-ext demo" in capsys.readouterr().out


def test_table_is_written_as_the_fit_goes(folder, monkeypatch, capsys):
    """Interrupted after the first image, the first image is in the table."""
    monkeypatch.setitem(fitting.BATCH_SIZE, "cpu", 1)
    fit_faces, calls = fitting.fit_faces, []

    def interrupted(*arguments):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return fit_faces(*arguments)

    monkeypatch.setattr(fitting, "fit_faces", interrupted)
    table = folder / "out.csv"
    assert main(["fit", str(folder), "-o", str(table), *QUICK]) == 130
    assert len(pd.read_csv(table)) == 1
    assert "interrupted" in capsys.readouterr().err


def test_demo(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["demo", *QUICK]) == 0
    assert "2 faces fitted" in capsys.readouterr().out
    rows = pd.read_csv(tmp_path / "genet-demo" / "aus.csv")
    assert rows["input"].tolist() == ["astronaut (scikit-image)", "grace_hopper (matplotlib)"]
    assert np.asarray(Image.open(tmp_path / "genet-demo" / "fit.png").convert("L")).std() > 20


def test_info(capsys):
    assert main(["info"]) == 0
    text = capsys.readouterr().out
    assert "version" in text
    assert "simd" in text
    assert main(["info", "--json"]) == 0
    import json

    assert json.loads(capsys.readouterr().out)["version"]


def test_help_does_not_wait_for_torch():
    code = """
import sys
from genet_ext.cli import main
try:
    main(["fit", "--help"])
except SystemExit:
    print("torch" in sys.modules or "numpy" in sys.modules)
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.endswith("False\n")
    assert "exit codes" in run.stdout
