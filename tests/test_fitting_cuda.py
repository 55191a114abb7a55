"""The whole path on a GPU, with the shipped networks: the CPU's answers are the measure."""

from typing import Any

import numpy as np
import pytest
import torch
from photographs import ASTRONAUT_BOX as BOX
from same_bits import assert_same_bits
from skimage.data import astronaut

from genet_ext import FitResult, Models, Status, fit, load_models

pytestmark = pytest.mark.cuda

FACES = 9  # of the crowd; more than a chunk of the CPU's, less than one of the GPU's
# A crop that its own landmarks would move by just the limit may be taken once more on one device.
AU_TOLERANCE, POSE_TOLERANCE = 0.005, 0.2  # of 1, degrees
# Adam's first steps have the size of its rate, whatever the gradient's: where an AU hardly changes the
# picture, the last digits decide which way they go (.008 seen on an H200).
IMAGE_AU_TOLERANCE = 0.02

WAYS: dict[str, dict[str, Any]] = {
    "each picture for itself": {},
    "one person": {"identity": "shared"},
    "a film of one person": {"identity": "shared", "smoothing": 0.5},
    "the regressor alone": {"iterations": 0},
    "through the image generator": {"objective": "image", "iterations": 3},
}


@pytest.fixture(scope="module")
def models() -> Models:
    return load_models("cuda")


@pytest.fixture(scope="module")
def crowd() -> list[np.ndarray]:
    """Pictures of one face, shifted and in other colours."""
    rng = np.random.default_rng(0)
    return [
        np.roll(astronaut(), rng.integers(-12, 13, 2), (0, 1)) ^ rng.integers(0, 40, 3, np.uint8)
        for _ in range(FACES)
    ]


def fitted(imgs: Any, models: Models, **settings: Any) -> FitResult:
    return fit(imgs, boxes=[BOX] * len(imgs), models=models, progress=False, **settings)


def assert_alike(one: FitResult, other: FitResult, au_tolerance: float = AU_TOLERANCE) -> None:
    assert [s.fitted for s in one.status] == [s.fitted for s in other.status]
    for name in ("aus", "aus_sd"):
        np.testing.assert_allclose(
            getattr(one, name), getattr(other, name), rtol=0, atol=au_tolerance, err_msg=name
        )
    np.testing.assert_allclose(one.pose, other.pose, rtol=0, atol=POSE_TOLERANCE, err_msg="pose")


@pytest.mark.parametrize("way", WAYS)
def test_the_gpu_says_what_the_cpu_says(way: str, models: Models, crowd: list[np.ndarray]) -> None:
    one, other = (fitted(crowd, m, **WAYS[way]) for m in (models, load_models("cpu")))
    assert other.fitted.all()
    assert np.nanmax(other.aus) > 0.3  # a smile, so that there is something to agree on
    assert_alike(one, other, IMAGE_AU_TOLERANCE if "objective" in WAYS[way] else AU_TOLERANCE)


def test_a_neutral_picture_is_taken_off_on_the_gpu(models: Models, crowd: list[np.ndarray]) -> None:
    one, other = (fitted(crowd, m, neutral=astronaut()) for m in (models, load_models("cpu")))
    assert_alike(one, other)


def test_faces_are_found_on_the_gpu_machine(models: Models) -> None:
    result = fit(astronaut(), models=models, progress=False)
    assert result.fitted.all()
    assert np.abs(result.box[0] - BOX).max() < 12


def test_alone_and_among_many_bit_for_bit_on_the_gpu(models: Models, crowd: list[np.ndarray]) -> None:
    together = fitted(crowd, models)
    for row in (0, FACES - 1):
        assert_same_bits(together[row], fitted(crowd[row : row + 1], models))
    backwards = fitted(crowd[::-1], models)
    assert np.array_equal(backwards.theta[::-1], together.theta)


def test_a_picture_without_a_face_spoils_nothing_on_the_gpu(models: Models, crowd: list[np.ndarray]) -> None:
    boxes = [[BOX], np.empty((0, 4)), [BOX]]
    imgs = [crowd[0], np.zeros((64, 64, 3), np.uint8), crowd[1]]
    with pytest.warns(UserWarning, match="no face"):
        result = fit(imgs, boxes=boxes, models=models, progress=False)
    assert result.status[1] == Status.NO_FACE
    assert np.isnan(result.aus.iloc[1]).all()
    assert np.array_equal(result.theta[[0, 2]], fitted(crowd[:2], models).theta)


def test_the_tensor_cores_change_no_au_by_much(models: Models, crowd: list[np.ndarray]) -> None:
    assert_alike(fitted(crowd, models, precision="tensor"), fitted(crowd, models))


def test_memory_on_the_gpu_does_not_grow_with_the_pictures(models: Models, crowd: list[np.ndarray]) -> None:
    fitted(crowd, models, batch_size=4)
    used = []
    for times in (1, 3):
        torch.cuda.reset_peak_memory_stats()
        fitted(crowd * times, models, batch_size=4)
        used.append(torch.cuda.max_memory_allocated())
    assert used[1] <= 1.02 * used[0]
