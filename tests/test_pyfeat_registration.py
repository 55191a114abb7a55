"""Putting genet-ext into py-feat and taking it out: import order, refusal, alias, `genet-ext enable`."""

from __future__ import annotations

import ast
import importlib
import inspect
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("feat", reason="py-feat is not installed: pip install py-feat")

import feat
import feat.detector
import pyfeat_standins as standins
from pyfeat_standins import NOTHING_ELSE

import genet_ext
from genet_ext import cli
from genet_ext.pyfeat import autoload, import_hook, registration

OWNERS = [feat, feat.detector, feat.data, feat.pretrained, feat.detector.Detectorv1, feat.data.Fex]

pytestmark = pytest.mark.filterwarnings("ignore:face_model='retinaface' does not regress")


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    genet_ext.register()
    yield
    genet_ext.register()


def run_python(code: str, *options: str) -> str:
    """The output of a fresh Python."""
    command = [sys.executable, *options, "-c", code]
    root = str(Path(genet_ext.__file__).parents[1])
    done = subprocess.run(command, capture_output=True, text=True, cwd=root, timeout=900)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


# --- import order ---


def test_genet_ext_first() -> None:
    """Importing the package loads neither torch nor py-feat; py-feat is extended as soon as it is there."""
    code = """
import sys, genet_ext
assert not {"torch", "pandas", "feat"} & set(sys.modules), "import genet_ext must stay cheap"
import feat, inspect
assert "genet" in feat.Detectorv1.SUPPORTED_MODELS["au_model"]["options"]
assert "au_kwargs" in inspect.signature(feat.Detectorv1).parameters
assert inspect.getsource(feat.detector).startswith("# Import xgboost"), "the module keeps its own loader"
assert feat.Fex is feat.data.Fex and not hasattr(feat, "Detector")
print("good")"""
    assert run_python(code).endswith("good")


def test_reload() -> None:
    old = feat.detector.Detectorv1
    try:
        new = importlib.reload(feat.detector).Detectorv1
        assert new is not old
        for cls in (old, new):
            assert "genet" in cls.SUPPORTED_MODELS["au_model"]["options"]
            assert "au_kwargs" in inspect.signature(cls.__init__).parameters
        assert [list(model) for model in feat.pretrained.PRETRAINED_MODELS["au_model"]].count(["genet"]) == 1
    finally:
        feat.detector.Detectorv1 = old


def test_registering_twice_wraps_once() -> None:
    genet_ext.unregister()
    original = feat.Detectorv1.forward
    genet_ext.register()
    genet_ext.register()
    assert feat.Detectorv1.forward.__wrapped__ is original
    assert sum(isinstance(finder, import_hook.AfterImport) for finder in sys.meta_path) == 1


# --- taking it out ---


def test_unregister_puts_every_object_back() -> None:
    genet_ext.unregister()
    options = repr(feat.detector_capabilities())  # imports a module of py-feat's: before the snapshot
    before = [dict(vars(owner)) for owner in OWNERS]
    path = list(sys.meta_path)
    genet_ext.register(alias=True)
    assert sum(vars(owner) != old for owner, old in zip(OWNERS, before, strict=True)) == len(OWNERS)
    genet_ext.unregister()
    for owner, old in zip(OWNERS, before, strict=True):
        now = dict(vars(owner))
        assert now.keys() == old.keys()
        assert all(now[name] is old[name] for name in old), owner
    assert sys.meta_path == path
    assert repr(feat.detector_capabilities()) == options
    with pytest.raises(ValueError, match="genet is not currently supported"), _offline():
        feat.Detectorv1(au_model="genet")


def test_detector_made_before_unregister_fails_aloud() -> None:
    with _offline():
        options = {"emotion_model": None, "identity_model": None, "gaze_model": None}
        made = feat.Detectorv1(au_model="genet", **options)
        genet_ext.unregister()
        with pytest.raises(RuntimeError, match=r"genet_ext.unregister\(\) has been called since"):
            made.detect(str(standins.test_data() / "single_face.jpg"), progress_bar=False)


def _offline() -> Any:
    import tempfile

    return standins.offline_py_feat(Path(tempfile.mkdtemp()))


def test_alias() -> None:
    assert not hasattr(feat, "Detector")
    genet_ext.register(alias=True)
    assert feat.Detector is feat.detector.Detector is feat.Detectorv1


# --- another py-feat ---


def test_sources_are_the_expected_ones() -> None:
    """Fails aloud with a py-feat whose wrapped functions have changed."""
    genet_ext.unregister()
    found = {name: registration.source_hash(name) for name in registration.EXPECTED_SOURCES}
    assert found == registration.EXPECTED_SOURCES
    parameters = {
        feat.Detectorv1.__init__: (
            "self face_model landmark_model au_model emotion_model identity_model gaze_model device"
        ),
        feat.Detectorv1.forward: "self faces_data batch_data",
        feat.data.Fex._prepare_plot_aus: "self row muscles gaze",
    }
    for function, names in parameters.items():
        assert list(inspect.signature(function).parameters) == names.split()


def test_refuses_a_py_feat_it_does_not_know(monkeypatch: pytest.MonkeyPatch) -> None:
    unknown = {**registration.EXPECTED_SOURCES, "feat.detector:Detectorv1.forward": "0" * 64}
    monkeypatch.setattr(registration, "EXPECTED_SOURCES", unknown)
    message = r"supports py-feat 2.0.0 to 2.1.5.*Detectorv1.forward \(75bbb18b0fc9, expected 000000000000\)"
    with pytest.raises(RuntimeError, match=message):
        genet_ext.register()
    with pytest.raises(RuntimeError, match=message):
        feat.Detectorv1(au_model="genet")
    with _offline():
        assert feat.Detectorv1(au_model=None, **NOTHING_ELSE).au_detector is None, (
            "py-feat itself still works"
        )
        genet_ext.register(check=False)
        assert feat.Detectorv1(au_model="genet", **NOTHING_ELSE).info["au_model"] == "genet"
    genet_ext.unregister()
    assert "genet" not in feat.Detectorv1.SUPPORTED_MODELS["au_model"]["options"]


def test_function_that_is_gone() -> None:
    assert registration.source_hash("feat.detector:Detectorv1.no_such_function") == "missing"
    assert registration.source_hash("feat.no_such_module:function") == "missing"


# --- genet-ext enable ---


def test_enable_and_disable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(autoload.sysconfig, "get_path", lambda name: str(tmp_path))
    assert not autoload.is_enabled()
    assert cli.main(["enable"]) == 0
    assert autoload.is_enabled()
    assert str(tmp_path / autoload.PTH_NAME) in capsys.readouterr().out
    assert cli.main(["disable"]) == 0
    assert not list(tmp_path.iterdir())
    assert cli.main(["disable"]) == 0
    assert "there was no" in capsys.readouterr().out


def test_enabled_script_need_not_import_genet_ext(tmp_path: Path) -> None:
    (tmp_path / autoload.PTH_NAME).write_text(autoload.PTH_LINE)
    code = f"""
import site, sys
site.addsitedir({str(tmp_path)!r})
assert "genet_ext" not in sys.modules
import feat
assert "genet_ext" in sys.modules
assert "genet" in feat.Detectorv1.SUPPORTED_MODELS["au_model"]["options"]
print("good")"""
    assert run_python(code).endswith("good")


def test_enabled_line_is_silent_without_the_package(tmp_path: Path) -> None:
    (tmp_path / autoload.PTH_NAME).write_text(autoload.PTH_LINE)
    code = f"import site, sys; sys.path[:] = sys.path[1:]; site.addsitedir({str(tmp_path)!r}); print('good')"
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, cwd=tmp_path
    )
    assert (done.stdout, done.stderr) == ("good\n", "")


def test_start_up_file_imports_nothing() -> None:
    """What runs at every Python start; docs/coming-from-xgb.md says what it costs."""
    body = ast.parse(Path(import_hook.__file__).read_text()).body
    imported = [alias.name for node in body if isinstance(node, ast.Import) for alias in node.names]
    assert imported == ["sys"]
