"""Reading images: whatever the caller has -> a stream of uint8 RGB photographs, one after another."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageOps

UInt8Array: TypeAlias = npt.NDArray[np.uint8]

PHOTO_SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"})
EXPECTED = (
    "a path, a PIL image, a numpy array [H, W], [H, W, 1|3|4] or [N, H, W, 3] (uint8, uint16, or float in "
    "[0, 1]), a torch tensor [3, H, W] or [N, 3, H, W] (uint8, or float in [0, 1]), or a list or iterator of "
    "these"
)


class UnreadableImage(ValueError):
    """One image of a stream cannot be used; the others can."""


@dataclass(frozen=True)
class Source:
    """One photograph, not yet decoded.

    Attributes:
        index: its position among the inputs, from 0.
        name: its path, or ``"image 3"`` for an image given as an array.
        item: path, PIL image or array, checked for type, dtype and shape.
    """

    index: int
    name: str
    item: Any

    def read(self) -> UInt8Array:
        """Decode: uint8 [H, W, 3]. Raises :class:`UnreadableImage` with the reason."""
        return _decode(self.item)


def iter_sources(imgs: Any) -> tuple[Iterator[Source], int | None]:
    """The photographs of ``imgs``, in order and without decoding any, and how many (None: an iterator, not
    known).

    A list is checked as a whole before its first photograph is given out: a wrong type, dtype or shape is the
    caller's mistake and raises at once. In an iterator the same mistake can only be met on the way; there it
    makes that one photograph unreadable. A missing file raises for a single path, and is one unreadable
    photograph in a list.

    Raises:
        TypeError, ValueError, FileNotFoundError: naming the argument, what was expected and what came.
    """
    if isinstance(imgs, (str, os.PathLike)):
        path = Path(imgs)
        if path.is_dir():
            raise ValueError(
                f"imgs: expected a file, got the folder {str(path)!r}; pass the files in it as a list"
            )
        if not path.exists():
            raise FileNotFoundError(f"imgs: no such file: {str(path)!r}")
        return _numbered([imgs]), 1
    if isinstance(imgs, (np.ndarray, torch.Tensor, Image.Image)):
        items = list(_split(imgs, "imgs"))
        return _numbered(items), len(items)
    if isinstance(imgs, (list, tuple)):
        if not imgs:
            raise ValueError(f"imgs: expected at least one image, got an empty {type(imgs).__name__}")
        items = [part for i, item in enumerate(imgs) for part in _split(item, f"imgs[{i}]")]
        return _numbered(items), len(items)
    if isinstance(imgs, (dict, bytes)) or not isinstance(imgs, Iterable):
        raise TypeError(f"imgs: expected {EXPECTED}; got {type(imgs).__name__}")
    return _numbered(_stream(imgs)), None


def list_photos(path: str | Path) -> list[Path]:
    """The photographs in a folder (not below it), sorted by name; for a file, that file."""
    path = Path(path)
    if not path.is_dir():
        return [path]
    return sorted(p for p in path.iterdir() if p.suffix.lower() in PHOTO_SUFFIXES)


def _numbered(items: Iterable[Any]) -> Iterator[Source]:
    for index, item in enumerate(items):
        is_path = isinstance(item, (str, os.PathLike))
        yield Source(index, os.fspath(item) if is_path else f"image {index}", item)


def _stream(items: Iterable[Any]) -> Iterator[Any]:
    for position, item in enumerate(items):
        try:
            yield from _split(item, f"imgs[{position}]")
        except (TypeError, ValueError) as error:
            yield UnreadableImage(str(error))


def _split(item: Any, argument: str) -> Iterable[Any]:
    """Check one element; a batch array is split into its photographs."""
    if isinstance(item, (str, os.PathLike, Image.Image)):
        return [item]
    if isinstance(item, torch.Tensor):
        return _split_tensor(item, argument)
    if isinstance(item, np.ndarray):
        return _split_array(item, argument)
    raise TypeError(f"{argument}: expected {EXPECTED}; got {type(item).__name__}")


def _split_tensor(tensor: torch.Tensor, argument: str) -> list[torch.Tensor]:
    shape = tuple(tensor.shape)
    if tensor.ndim not in (3, 4) or shape[-3] not in (1, 3, 4) or 0 in shape[-2:]:
        raise ValueError(f"{argument}: expected a tensor [N, 3, H, W] or [3, H, W], got shape {list(shape)}")
    if not (tensor.dtype == torch.uint8 or tensor.is_floating_point()):
        raise TypeError(f"{argument}: expected dtype uint8, or float in [0, 1]; got {tensor.dtype}")
    tensor = tensor.detach()
    if tensor.is_floating_point() and tensor.numel():
        _check_range(tensor.amin().item(), tensor.amax().item(), argument)
    batch = tensor if tensor.ndim == 4 else tensor[None]
    if batch.shape[0] == 0:
        raise ValueError(f"{argument}: expected at least one image, got shape {list(shape)}")
    return list(batch.unbind(0))


def _split_array(array: npt.NDArray[Any], argument: str) -> list[npt.NDArray[Any]]:
    shape = array.shape
    photo = array.ndim == 2 or (array.ndim == 3 and shape[2] in (1, 3, 4))
    batch = array.ndim == 4 and shape[3] in (1, 3, 4)
    if not (photo or batch) or 0 in shape:
        hint = (
            "; channels come last in numpy arrays" if array.ndim in (3, 4) and shape[-3] in (1, 3, 4) else ""
        )
        raise ValueError(
            f"{argument}: expected a numpy array [H, W], [H, W, 3], [H, W, 4] or [N, H, W, 3], "
            f"got shape {list(shape)}{hint}"
        )
    if array.dtype not in (np.uint8, np.uint16) and not np.issubdtype(array.dtype, np.floating):
        raise TypeError(f"{argument}: expected dtype uint8, uint16, or float in [0, 1]; got {array.dtype}")
    if np.issubdtype(array.dtype, np.floating):
        _check_range(float(array.min()), float(array.max()), argument)
    return list(array) if batch else [array]


def _check_range(lowest: float, highest: float, argument: str) -> None:
    if not (lowest >= 0 and highest <= 1):  # also true for NaN
        raise ValueError(
            f"{argument}: expected float values in [0, 1], got values from {lowest:g} to {highest:g}"
        )


def _decode(item: Any) -> UInt8Array:
    if isinstance(item, UnreadableImage):
        raise item
    if isinstance(item, (str, os.PathLike)):
        return _decode_file(Path(item))
    if isinstance(item, Image.Image):
        return _decode_pil(item)
    if isinstance(item, torch.Tensor):
        channels_last = item.permute(1, 2, 0)
        if item.is_floating_point():
            channels_last = channels_last.float()
        item = channels_last.cpu().numpy()
    return _decode_array(item)


def _decode_file(path: Path) -> UInt8Array:
    if not path.exists():
        raise UnreadableImage("no such file")
    try:
        with Image.open(path) as image:
            return _decode_pil(image)
    except UnreadableImage:
        raise
    # Pillow's decoders raise many kinds of error on a damaged file (OSError, SyntaxError, struct.error, ...).
    except Exception as error:
        raise UnreadableImage(f"not a readable image: {error}") from error


def _decode_pil(image: Image.Image) -> UInt8Array:
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I") or image.mode == "F":
        return _decode_array(_high_depth(image))
    if image.has_transparency_data:
        image = image.convert("RGBA")
    elif image.mode != "RGB":
        image = image.convert("RGB")
    return _decode_array(np.asarray(image))


def _high_depth(image: Image.Image) -> npt.NDArray[Any]:
    """A 16-bit grey image as uint16; a float image as float in [0, 1]."""
    array = np.asarray(image)
    lowest, highest = float(array.min()), float(array.max())
    if image.mode == "F":
        if not (lowest >= 0 and highest <= 1):
            raise UnreadableImage(f"float image with values from {lowest:g} to {highest:g}, expected [0, 1]")
        return array
    if lowest < 0 or highest > 65535:
        raise UnreadableImage(f"integer image with values from {lowest:g} to {highest:g}, expected 16 bits")
    return array.astype(np.uint16)


def _decode_array(array: npt.NDArray[Any]) -> UInt8Array:
    """Any accepted array -> uint8 [H, W, 3]; transparency is laid over white."""
    if array.dtype == np.uint16:
        array = ((array.astype(np.uint32) + 128) // 257).astype(np.uint8)
    elif array.dtype != np.uint8:
        array = np.rint(array.astype(np.float64) * 255).astype(np.uint8)
    if array.ndim == 2:
        array = array[:, :, None]
    if array.shape[2] == 4:
        alpha = array[:, :, 3:].astype(np.uint32)
        over_white = array[:, :, :3] * alpha + 255 * (255 - alpha)
        array = ((over_white + 127) // 255).astype(np.uint8)
    elif array.shape[2] == 1:
        array = np.repeat(array, 3, axis=2)
    return np.ascontiguousarray(array)
