"""Photographs for the benchmarks of the whole path: a folder of them, or made from renders."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from genet_ext.images import UInt8Array, list_photos
from python.evaluate.pictures import load_test_set

WIDTH, HEIGHT = 1280, 960  # px of a made photograph
PICTURE_SIDE = 480  # px the render takes in it: about 270 px for the face's box
JPEG_QUALITY = 92


def photographs(folder: Path, count: int, work: Path) -> list[Path]:
    """``count`` photographs of a folder, one after another and again from the first where it has fewer.

    A folder of renders (python/render) is turned into photographs first: JPEG files in ``work``, the face
    before a blurred background of its own colours.
    """
    if (folder / "dataset.json").is_file():
        files = []
        for number, picture in enumerate(pictures(folder, count)):
            files.append(work / f"{number:06}.jpg")
            _photograph(picture).save(files[-1], quality=JPEG_QUALITY)
    else:
        files = list_photos(folder)
    if not files:
        raise FileNotFoundError(f"data: expected renders or photographs in {folder}")
    return [files[number % len(files)] for number in range(count)]


def pictures(folder: Path, count: int) -> Iterator[UInt8Array]:
    """The first ``count`` renders of a folder (or all) as test pictures, uint8 [H, W, 3]."""
    return load_test_set(folder, limit=count).pictures()


def _photograph(picture: UInt8Array) -> Image.Image:
    image = Image.fromarray(picture)
    scene = image.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC).filter(ImageFilter.GaussianBlur(20))
    corner = (WIDTH - PICTURE_SIDE) // 2, (HEIGHT - PICTURE_SIDE) // 2
    scene.paste(image.resize((PICTURE_SIDE, PICTURE_SIDE), Image.Resampling.BICUBIC), corner)
    noise = np.random.default_rng(0).normal(0, 2, (HEIGHT, WIDTH, 1))  # a camera's: nothing is perfectly flat
    return Image.fromarray(np.clip(np.asarray(scene) + noise, 0, 255).astype(np.uint8))
