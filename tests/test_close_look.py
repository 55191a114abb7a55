"""The close look: where it looks, how finely it finds a point, and what comes of it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny_models import tiny_models

from genet_ext import faces
from genet_ext.extractors import CLOSE_SIZE, CloseLook
from genet_ext.extractors.close_look import EYES, MOUTH, STRIDE, WINDOWS
from genet_ext.faces import align_faces, both_ways, faces_of, look, look_closely
from genet_ext.images import Source
from genet_ext.parameters import load_parameter_space

PARAMETERS, FEATURES = 7, 5


@pytest.fixture
def close() -> CloseLook:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return CloseLook(PARAMETERS, FEATURES, (4, 8, 8, 8), (1, 1, 1)).eval().requires_grad_(False)


def windows(count: int, seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.rand(count, 3, w.height, w.width, generator=generator) for w in WINDOWS]


def test_windows_lie_in_the_middle_so_that_a_mirror_changes_nothing_about_them() -> None:
    columns = torch.arange(CLOSE_SIZE).expand(1, 1, CLOSE_SIZE, CLOSE_SIZE)
    for window in WINDOWS:
        cut = window.cut(columns)
        assert cut.shape == (1, 1, window.height, window.width)
        assert torch.equal(window.cut(columns.flip(3)), cut.flip(3))
        assert window.height % 16 == window.width % 16 == 0  # the trunk halves them four times


def test_a_point_is_found_between_the_cells_of_its_heat_map(close: CloseLook, monkeypatch) -> None:
    """All heat in two neighbouring cells, a third of it in the first."""
    maps = torch.zeros(1, 48, EYES.height // STRIDE, EYES.width // STRIDE)
    maps[0, 0, 3, 10], maps[0, 0, 3, 11] = 50, 50 + np.log(2)
    monkeypatch.setattr(
        close, "_pyramid", lambda pixels: maps[:, :, : pixels.shape[2] // 4, : pixels.shape[3] // 4]
    )
    for heat in close.heat:
        heat.weight.zero_()
        heat.bias.zero_()
        heat.weight[:, 0] = 1
    _, eyes, _ = close(torch.zeros(1, FEATURES), *windows(1))
    expected = torch.tensor([1.5 + STRIDE * (10 + 2 / 3), 1.5 + STRIDE * 3])
    assert torch.allclose(eyes, expected.expand_as(eyes), atol=1e-4)


def test_heat_everywhere_is_the_middle_of_the_window(close: CloseLook) -> None:
    for heat in close.heat:
        heat.weight.zero_()
        heat.bias.zero_()
    correction, *points = close(torch.zeros(2, FEATURES), *windows(2))
    assert correction.shape == (2, PARAMETERS)
    for window, found in zip(WINDOWS, points, strict=True):
        assert found.shape == (2, window.points, 2)
        middle = torch.tensor([(window.width - 1) / 2, (window.height - 1) / 2])
        assert torch.allclose(found, middle.expand_as(found), atol=1e-3)


def test_each_window_has_its_say_and_nothing_else_has() -> None:
    extractor = tiny_models(0).extractor
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randint(256, (1, 3, 128, 128), dtype=torch.uint8, generator=generator)
    close_ups = torch.randint(256, (1, 3, CLOSE_SIZE, CLOSE_SIZE), dtype=torch.uint8, generator=generator)
    seen = look(extractor, pixels)

    def read(window=None) -> torch.Tensor:
        changed = close_ups.clone()
        if window is None:
            keep = torch.zeros(1, 1, CLOSE_SIZE, CLOSE_SIZE, dtype=torch.bool)
            for each in WINDOWS:
                each.cut(keep)[:] = True
            changed = torch.where(keep, changed, 0)
        else:
            window.cut(changed)[:] = 0
        return look_closely(extractor, seen, pixels, changed)

    whole = look_closely(extractor, seen, pixels, close_ups)
    assert torch.equal(read(), whole)
    assert not torch.allclose(read(EYES), whole, atol=1e-4)
    assert not torch.allclose(read(MOUTH), whole, atol=1e-4)


def test_a_face_and_its_mirror_image_are_read_alike_closely() -> None:
    extractor, space = tiny_models(0).extractor, load_parameter_space()
    generator = torch.Generator().manual_seed(2)
    pixels = torch.randint(256, (3, 3, 128, 128), dtype=torch.uint8, generator=generator)
    close_ups = torch.randint(256, (3, 3, CLOSE_SIZE, CLOSE_SIZE), dtype=torch.uint8, generator=generator)
    read, mirrored = (
        look_closely(extractor, look(extractor, crop), crop, large)
        for crop, large in ((pixels, close_ups), (pixels.flip(3), close_ups.flip(3)))
    )
    assert torch.allclose(space.mirrored(read), mirrored, atol=1e-5)


def test_without_a_correction_the_crops_alone_speak() -> None:
    extractor = tiny_models(0).extractor
    extractor.close.correction.weight.zero_()
    extractor.close.correction.bias.zero_()
    pixels = torch.randint(
        256, (2, 3, 128, 128), dtype=torch.uint8, generator=torch.Generator().manual_seed(3)
    )
    close_ups = torch.zeros(2, 3, CLOSE_SIZE, CLOSE_SIZE, dtype=torch.uint8)
    there, back = look(extractor, pixels), look(extractor, pixels.flip(3))
    read = look_closely(extractor, there, pixels, close_ups)
    assert torch.allclose(read, both_ways(there.parameters, back.parameters), atol=1e-6)


def test_the_close_up_shows_what_the_crop_shows(monkeypatch) -> None:
    """Halved, it is the crop, for a photograph large enough to have been reduced and for a small one."""
    given = {}

    def closely(extractor, seen, pixels, close_ups):
        given.update(pixels=pixels, close_ups=close_ups)
        return seen.parameters

    monkeypatch.setattr(faces, "look_closely", closely)
    y, x = np.mgrid[0:600, 0:600] / 40
    photo = (127 + 60 * np.sin(x) + 60 * np.cos(y + x / 3)).astype(np.uint8)[..., None].repeat(3, 2)
    for box in ([150.0, 150, 450, 450], [250.0, 250, 330, 330]):
        rows = faces_of(Source(0, "waves", photo), np.array([box]))
        align_faces(rows, tiny_models(0).extractor, torch.device("cpu"))
        halved = torch.nn.functional.avg_pool2d(given["close_ups"].float(), 2)
        assert given["close_ups"].shape == (1, 3, CLOSE_SIZE, CLOSE_SIZE)
        assert (halved - given["pixels"].float()).abs().max() < 6
