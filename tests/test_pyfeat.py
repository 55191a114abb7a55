"""au_model="genet" in py-feat: the detector, its table, and everything py-feat does with it.

py-feat runs as shipped except for its networks (see pyfeat_standins.py). The face models here are untrained:
what the numbers mean is tested elsewhere, this file tests that they arrive.
"""

from __future__ import annotations

import copy
import pickle
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

pytest.importorskip("feat", reason="py-feat is not installed: pip install py-feat")

import feat
import pyfeat_standins as standins
from feat.data import Fex, ImageDataset
from feat.utils.io import read_feat
from pyfeat_standins import NOTHING_ELSE
from torch.utils.data import DataLoader

import genet_ext
from genet_ext.pyfeat import AU_COLUMNS, EXTRA_COLUMNS, add_aus, model

PICTURES = ["single_face.jpg", "free-mountain-vector-01.jpg", "multi_face.jpg"]  # 1, 0 and 5 faces
FAST = {"iterations": 5}

pytestmark = [
    pytest.mark.usefixtures("offline"),
    pytest.mark.filterwarnings("ignore:face_model='retinaface' does not regress"),
]


@pytest.fixture
def paths() -> list[str]:
    return [str(standins.test_data() / name) for name in PICTURES]


def detector(**options: Any) -> Any:
    return feat.Detectorv1(au_model="genet", au_kwargs=FAST, **options)


def detect(paths: Any, **options: Any) -> Fex:
    return detector(**NOTHING_ELSE).detect(paths, progress_bar=False, **options)


# --- the detector ---


def test_says_what_it_is() -> None:
    made = detector()
    assert made.info["au_model"] == "genet"
    assert "au_model=genet" in repr(made)
    assert "genet" in feat.Detectorv1.SUPPORTED_MODELS["au_model"]["options"]
    assert "genet" in feat.detector_capabilities()["Detectorv1"]["au_model"]["options"]
    assert {"genet": model.GenetAUModel} in feat.pretrained.PRETRAINED_MODELS["au_model"]


def test_detector_under_its_old_name() -> None:
    made = genet_ext.Detector(**NOTHING_ELSE)
    assert isinstance(made, feat.Detectorv1)
    assert made.info["au_model"] == "genet"
    assert repr(made).startswith("Detector(")
    assert genet_ext.Detector(au_model=None, **NOTHING_ELSE).info["au_model"] is None
    assert genet_ext.Detector("retinaface", None, None, None, None, None).info["au_model"] is None


def test_options_of_the_fit() -> None:
    made = feat.Detectorv1(au_model="genet", au_kwargs={"iterations": 3, "tol": 0.01}, **NOTHING_ELSE)
    assert made.au_detector.fit_options == {"iterations": 3, "tol": 0.01}
    with pytest.raises(TypeError, match=r"au_kwargs: expected some of .*iterations.*; got iteratoins"):
        feat.Detectorv1(au_model="genet", au_kwargs={"iteratoins": 3})
    with pytest.raises(ValueError, match="objective: expected"):
        feat.Detectorv1(au_model="genet", au_kwargs={"objective": "sharpness"})
    with pytest.raises(TypeError, match="au_kwargs: only for au_model='genet', but au_model is None"):
        feat.Detectorv1(au_model=None, au_kwargs=FAST, **NOTHING_ELSE)


def test_other_au_models_are_left_alone(paths: list[str]) -> None:
    made = feat.Detectorv1(au_model=None, **NOTHING_ELSE)
    fex = made.detect(paths[:1], progress_bar=False)
    assert made.au_detector is None
    assert fex.aus.isna().all(axis=None)
    assert not set(EXTRA_COLUMNS) & set(fex.columns)
    with pytest.raises(ValueError, match="nonsense is not currently supported"):
        feat.Detectorv1(au_model="nonsense")
    with pytest.raises(TypeError, match="unexpected keyword argument 'nonsense'"):
        feat.Detectorv1(nonsense=1)


def test_autograd_stays_on() -> None:
    with torch.enable_grad():
        detector(**NOTHING_ELSE)
        assert torch.is_grad_enabled()


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda made: pickle.loads(pickle.dumps(made))])
def test_copies(copied: Callable[[Any], Any], paths: list[str]) -> None:
    made = detector(**NOTHING_ELSE)
    again = copied(made)
    assert again.info == made.info
    expected, fex = (one.detect(paths[:1], progress_bar=False) for one in (made, again))
    pd.testing.assert_frame_equal(pd.DataFrame(fex), pd.DataFrame(expected))


def test_two_detectors_in_two_threads(paths: list[str]) -> None:
    """One with AUs and one without, on the same class, at the same time."""
    genet, plain = detector(**NOTHING_ELSE), feat.Detectorv1(au_model=None, **NOTHING_ELSE)
    found: dict[str, list[Fex]] = {"genet": [], "plain": []}

    def run(name: str, one: Any) -> None:
        found[name] += [one.detect(paths, progress_bar=False) for _ in range(3)]

    threads = [threading.Thread(target=run, args=item) for item in (("genet", genet), ("plain", plain))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found["genet"]) == len(found["plain"]) == 3
    assert all(fex.aus.isna().all(axis=None) for fex in found["plain"])
    for fex in found["genet"]:
        pd.testing.assert_frame_equal(fex.aus, found["genet"][0].aus)


# --- what detect returns ---


def test_rows(paths: list[str]) -> None:
    fex = detector().detect(paths, progress_bar=False)
    assert list(fex["frame"]) == [0, 1, 2, 2, 2, 2, 2]
    assert list(fex.aus.columns) == AU_COLUMNS == feat.pretrained.AU_LANDMARK_MAP["Feat"]
    faces = fex["frame"] != 1
    values = fex.aus.drop(columns="AU11")[faces]
    assert values.notna().all(axis=None)
    assert ((values >= 0) & (values <= 1)).all(axis=None)
    assert fex["AU11"].isna().all(), "the face model cannot express AU11"
    assert fex.aus[~faces].isna().all(axis=None)
    assert list(fex["genet_status"][~faces]) == ["no_face"]
    assert fex["genet_status"][faces].isin(["converged", "max_iterations"]).all()
    assert fex["genet_loss"][faces].notna().all()
    assert (fex.loc[faces, "genet_sd_12"] > 0).all()
    assert fex["happiness"][faces].notna().all(), "py-feat's own columns are there too"


def test_aus_are_those_of_fit(paths: list[str]) -> None:
    """The box is the one in the table, and nothing else is between the picture and the fit."""
    fex = detect(paths[2:])
    left, top, width, height = fex.faceboxes.to_numpy()[:, :4].T
    boxes = np.stack([left, top, left + width, top + height], axis=1)
    result = genet_ext.fit(paths[2:], boxes=[boxes], device="cpu", progress=False, **FAST)
    np.testing.assert_array_equal(fex.aus, result.aus.astype(np.float32))
    np.testing.assert_array_equal(fex["genet_loss"], result.loss.astype(np.float32))


def test_batch_size_does_not_change_a_bit(paths: list[str]) -> None:
    frames = [paths[0], paths[2], paths[0], paths[1], paths[2]]
    one, all_at_once = (detect(frames, batch_size=size, output_size=500) for size in (1, 16))
    pd.testing.assert_frame_equal(one.aus, all_at_once.aus, check_exact=True)
    pd.testing.assert_frame_equal(one[EXTRA_COLUMNS], all_at_once[EXTRA_COLUMNS], check_exact=True)


def test_without_extra_columns(paths: list[str]) -> None:
    made = feat.Detectorv1(au_model="genet", au_kwargs={**FAST, "extra_columns": False})
    plain = feat.Detectorv1(au_model=None)
    tables = [one.detect(paths, progress_bar=False) for one in (made, plain)]
    assert list(tables[0].columns) == list(tables[1].columns)


def test_tensor_and_image_agree(paths: list[str]) -> None:
    pixels = ImageDataset(paths[:1])[0]["Image"]
    for tensor in (pixels[None], pixels[None].float()):
        np.testing.assert_array_equal(detect(tensor, data_type="tensor").aus, detect(paths[:1]).aus)


def test_video() -> None:
    fex = detect(str(standins.test_data() / "single_face.mp4"), data_type="video", skip_frames=24)
    assert list(fex["frame"]) == [0, 24, 48]
    assert fex["AU12"].notna().all()
    fex = detect(str(standins.test_data() / "no_face.mp4"), data_type="video", skip_frames=48)
    assert fex.aus.isna().all(axis=None)


def test_workers(paths: list[str]) -> None:
    np.testing.assert_array_equal(detect(paths, num_workers=2).aus, detect(paths).aus)


def test_alpha_and_grey_pictures(tmp_path: Path, paths: list[str]) -> None:
    from PIL import Image

    Image.open(paths[0]).convert("L").save(tmp_path / "grey.png")
    fex = detect([str(standins.test_data() / "Image_with_alpha.png"), str(tmp_path / "grey.png")])
    assert fex["AU12"].notna().any()
    assert len(fex) == 2


def test_saved_while_detecting(tmp_path: Path, paths: list[str]) -> None:
    saved, kept = detect(paths, save=tmp_path / "aus.csv"), detect(paths)
    read = read_feat(str(tmp_path / "aus.csv"))
    assert list(read.columns) == list(kept.columns)
    assert list(read.aus.columns) == AU_COLUMNS, "an extra column must not be taken for an AU"
    np.testing.assert_allclose(saved.aus, kept.aus, rtol=1e-6)
    np.testing.assert_array_equal(read.aus, saved.aus)
    assert list(read["genet_status"]) == list(kept["genet_status"])


def test_interrupted_run_leaves_whole_rows(
    tmp_path: Path, paths: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    made, fit = detector(**NOTHING_ELSE), genet_ext.fit
    calls = []

    def interrupted(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return fit(*args, **kwargs)

    monkeypatch.setattr(genet_ext, "fit", interrupted)
    with pytest.raises(KeyboardInterrupt):
        made.detect([paths[0], paths[1], paths[2], paths[0]], save=tmp_path / "aus.csv", progress_bar=False)
    read = pd.read_csv(tmp_path / "aus.csv")
    assert list(read["frame"]) == [0, 1, 2, 2, 2, 2, 2]
    assert read["AU12"].notna().sum() == 6


def test_smile_and_surprise(monkeypatch: pytest.MonkeyPatch) -> None:
    """The shipped weights, on py-feat's own photographs and (for the smile) py-feat's own box."""
    monkeypatch.undo()  # the shipped models again
    pictures = [str(standins.test_data() / name) for name in ("single_face.jpg", "0-f1-su-ph.jpg")]
    made = feat.Detectorv1(au_model="genet", **NOTHING_ELSE)
    smile, surprise = (row for _, row in made.detect(pictures, progress_bar=False).aus.iterrows())
    assert smile["AU12"] >= 0.4
    assert "AU12" in smile.nlargest(3).index
    assert {"AU25", "AU26"} <= set(surprise.nlargest(3).index)
    assert surprise["AU12"] < 0.2


# --- what py-feat does with the table ---


@pytest.fixture
def au_face(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for the AU-to-landmarks model that py-feat downloads for its drawn face."""
    rest = standins._landmarks_in_box().reshape(68, 2).T.reshape(-1) * 100
    drawn = feat.plotting.PLSAULandmarkModel(np.full((23, 136), 0.5), rest, AU_COLUMNS)
    monkeypatch.setattr(feat.plotting, "load_viz_model", lambda *_, **__: drawn)


@pytest.mark.usefixtures("au_face")
@pytest.mark.parametrize("muscles", [False, True])
def test_plot_of_aus(paths: list[str], muscles: bool) -> None:
    """AU11 is NaN, which py-feat's muscle map cannot take, and must be drawn as at rest."""
    fex = detector().detect(paths[0], progress_bar=False)
    (figure,) = fex.plot_detections(faces="aus", muscles=muscles)
    drawn = [line.get_xydata() for line in figure.axes[0].lines]
    assert drawn
    assert all(np.isfinite(xy).all() for xy in drawn)
    assert fex["AU11"].isna().all(), "drawing must not change the table"


def test_other_plots(paths: list[str]) -> None:
    fex = detector().detect(paths, progress_bar=False)
    assert len(fex.plot_detections(faces="landmarks", poses=True, gazes=True)) == 3
    single = detector().detect(paths[0], progress_bar=False)
    assert len(single.plot_detections(faces="au_regions")) == 1
    figure = single.iplot_detections(bounding_boxes=True, landmarks=True, aus=True, poses=True)
    assert len(figure.layout.shapes) > 40, "boxes, landmarks and a path per muscle"


def test_summaries(paths: list[str]) -> None:
    fex = detector().detect(paths, progress_bar=False)
    mean = fex.extract_mean(ignore_sessions=True)
    np.testing.assert_allclose(mean["mean_AU12"], fex["AU12"].mean())
    assert list(mean.aus.columns) == [f"mean_{column}" for column in AU_COLUMNS]
    summary = fex.extract_summary(ignore_sessions=True)
    assert {"max_AU12", "std_AU12", "mean_genet_loss"} <= set(summary.columns)
    assert fex[fex["frame"] == 0].au_model == "genet"
    assert isinstance(fex.aus, Fex)


def test_evaluation(paths: list[str]) -> None:
    from feat.evaluation.datasets import DatasetSplit
    from feat.evaluation.runner import evaluate_dataset

    labels = pd.DataFrame(
        {f"AU{number:02d}": [0, 4, 1, 3] for number in (1, 2, 4, 5, 6, 9, 12, 15, 17, 20, 25, 26)}
    )
    split = DatasetSplit(
        name="tiny", image_paths=[paths[0], paths[2]] * 2, labels=labels, metric_kind="au_intensity"
    )
    scores = evaluate_dataset(detector(**NOTHING_ELSE), split, batch_size=2)
    assert scores["n_faces_detected"] == 4
    assert np.isfinite(scores["au_icc_mean"])


# --- add_aus ---


def test_add_aus_gives_the_same_numbers(paths: list[str]) -> None:
    expected = detect(paths)
    plain = feat.Detectorv1(au_model=None, **NOTHING_ELSE).detect(paths, progress_bar=False)
    for inputs in (paths, None):
        fex = add_aus(plain, inputs, device="cpu", batch_size=2, **FAST)
        pd.testing.assert_frame_equal(fex.aus, expected.aus, check_exact=True)
        assert fex.au_model == "genet"
        assert list(fex["genet_status"]) == list(expected["genet_status"])
    assert plain.aus.isna().all(axis=None), "the Fex that was passed stays as it was"
    assert plain.au_model is None


def test_add_aus_replaces_those_of_detectorv2(paths: list[str]) -> None:
    """A table like Detectorv2's: 24 AUs of its own, two faces in one frame, an index of its own."""
    plain = feat.Detectorv1(au_model=None, **NOTHING_ELSE).detect(paths, progress_bar=False)
    others = [*AU_COLUMNS, "AU16", "AU18", "AU27", "AU45"]
    other = plain.drop(columns=AU_COLUMNS).assign(**dict.fromkeys(others, 0.25))
    other = Fex(
        other.iloc[::-1], au_columns=others, facebox_columns=plain.facebox_columns, au_model="multitask"
    )
    fex = add_aus(other, device="cpu", **FAST)
    assert list(fex.aus.columns) == AU_COLUMNS
    assert not {"AU16", "AU18", "AU27", "AU45"} & set(fex.columns)
    assert list(fex.index) == list(other.index)
    expected = detect(paths).aus
    np.testing.assert_array_equal(fex.aus.sort_index(), expected)


def test_add_aus_to_tensor_and_video(paths: list[str]) -> None:
    tensor = ImageDataset(paths[:1])[0]["Image"][None]
    fex = add_aus(detect(tensor, data_type="tensor"), tensor, data_type="tensor", device="cpu", **FAST)
    np.testing.assert_array_equal(fex.aus, detect(paths[:1]).aus)
    video = str(standins.test_data() / "single_face.mp4")
    expected = detect(video, data_type="video", skip_frames=24)
    fex = add_aus(expected, data_type="video", device="cpu", **FAST)
    np.testing.assert_array_equal(fex.aus, expected.aus)


def test_add_aus_refuses(paths: list[str]) -> None:
    fex = detect(paths[:1])
    with pytest.raises(ValueError, match=r"fex: expected the columns \['FaceRectX'\]"):
        add_aus(fex.drop(columns="FaceRectX"))
    with pytest.raises(ValueError, match="data_type: expected 'image', 'tensor' or 'video', not 'photo'"):
        add_aus(fex, data_type="photo")
    with pytest.raises(ValueError, match="inputs: expected the tensor"):
        add_aus(fex, data_type="tensor")
    with pytest.raises(ValueError, match="inputs: expected more than 1 frames"):
        add_aus(detect(paths), paths[:1], device="cpu")


def test_loader_stands(paths: list[str]) -> None:
    """The stand-in face detector finds the pictures also where py-feat pads and scales them."""
    batch = next(iter(DataLoader(ImageDataset(paths, output_size=320, padding=True), batch_size=3)))
    assert [len(found) for found in standins.FaceDetector()(batch["Image"].float())] == [1, 0, 5]
