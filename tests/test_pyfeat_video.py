"""Shared identity and smoothing in py-feat: what `detect` and `add_aus` tie together, and when they refuse.

The face models are untrained: that the ties help is measured on rendered films (python/evaluate), here they
must be the ones of `genet_ext.fit`, applied to the right rows.
"""

from __future__ import annotations

import importlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

pytest.importorskip("feat", reason="py-feat is not installed: pip install py-feat")

import feat
import pyfeat_standins as standins
from feat.data import Fex, VideoDataset
from feat.utils.io import read_feat
from pyfeat_standins import NOTHING_ELSE

import genet_ext
from genet_ext import fitting
from genet_ext.pyfeat import AU_COLUMNS, EXTRA_COLUMNS, add_aus

FAST = {"iterations": 5, "uncertainty": False}
BOTH = {"identity": "shared", "smoothing": 1.0}
WITH_IDENTITY = {**NOTHING_ELSE, "identity_model": "arcface"}
SKIP = 12  # every so many frames of the film

pytestmark = [
    pytest.mark.usefixtures("offline"),
    pytest.mark.filterwarnings("ignore:face_model='retinaface' does not regress"),
]


def film() -> str:
    return str(standins.test_data() / "single_face.mp4")


def detector(models: dict[str, Any] = NOTHING_ELSE, **au_kwargs: Any) -> Any:
    return feat.Detectorv1(au_model="genet", au_kwargs={**FAST, **au_kwargs}, **models)


def detect(models: dict[str, Any] = NOTHING_ELSE, au_kwargs: Any = BOTH, **options: Any) -> Fex:
    options = {"data_type": "video", "skip_frames": SKIP, "progress_bar": False, **options}
    return detector(models, **au_kwargs).detect(options.pop("inputs", film()), **options)


def pictures() -> list[str]:
    names = ("single_face.jpg", "free-mountain-vector-01.jpg", "multi_face.jpg")  # 1, 0 and 5 faces
    return [str(standins.test_data() / name) for name in names]


def fit_of(fex: Fex, **options: Any) -> Any:
    """`genet_ext.fit` on the frames and boxes of `fex`."""
    frames = VideoDataset(film())
    images = [frames[frame]["Image"].permute(1, 2, 0).numpy() for frame in fex["frame"]]
    left, top, width, height = fex.faceboxes.to_numpy()[:, :4].T
    boxes = np.stack([left, top, left + width, top + height], axis=1)
    return genet_ext.fit(images, boxes=boxes[:, None], device="cpu", progress=False, **FAST, **options)


def assert_aus(fex: Fex, expected: Any) -> None:
    np.testing.assert_array_equal(fex.aus, expected.aus.astype(np.float32))


# --- detect ---


def test_shared_identity_is_that_of_fit() -> None:
    fex = detect(au_kwargs={"identity": "shared"})
    assert len(fex) > 3
    assert_aus(fex, fit_of(fex, identity="shared"))
    assert set(fex["genet_person"]) == {"face_0"}
    plain = detect(au_kwargs={})
    assert "genet_person" not in plain
    assert not pd.DataFrame(fex.aus).equals(pd.DataFrame(plain.aus))


def test_smoothing_counts_the_frames_of_the_film() -> None:
    """With every 12th frame looked at, neighbours are 12 frames apart."""
    fex = detect(au_kwargs={"smoothing": 12.0})
    alone = fit_of(fex)
    assert_aus(fex, fitting.smooth(alone, [None] * len(fex), fex["frame"].to_numpy(), 12.0))
    np.testing.assert_array_equal(
        fex["genet_status"], [str(status) for status in alone.status], "statuses stay"
    )


def test_people_are_py_feats_where_it_knows_them() -> None:
    fex = detect(WITH_IDENTITY)
    assert set(fex["genet_person"]) == set(fex["Identity"]) == {"Person_0"}
    pd.testing.assert_frame_equal(fex.aus, detect().aus, check_exact=True)


def test_one_name_for_several_faces_of_a_frame() -> None:
    """The stand-in network takes everybody for one person; boxes tell the faces of a frame apart."""
    pair = {"inputs": pictures()[2:] * 2, "data_type": "image", "skip_frames": None}
    fex = detect(WITH_IDENTITY, {"identity": "shared"}, **pair)
    assert set(fex["Identity"]) == {"Person_0"}
    assert list(fex["genet_person"]) == [f"Person_0/{k}" for k in range(5)] * 2
    np.testing.assert_array_equal(fex["AU12"][:5], fex["AU12"][5:])


def test_rows_without_a_face_stay_empty() -> None:
    fex = detect(inputs=str(standins.test_data() / "no_face.mp4"), skip_frames=24)
    assert fex.aus.isna().all(axis=None)
    assert set(fex["genet_status"]) == {"no_face"}
    assert fex["genet_person"].isna().all()
    fex = detect(WITH_IDENTITY, inputs=pictures()[:2], data_type="image", skip_frames=None)
    assert fex["AU12"].isna().tolist() == [False, True]


def test_batches_and_the_streamed_file_do_not_matter(tmp_path: Path) -> None:
    expected = detect()
    pd.testing.assert_frame_equal(detect(batch_size=4).aus, expected.aus, check_exact=True)
    saved = detect(save=tmp_path / "aus.csv", batch_size=2)
    np.testing.assert_array_equal(saved.aus, expected.aus)
    read = read_feat(str(tmp_path / "aus.csv"))
    np.testing.assert_allclose(read.aus, expected.aus, rtol=1e-6)
    assert list(read.aus.columns) == AU_COLUMNS
    assert list(read["genet_person"]) == list(expected["genet_person"])


def test_interrupted_run_leaves_untied_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, fit, calls = detector(**BOTH), genet_ext.fit, []

    def interrupted(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return fit(*args, **kwargs)

    monkeypatch.setattr(genet_ext, "fit", interrupted)
    with pytest.raises(KeyboardInterrupt):
        made.detect(film(), data_type="video", skip_frames=SKIP, save=tmp_path / "a.csv", progress_bar=False)
    monkeypatch.setattr(genet_ext, "fit", fit)
    read = pd.read_csv(tmp_path / "a.csv")
    plain = detect(au_kwargs={})
    np.testing.assert_allclose(read[AU_COLUMNS], plain[AU_COLUMNS][:3], rtol=1e-6)
    tied = made.detect(film(), data_type="video", skip_frames=SKIP, progress_bar=False)
    assert len(tied) == len(plain), "nothing is left of the interrupted run"


def test_without_extra_columns() -> None:
    fex = detect(au_kwargs={**BOTH, "extra_columns": False})
    assert not {"genet_person", *EXTRA_COLUMNS} & set(fex.columns)
    np.testing.assert_array_equal(fex.aus, detect().aus)


def test_two_films_in_two_threads() -> None:
    """One detector, two runs at once: each ties its own frames."""
    made, expected = detector(**BOTH), {skip: detect(skip_frames=skip) for skip in (12, 24)}
    found: dict[int, Fex] = {}

    def run(skip: int) -> None:
        found[skip] = made.detect(film(), data_type="video", skip_frames=skip, progress_bar=False)

    threads = [threading.Thread(target=run, args=(skip,)) for skip in expected]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for skip, fex in expected.items():
        pd.testing.assert_frame_equal(found[skip].aus, fex.aus)


def test_refusals() -> None:
    with pytest.raises(ValueError, match="who is who: give the detector an identity_model, or a film"):
        detector(identity="shared").detect(pictures(), progress_bar=False)
    with pytest.raises(ValueError, match="identity: expected 'free' or 'shared', got 'fixed'"):
        detector(identity="fixed")
    with pytest.raises(ValueError, match="smoothing: expected a number of frames, 0 for none; got -1"):
        detector(smoothing=-1)
    made = detector(**BOTH)
    assert "identity='shared', smoothing=1.0" in repr(made.au_detector)
    with pytest.raises(RuntimeError, match="are applied at the end of detect"):
        made.au_detector.detect_au_from_frames([], [])


# --- add_aus ---


@pytest.mark.parametrize("models", [NOTHING_ELSE, WITH_IDENTITY])
def test_add_aus_ties_as_detect_does(models: dict[str, Any]) -> None:
    plain = detect(models, {})
    fex = add_aus(plain, data_type="video", device="cpu", batch_size=2, **FAST, **BOTH)
    expected = detect(models)
    np.testing.assert_array_equal(fex.aus, expected.aus)
    assert list(fex["genet_person"]) == list(expected["genet_person"])
    again = add_aus(fex, data_type="video", device="cpu", **FAST)
    assert "genet_person" not in again
    np.testing.assert_array_equal(again.aus, plain.aus)


def test_add_aus_takes_rows_in_any_order() -> None:
    plain = detect(au_kwargs={})
    backwards = Fex(plain.iloc[::-1], facebox_columns=plain.facebox_columns)
    fex = add_aus(backwards, data_type="video", device="cpu", **FAST, **BOTH)
    np.testing.assert_array_equal(fex.aus.iloc[::-1], detect().aus)


def test_add_aus_refuses_before_it_reads_a_frame() -> None:
    plain = detect(au_kwargs={})
    with pytest.raises(ValueError, match="must know who is who"):
        add_aus(plain, "no such file.jpg", device="cpu", **BOTH)


# --- Detectorv2 and MPDetector ---


@pytest.fixture
def other_detectors(tmp_path: Path) -> Iterator[None]:
    with standins.offline_other_detectors(tmp_path):
        yield


def other_detector(name: str) -> Any:
    module = {"Detectorv2": "feat.detector_v2", "MPDetector": "feat.MPDetector"}[name]
    return getattr(importlib.import_module(module), name)()


@pytest.mark.usefixtures("other_detectors")
@pytest.mark.parametrize("name", ["Detectorv2", "MPDetector"])
def test_tables_of_the_other_detectors(name: str) -> None:
    """Their own code makes the table; every column that is no AU must come through as it was."""
    plain = other_detector(name).detect(pictures(), progress_bar=False)
    assert "Identity" in plain
    fex = add_aus(plain, device="cpu", **FAST)
    assert list(fex.aus.columns) == AU_COLUMNS
    faces = (plain["FaceScore"] > 0).to_numpy()
    assert faces.sum() == 6
    assert fex["AU12"].notna().tolist() == faces.tolist()
    assert set(fex["genet_status"][~faces]) == {"no_face"}
    kept = [column for column in plain.columns if column not in plain.au_columns]
    pd.testing.assert_frame_equal(pd.DataFrame(fex[kept]), pd.DataFrame(plain[kept]))
    for group in ("faceboxes", "landmarks", "poses", "emotions", "identities"):
        ours, theirs = (pd.DataFrame(getattr(table, group)) for table in (fex, plain))
        pd.testing.assert_frame_equal(ours, theirs)
    tied = add_aus(plain, device="cpu", **FAST, identity="shared")
    assert tied["genet_person"].notna().tolist() == faces.tolist()


@pytest.mark.usefixtures("other_detectors")
def test_film_of_detectorv2() -> None:
    plain = other_detector("Detectorv2").detect(film(), data_type="video", skip_frames=24, progress_bar=False)
    fex = add_aus(plain, film(), data_type="video", device="cpu", **FAST, **BOTH)
    assert set(fex["genet_person"]) == {"Person_0"}
    assert fex["AU12"].notna().all()
    assert list(fex["approx_time"]) == list(plain["approx_time"])
