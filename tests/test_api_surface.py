"""The public names, frozen; and what importing the package costs."""

import inspect
import subprocess
import sys

import pytest

import genet_ext

PUBLIC = """
    Detector FitResult Models ParameterSpace SearchSettings Status __version__ build_info fit fit_stream
    load_models load_parameter_space register unregister
""".split()

FIT_ARGUMENTS = """
    imgs boxes landmarks objective iterations lr init device identity subject smoothing neutral uncertainty
    batch_size keep_crops progress models search_options
""".split()

RESULT_NAMES = """
    appearance aus aus_sd baseline box crops distance expression face face_score features fitted identity
    image intensity interval iterations landmarks loss message misfit models plot pose posterior quality
    regressed render settings similarity source status theta to_csv to_fex to_frame
""".split()


def test_public_names():
    assert sorted(genet_ext.__all__) == sorted(PUBLIC)
    for name in PUBLIC:
        if name != "Detector":  # py-feat's, which need not be there
            assert getattr(genet_ext, name) is not None
    assert set(PUBLIC) <= set(dir(genet_ext))


def test_arguments_of_fit():
    assert list(inspect.signature(genet_ext.fit).parameters) == FIT_ARGUMENTS


def test_names_of_a_result():
    fields = set(genet_ext.FitResult.__dataclass_fields__)
    names = fields | {name for name in vars(genet_ext.FitResult) if not name.startswith("_")}
    assert sorted(names) == sorted(RESULT_NAMES)


def test_unknown_name():
    with pytest.raises(AttributeError, match="module 'genet_ext' has no attribute 'fitt'"):
        genet_ext.fitt  # noqa: B018


def test_import_is_light():
    code = (
        "import sys, genet_ext; print([m for m in ('torch', 'numpy', 'pandas', 'feat') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
