"""Every kind of input gives the same pixels; every wrong one an error that says so."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.data import astronaut

from genet_ext.images import UnreadableImage, iter_sources, list_photos


@pytest.fixture
def photo():
    return astronaut()[:120, 160:300].copy()


def read(imgs):
    sources, _ = iter_sources(imgs)
    return [source.read() for source in sources]


def as_kinds(photo, folder):
    Image.fromarray(photo).save(folder / "photo.png")
    chw = torch.from_numpy(photo).permute(2, 0, 1)
    opaque = np.dstack([photo, np.full(photo.shape[:2], 255, np.uint8)])
    return {
        "path": folder / "photo.png",
        "str": str(folder / "photo.png"),
        "PIL": Image.fromarray(photo),
        "numpy": photo,
        "numpy, not contiguous": np.asfortranarray(photo),
        "numpy batch": photo[None],
        "numpy uint16": photo.astype(np.uint16) * 257,
        "numpy float32": photo.astype(np.float32) / 255,
        "numpy float64": photo / 255.0,
        "RGBA": opaque,
        "PIL RGBA": Image.fromarray(opaque),
        "torch": chw,
        "torch batch": chw[None],
        "torch float32": chw[None].float() / 255,
        "torch float64": chw.double() / 255,
        "list": [photo],
        "iterator": iter([photo]),
        "generator of batches": (batch for batch in [chw[None]]),
    }


def test_every_kind_of_input_gives_the_same_pixels(photo, tmp_path):
    for kind, imgs in as_kinds(photo, tmp_path).items():
        (pixels,) = read(imgs)
        assert pixels.dtype == np.uint8, kind
        assert np.array_equal(pixels, photo), kind


def test_mixed_list_keeps_its_order_and_names(photo, tmp_path):
    Image.fromarray(photo).save(tmp_path / "a.png")
    batch = torch.from_numpy(np.stack([photo, photo[::-1]])).permute(0, 3, 1, 2)
    sources, count = iter_sources([tmp_path / "a.png", batch, photo])
    sources = list(sources)
    assert count == len(sources) == 4
    assert [s.index for s in sources] == [0, 1, 2, 3]
    assert [s.name for s in sources] == [str(tmp_path / "a.png"), "image 1", "image 2", "image 3"]
    assert np.array_equal(sources[2].read(), photo[::-1])


def test_grey_in_every_form(photo, tmp_path):
    grey = photo[:, :, 0]
    expected = np.repeat(grey[:, :, None], 3, 2)
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "grey16.png")
    Image.fromarray(grey).save(tmp_path / "grey.png")
    Image.fromarray(grey.astype(np.float32) / 255).save(tmp_path / "grey.tif")
    tensor = torch.from_numpy(grey)[None]
    files = (tmp_path / name for name in ("grey.png", "grey16.png", "grey.tif"))
    for imgs in (*files, grey, grey[:, :, None], tensor):
        (pixels,) = read(imgs)
        assert np.array_equal(pixels, expected), imgs


def test_transparency_is_laid_over_white():
    clear_black = np.zeros((4, 4, 4), np.uint8)
    half_black = np.dstack([np.zeros((4, 4, 3), np.uint8), np.full((4, 4), 128, np.uint8)])
    assert (read(clear_black)[0] == 255).all()
    assert (read(half_black)[0] == 127).all()
    assert np.array_equal(read(Image.fromarray(half_black))[0], read(half_black)[0])
    palette = Image.fromarray(np.zeros((4, 4, 3), np.uint8)).quantize(4)
    palette.info["transparency"] = 0
    assert (read(palette)[0] == 255).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_honoured(photo, tmp_path, orientation):
    image = Image.fromarray(photo)
    exif = image.getexif()
    exif[0x0112] = orientation
    image.save(tmp_path / "turned.png", exif=exif)
    undo = {
        1: lambda x: x,
        2: lambda x: x[:, ::-1],
        3: lambda x: x[::-1, ::-1],
        4: lambda x: x[::-1],
        5: lambda x: x.transpose(1, 0, 2),
        6: lambda x: np.rot90(x, -1),
        7: lambda x: np.rot90(x, 2).transpose(1, 0, 2),
        8: lambda x: np.rot90(x, 1),
    }
    assert np.array_equal(read(tmp_path / "turned.png")[0], undo[orientation](photo))


def test_damaged_files_are_unreadable_with_a_reason(photo, tmp_path):
    (tmp_path / "text.jpg").write_text("this is no photograph")
    (tmp_path / "empty.png").touch()
    buffer = io.BytesIO()
    Image.fromarray(photo).save(buffer, "jpeg")
    (tmp_path / "cut.jpg").write_bytes(buffer.getvalue()[:600])
    for name, reason in (
        ("text.jpg", "not a readable image"),
        ("empty.png", "not a readable image"),
        ("cut.jpg", "not a readable image"),
        ("missing.jpg", "no such file"),
    ):
        with pytest.raises(UnreadableImage, match=reason):
            read([tmp_path / name])


@pytest.mark.parametrize(
    ("imgs", "error", "message"),
    [
        ("nope.jpg", FileNotFoundError, r"imgs: no such file: 'nope.jpg'"),
        (".", ValueError, r"imgs: expected a file, got the folder"),
        ([], ValueError, r"imgs: expected at least one image, got an empty list"),
        (None, TypeError, r"imgs: expected a path, .* got NoneType"),
        (3, TypeError, r"imgs: expected a path, .* got int"),
        ([np.zeros((8, 8, 3), np.uint8), None], TypeError, r"imgs\[1\]: expected .* got NoneType"),
        (np.zeros((8, 8, 3), np.int64), TypeError, r"imgs: expected dtype uint8, uint16, .* got int64"),
        (np.zeros((3, 8, 8), np.uint8), ValueError, r"got shape \[3, 8, 8\]; channels come last"),
        (np.zeros((8, 8, 3)) + 2, ValueError, r"imgs: expected float values in \[0, 1\], got .* 2 to 2"),
        (np.full((8, 8, 3), np.nan), ValueError, r"imgs: expected float values in \[0, 1\], got .* nan"),
        (torch.zeros(8, 8, 3), ValueError, r"expected a tensor \[N, 3, H, W\].* got shape \[8, 8, 3\]"),
        (torch.zeros(3, 8, 8, dtype=torch.int32), TypeError, r"expected dtype uint8, .* got torch.int32"),
        (torch.zeros(3, 8, 8) - 1, ValueError, r"expected float values in \[0, 1\], got values from -1"),
        (torch.zeros(0, 3, 8, 8), ValueError, r"expected at least one image, got shape \[0, 3, 8, 8\]"),
        (np.zeros((0, 8, 3), np.uint8), ValueError, r"got shape \[0, 8, 3\]"),
    ],
)
def test_wrong_arguments_are_named(imgs, error, message):
    with pytest.raises(error, match=message):
        iter_sources(imgs)


def test_wrong_item_of_an_iterator_is_one_unreadable_image(photo):
    sources, count = iter_sources(iter([photo, None, photo]))
    assert count is None
    first, wrong, last = sources
    with pytest.raises(UnreadableImage, match=r"imgs\[1\]: expected"):
        wrong.read()
    assert np.array_equal(first.read(), last.read())


def test_list_photos_is_sorted_and_leaves_other_files(tmp_path):
    for name in ("b.JPG", "a.png", "notes.txt"):
        (tmp_path / name).touch()
    assert [path.name for path in list_photos(tmp_path)] == ["a.png", "b.JPG"]
