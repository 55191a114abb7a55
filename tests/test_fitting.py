"""The whole path with untrained networks: what comes in, what comes out, who influences whom."""

import gc
import itertools
import os
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from photographs import ASTRONAUT_BOX as BOX
from PIL import Image
from same_bits import assert_same_bits
from skimage.data import astronaut
from tiny_models import tiny_models

import genet_ext.fitting as fitting
from genet_ext import Status, fit, fit_stream, known_face
from genet_ext.action_units import load_action_units
from genet_ext.models import random_models
from genet_ext.persons import smooth, subtract_neutral
from genet_ext.result import FitResult


@pytest.fixture(scope="module")
def models():
    return tiny_models(3)


@pytest.fixture(scope="module")
def photo():
    return astronaut()


@pytest.fixture
def quick(models):
    """Few iterations, small networks."""
    return {"models": models, "iterations": 20, "progress": False}


def photos_unlike(photo, number, seed=0):
    rng = np.random.default_rng(seed)
    return [
        np.roll(photo, rng.integers(-20, 20, 2), (0, 1)) ^ rng.integers(0, 40, 3, np.uint8)
        for _ in range(number)
    ]


# --- inputs ---------------------------------------------------------------------------------------


def test_every_kind_of_input_gives_the_same_numbers(photo, quick, tmp_path):
    Image.fromarray(photo).save(tmp_path / "photo.png")
    tensor = torch.from_numpy(photo).permute(2, 0, 1)
    reference = fit(photo, boxes=BOX, **quick)
    assert reference.fitted.all()
    for imgs in (
        tmp_path / "photo.png",
        Image.fromarray(photo),
        tensor[None],
        tensor[None].float() / 255,
        [str(tmp_path / "photo.png")],
    ):
        assert_same_bits(fit(imgs, boxes=BOX, **quick), reference)
    for imgs in (iter([photo]), [photo]):
        assert_same_bits(fit(imgs, boxes=[BOX], **quick), reference)


def test_without_boxes_faces_are_found(photo, quick):
    result = fit(photo, **quick)
    assert len(result) == 1
    assert result.fitted.all()
    assert result.face_score[0] >= 0.5
    assert np.abs(result.box[0] - BOX).max() < 12


def test_several_faces_of_an_image_stay_in_order(photo, quick):
    boxes = [np.array([BOX, [160, 50, 280, 180]]), np.empty((0, 4)), [BOX]]
    result = fit([photo] * 3, boxes=boxes, **quick, batch_size=1)
    assert result.image.tolist() == [0, 0, 1, 2]
    assert result.face.tolist() == [0, 1, 0, 0]
    assert [s.fitted for s in result.status] == [True, True, False, True]


def test_landmarks_take_the_place_of_boxes(photo, quick):
    points = np.random.default_rng(0).uniform([204, 100], [244, 140], (68, 2))
    result = fit(photo, landmarks=points, **quick)
    assert result.fitted.all()
    assert np.allclose(result.box[0], [*points.min(0), *points.max(0)])


# --- nobody influences anybody --------------------------------------------------------------------


def test_alone_and_among_many_bit_for_bit(photo, quick):
    """With networks of the shipped size: small ones could take other code paths."""
    quick = {**quick, "models": random_models(3)}
    crowd = [photo, *photos_unlike(photo, 10)]
    alone = fit(photo, boxes=BOX, **quick)
    together = fit(crowd, boxes=[BOX] * 11, **quick)
    assert_same_bits(together[0], alone)
    assert not np.array_equal(together.theta[0], together.theta[1])
    for batch_size in (1, 5):
        assert_same_bits(fit(crowd, boxes=[BOX] * 11, **quick, batch_size=batch_size), together)


def test_permuting_the_images_permutes_the_rows(photo, quick):
    crowd = photos_unlike(photo, 7)
    order = np.random.default_rng(1).permutation(7)
    result = fit(crowd, boxes=[BOX] * 7, **quick)
    permuted = fit([crowd[i] for i in order], boxes=[BOX] * 7, **quick)
    assert_same_bits(permuted, result[order])


def test_a_face_without_numbers_harms_no_neighbour(photo, quick):
    images = [photo, np.zeros((90, 80, 3), np.uint8), photo]
    with pytest.warns(UserWarning, match="1 of 3"):
        result = fit(images, boxes=[BOX, [np.nan] * 4, BOX], **quick)
    assert_same_bits(result[0], result[2])
    assert_same_bits(result[0], fit(photo, boxes=BOX, **quick))


def test_second_run_is_identical(photo, quick):
    assert_same_bits(fit(photo, **quick), fit(photo, **quick))


def test_image_objective_is_independent_of_the_batch_too(photo, quick):
    quick = {**quick, "iterations": 2, "objective": "image", "models": random_models(3)}
    crowd = [*photos_unlike(photo, 2), photo]
    together = fit(crowd, boxes=[BOX] * 3, **quick)
    assert_same_bits(together[2], fit(photo, boxes=BOX, **quick))
    assert (together.iterations == 2).all()


# --- what cannot be fitted ------------------------------------------------------------------------


def test_bad_images_become_rows_and_a_warning(photo, quick, tmp_path):
    (tmp_path / "text.jpg").write_text("no photograph")
    one_pixel = np.zeros((1, 1, 3), np.uint8)
    with pytest.warns(UserWarning, match="3 of 4 faces were not fitted") as caught:
        result = fit([tmp_path / "text.jpg", tmp_path / "missing.jpg", one_pixel, photo], **quick)
    assert "missing.jpg: no such file" in str(caught[0].message)
    assert result.status[:3] == [Status.UNREADABLE, Status.UNREADABLE, Status.NO_FACE]
    assert result.status[3].fitted
    assert result.aus[:3].isna().all(axis=None)
    assert result.pose[:3].isna().all(axis=None)
    assert result.aus_sd[:3].isna().all(axis=None)
    assert np.isnan(result.landmarks[:3]).all()
    assert np.isnan(result.loss[:3]).all()


def test_no_warning_when_all_is_well(photo, quick):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit(photo, **quick)


def test_not_finite_features_fail_that_face_only(photo, models, quick):
    """An extractor that gives NaN for one face."""
    nan_models = tiny_models(3)
    features = nan_models.extractor.features

    def poisoned(pixels):
        out = features(pixels)
        return torch.where((pixels.mean((1, 2, 3)) > 0.999)[:, None], torch.nan, out)

    nan_models.extractor.features = poisoned
    white = np.full_like(photo, 255)
    with pytest.warns(UserWarning, match="loss or gradient not finite"):
        result = fit([photo, white], boxes=[BOX, BOX], **{**quick, "models": nan_models})
    assert result.status == [result.status[0], Status.FAILED]
    assert_same_bits(result[0], fit(photo, boxes=BOX, **quick))
    assert np.isnan(result.theta[1]).all()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"objective": "pixels"}, ValueError, "objective: expected one of 'feature', 'image'; got 'pixels'"),
        ({"init": "zero"}, ValueError, "init: expected one of 'regressor', 'mean'; got 'zero'"),
        ({"iterations": -1}, ValueError, "iterations: expected an integer of at least 0, got -1"),
        ({"iterations": 2.5}, ValueError, "iterations: expected an integer"),
        ({"lr": 0}, ValueError, "lr: expected a number above 0, got 0"),
        ({"lr_decay": 1.5}, ValueError, "lr_decay: expected a number above 0 and at most 1, got 1.5"),
        ({"tol": -1}, ValueError, "tol: expected a number of at least 0"),
        ({"betas": (0.9, 1.0)}, ValueError, r"betas: expected two numbers in \[0, 1\)"),
        ({"kind": "l3"}, ValueError, "kind: expected one of .*'huber'.*; got 'l3'"),
        ({"backend": "numpy"}, ValueError, "backend: expected one of 'native', 'reference'"),
        ({"batch_size": 0}, ValueError, "batch_size: expected an integer of at least 1, or None; got 0"),
        ({"keep_crops": -1}, ValueError, "keep_crops: expected an integer of at least 0"),
        ({"identity": "fixed"}, ValueError, "identity: expected 'free' or 'shared', got 'fixed'"),
        ({"iteration": 3}, TypeError, "unknown argument 'iteration'; search settings are .*iterations"),
        ({"subject": ["a", "b"]}, ValueError, r"subject: expected one label per image \(1\), got 2"),
        ({"subject": "a"}, ValueError, r"subject: expected one label per image \(1\), got 'a'"),
        ({"boxes": np.zeros((2, 3))}, ValueError, r"boxes: expected \[N, 4\]"),
        (
            {"boxes": [[BOX, BOX]], "landmarks": np.zeros((1, 68, 2))},
            ValueError,
            r"landmarks: expected as many",
        ),
    ],
)
def test_wrong_arguments_are_named(photo, quick, options, error, message):
    with pytest.raises(error, match=message):
        fit(photo, **{**quick, **options})


@pytest.mark.parametrize("device", ["cdua", "mps", 3.5])
def test_wrong_device_is_named(photo, device):
    with pytest.raises((ValueError, TypeError), match="device: expected 'auto', 'cpu' or 'cuda'"):
        fit(photo, device=device)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_absent_cuda_is_said(photo):
    with pytest.raises(ValueError, match=r"'cuda' was asked for, but torch .* sees no CUDA device"):
        fit(photo, device="cuda")


def test_empty_iterator(quick):
    with pytest.raises(ValueError, match="imgs: expected at least one image, got an empty iterator"):
        fit(iter([]), **quick)


# --- streams --------------------------------------------------------------------------------------


def test_stream_gives_the_same_rows_as_fit(photo, quick):
    crowd = photos_unlike(photo, 5)
    parts = list(fit_stream(iter(crowd), boxes=iter([BOX] * 5), batch_size=2, **quick))
    assert [len(part) for part in parts] == [2, 2, 1]
    whole = fit(crowd, boxes=[BOX] * 5, **quick)
    for part, rows in zip(parts, (slice(0, 2), slice(2, 4), slice(4, 5)), strict=True):
        assert_same_bits(part, whole[rows])


def test_stream_reads_only_a_little_ahead(photo, quick):
    given = itertools.count()
    stream = fit_stream((photo for _ in given), boxes=itertools.repeat(BOX), batch_size=1, **quick)
    next(stream)
    stream.close()
    assert next(given) < 30


def test_boxes_that_run_out_are_an_error(photo, quick):
    with pytest.raises(ValueError, match="boxes: expected one entry per image, got only 2"):
        fit((photo for _ in range(3)), boxes=iter([BOX, BOX]), **quick)


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_what_was_fitted_survives_an_interruption(photo, quick, error):
    def images():
        yield from photos_unlike(photo, 6)
        while True:
            yield photo
            if stop:
                raise error("stop")

    stop = True
    with pytest.raises(error) as caught:
        fit(images(), boxes=itertools.repeat(BOX), batch_size=2, **quick)
    partial = caught.value.partial_result
    assert isinstance(partial, FitResult)
    assert "partial_result" in caught.value.__notes__[0]
    assert_same_bits(
        partial, fit(photos_unlike(photo, 6)[: len(partial)], boxes=[BOX] * len(partial), **quick)
    )


def test_memory_of_a_stream_stays_flat(photo, quick):
    """36 photographs of 3 MB: no more memory in the second half than in the first."""
    large = np.asarray(Image.fromarray(photo).resize((1024, 1024)))
    images = (large.copy() for _ in range(36))
    sizes = []
    box = np.array(BOX) * 2
    for _ in fit_stream(images, boxes=itertools.repeat(box), batch_size=3, keep_crops=0, **quick):
        gc.collect()
        sizes.append(int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE"))
    assert max(sizes[6:]) - max(sizes[:6]) < 6 * large.nbytes


# --- several photographs of one person ------------------------------------------------------------


def test_shared_identity_is_one_per_subject(photo, quick):
    crowd = photos_unlike(photo, 4)
    labels = ["a", "b", "a", "b"]
    free = fit(crowd, boxes=[BOX] * 4, **quick)
    shared = fit(crowd, boxes=[BOX] * 4, identity="shared", subject=labels, **quick)
    identity = shared.identity.to_numpy()
    assert np.array_equal(identity[0], identity[2])
    assert np.array_equal(identity[1], identity[3])
    assert not np.array_equal(identity[0], identity[1])
    for rows in ([0, 2], [1, 3]):
        mean = free.identity.to_numpy()[rows].mean(0)
        direction = identity[rows[0]] @ mean / np.linalg.norm(identity[rows[0]]) / np.linalg.norm(mean)
        assert direction > 0.99, "what the faces of a subject say alone, and more surely"
        assert np.linalg.norm(identity[rows[0]]) > np.linalg.norm(mean)
    assert shared.image.tolist() == [0, 1, 2, 3]
    alone = fit(crowd[::2], boxes=[BOX] * 2, identity="shared", **quick)
    assert_same_bits(shared[::2], alone)


def test_shared_identity_leaves_rows_without_a_face_alone(photo, quick):
    with pytest.warns(UserWarning, match="1 of 3"):
        result = fit([photo] * 3, boxes=[BOX, [np.nan] * 4, BOX], identity="shared", **quick)
    assert result.status[1] is Status.NO_FACE
    assert result.fitted.tolist() == [True, False, True]


def test_shared_identity_takes_off_what_all_show_at_rest(photo, models):
    """The same for all pictures of a subject, deviations and intervals with it; nothing from one picture."""
    crowd = photos_unlike(photo, 5)
    precision, spread = models.prior.precision * 0.01, torch.full_like(models.prior.rest_spread, 0.25)
    models = replace(models, prior=replace(models.prior, precision=precision, rest_spread=spread))
    options = {"models": models, "init": "mean", "iterations": 30, "lr": 0.1, "progress": False}
    shared = fit(crowd, boxes=[BOX] * 5, subject=[*"aaaab"], identity="shared", **options)
    read = load_action_units().values(shared.theta)
    assert (shared.baseline[:4] == shared.baseline[0]).all()
    assert shared.baseline[0].max() > 0.05
    assert (shared.baseline[0] <= np.nan_to_num(read[:4].max(0)) + 0.02).all()
    assert np.allclose(shared.baseline[4], 0), "one picture"
    assert np.allclose(shared.aus, np.clip(read - shared.baseline, 0, 1), equal_nan=True)
    bare = replace(shared, baseline=np.zeros_like(shared.baseline))
    for end, without in zip(shared.interval(0.9), bare.interval(0.9), strict=True):
        assert np.allclose(end, np.clip(without - shared.baseline, 0, None), equal_nan=True)
    assert np.allclose(shared.aus_sd[4:], bare.aus_sd[4:], equal_nan=True)
    assert not np.allclose(shared.aus_sd[:4], bare.aus_sd[:4], equal_nan=True)
    smoothed = smooth(shared, [None] * 5, np.arange(5), 1.0)
    assert np.array_equal(smoothed.baseline, shared.baseline)


@pytest.fixture
def without_landmarks(models, monkeypatch):
    """Options of fits that move far, with landmarks that say nothing."""
    monkeypatch.setattr(known_face, "SPARSITY", 0.0)
    models = replace(
        models,
        prior=replace(models.prior, precision=models.prior.precision * 0.01),
        landmark_model=replace(models.landmark_model, precision=1e-9 * models.landmark_model.precision),
    )
    return {"models": models, "init": "mean", "iterations": 30, "lr": 0.1, "progress": False}


def test_neutral_is_subtracted(photo, without_landmarks):
    crowd, options = photos_unlike(photo, 3), without_landmarks
    plain, rest = fit(crowd, boxes=[BOX] * 3, **options), fit(photo, **options)
    corrected = fit(crowd, boxes=[BOX] * 3, neutral=photo, **options)
    assert_same_bits(corrected, subtract_neutral(plain, [None] * 3, {None: rest}))
    assert corrected.baseline[0].max() > 0.02
    expected = np.clip(plain.aus.to_numpy() - rest.aus.to_numpy(), 0, 1)
    assert np.allclose(corrected.aus, expected, equal_nan=True, atol=2e-2)
    by_subject = fit(
        crowd, boxes=[BOX] * 3, subject=["a", "b", "a"], neutral={"a": photo, "b": photo}, **options
    )
    assert_same_bits(by_subject, corrected)


def test_neutral_has_the_shared_identity(photo, without_landmarks):
    """The neutral photograph among the others: nothing is left of its AUs, to the bit."""
    crowd = [photo, *photos_unlike(photo, 2)]
    shared = fit(crowd, identity="shared", **without_landmarks)
    rest = fit(crowd, identity="shared", neutral=photo, **without_landmarks)
    assert np.nanmax(rest.aus.to_numpy()[0]) == 0
    assert np.ptp(rest.baseline[0]) > 0.02
    assert not np.allclose(rest.baseline, shared.baseline, atol=0.01), "instead of what all show"


def test_smoothing(photo, quick):
    crowd = photos_unlike(photo, 4)
    boxes = [BOX, [np.nan] * 4, BOX, BOX]
    with pytest.warns(UserWarning, match="1 of 4"):
        plain = fit(crowd, boxes=boxes, **quick)
    with pytest.warns(UserWarning, match="1 of 4"):
        smoothed = fit(crowd, boxes=boxes, smoothing=1.0, **quick)
    assert smoothed.fitted.tolist() == [True, False, True, True]
    expected = smooth(plain, [None] * 4, plain.image, 1.0)
    assert_same_bits(smoothed, expected)
    assert not np.array_equal(smoothed.theta[0], plain.theta[0])
    apart = fit(crowd[2:], boxes=boxes[2:], subject=["a", "b"], smoothing=1.0, **quick)
    assert np.allclose(apart.theta, plain.theta[2:], atol=1e-6), "one frame each: nothing to smooth"


def test_two_faces_in_every_frame_keep_their_identities(photo, quick):
    both = np.concatenate([photo, photo[:, ::-1] // 2], axis=1)
    other = [512 + 512 - BOX[2], BOX[1], 512 + 512 - BOX[0], BOX[3]]
    frames = photos_unlike(both, 3)
    result = fit(frames, boxes=[[BOX, other]] * 3, identity="shared", **quick)
    identity = result.identity.to_numpy()
    assert (identity[0::2] == identity[0]).all()
    assert (identity[1::2] == identity[1]).all()
    assert not np.array_equal(identity[0], identity[1])


def test_missing_subjects_are_told_before_the_work(photo, quick, monkeypatch):
    with pytest.raises(ValueError, match=r"subject: expected one label per image \(2\), got 1"):
        fit(iter([photo, photo]), boxes=iter([BOX, BOX]), subject=["a"], **quick)
    monkeypatch.setattr(fitting, "fit_faces", None)
    with pytest.raises(ValueError, match=r"subject: expected one label per image \(2\), got 1"):
        fit([photo, photo], boxes=[BOX, BOX], subject=["a"], **quick)


def test_neutral_without_a_face_is_an_error(photo, quick):
    with pytest.raises(ValueError, match="neutral: expected a photograph with a face; no face found"):
        fit(unread := iter([photo]), boxes=BOX, neutral=np.zeros((50, 50, 3), np.uint8), **quick)
    assert len(list(unread)) == 1, "said before the long work, not after it"
    with pytest.raises(
        ValueError, match="neutral: expected a photograph for every subject, got none for 'b'"
    ):
        fit(photo, boxes=BOX, subject=["b"], neutral={"a": photo}, **quick)


# --- options --------------------------------------------------------------------------------------


def test_search_lowers_the_loss_from_either_start(photo, models):
    options = {"models": models, "boxes": BOX, "progress": False}
    for init in ("regressor", "mean"):
        losses = [fit(photo, init=init, iterations=n, **options).loss[0] for n in (0, 5, 100)]
        assert losses[0] > losses[1] > losses[2]


def test_no_iterations_gives_the_regressor(photo, models):
    result = fit(photo, boxes=BOX, models=models, iterations=0, progress=False)
    assert np.array_equal(result.theta, result.regressed)
    assert result.iterations[0] == 0
    assert result.status == [Status.MAX_ITERATIONS]


def test_uncertainty_can_be_left_out(photo, quick):
    assert fit(photo, boxes=BOX, uncertainty=False, **quick).aus_sd.isna().all(axis=None)
    sd = fit(photo, boxes=BOX, **quick).aus_sd
    assert (sd.drop(columns="AU11") >= 0).all(axis=None)
    assert (sd.drop(columns="AU11") > 0.001).any(axis=None)


def test_backends_agree(photo, models):
    options = {"models": models, "boxes": BOX, "iterations": 50, "progress": False}
    native = fit(photo, **options)
    reference = fit(photo, backend="reference", **options)
    pd.testing.assert_frame_equal(native.aus, reference.aus, atol=1e-4, rtol=0)


def test_models_are_loaded_once(photo, models, monkeypatch):
    calls = []
    monkeypatch.setattr(fitting, "load_models", lambda device: calls.append(device) or models)
    fitting.shipped_models.cache_clear()
    for _ in range(2):
        fit([photo, photo], boxes=[BOX, BOX], iterations=1, progress=False, device="cpu")
    fitting.shipped_models.cache_clear()
    assert calls == [torch.device("cpu")]


def test_a_callers_inference_mode_does_no_harm(photo, models):
    options = {"models": models, "boxes": BOX, "iterations": 2, "progress": False}
    for objective in ("feature", "image"):
        with torch.inference_mode():
            inside = fit(photo, objective=objective, **options)
        assert_same_bits(inside, fit(photo, objective=objective, **options))
