"""From photographs to aligned face crops.

A face is found (or its box is given), cut out of its photograph once, and then aligned: the extractor's own
landmarks on a loose crop give a tighter one, until the crop stays where it is. Every step treats one face at
a time.

Coordinates are pixels, x right, y down, pixel centres at integers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sized
from dataclasses import dataclass, field, replace
from itertools import repeat
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from genet_ext.batching import in_chunks
from genet_ext.extractors.face_cnn import CROP_SIZE, LANDMARKS, Extractor, ExtractorOutput
from genet_ext.face_finder import find_faces
from genet_ext.images import Source, UInt8Array, UnreadableImage
from genet_ext.parameters import load_parameter_space
from genet_ext.similarity import FloatArray, invert, scale_of, similarity_between, transform
from genet_ext.status import Status

TEMPLATE: FloatArray = np.array([[44.5, 44.0], [82.5, 44.0], [63.5, 61.71]])
"""Where alignment puts the eye centre at the image's left, the one at its right, and the nose tip (landmark
30), in px of the 128 px crop: 38 px between the eyes, the nose as in the neutral ICT-FaceKit face seen from
the front."""

EYE_LEFT, EYE_RIGHT, NOSE_TIP = slice(36, 42), slice(42, 48), 30

# Where each of the 68 landmarks comes from in a mirror: jaw, brows, nose, eyes, outer and inner lips.
MIRROR_ORDER = [
    *range(16, -1, -1),
    *range(26, 16, -1),
    *range(27, 31), *range(35, 30, -1),
    45, 44, 43, 42, 47, 46, 39, 38, 37, 36, 41, 40,
    *range(54, 47, -1), *range(59, 54, -1),
    *range(64, 59, -1), *range(67, 64, -1),
]  # fmt: skip

# A face box (finders draw them from the forehead or the brows to the chin) lies about so in an aligned crop.
BOX_CENTRE, BOX_SIDE = np.array([63.5, 54.0]), 108.0
MAX_LOOKS = 3  # the last one's landmarks no longer move the crop
SETTLED = 0.5  # px: landmarks that would move the crop by less leave it; at 1 px accuracy begins to suffer
# A look that would change the crop's scale by more has not found a face's landmarks; it moves nothing.
MAX_SCALE_CHANGE = 2.0
PATCH_MARGIN = 2.2  # side of the patch cut from the photograph, in sides of the first, loose crop
MIN_BOX = 8.0  # px, smaller boxes hold no expression
DISPLAY_SIZE = 256  # px, side of the crop kept for plots
PIXELS_PER_SAMPLE = 1.4  # image px that a crop pixel may stand for, each way; more alias


# --- where crops lie ------------------------------------------------------------------------------------


def align_to_template(landmarks: npt.ArrayLike) -> FloatArray:
    """The similarity that takes 68 landmarks to the crop template, least squares over eye centres and nose
    tip.

    Args:
        landmarks: [B, 68, 2] px.

    Returns:
        float64 [B, 2, 3]: ``crop = S[:, :, :2] @ photo + S[:, :, 2]``. Not finite where the landmarks are
        not, or where the three points coincide.
    """
    points = np.asarray(landmarks, np.float64)
    if points.ndim != 3 or points.shape[1:] != (LANDMARKS, 2):
        raise ValueError(f"landmarks: expected shape [B, 68, 2], got {list(points.shape)}")
    source = np.stack(
        [points[:, EYE_LEFT].mean(1), points[:, EYE_RIGHT].mean(1), points[:, NOSE_TIP]], axis=1
    )
    return similarity_between(source, np.broadcast_to(TEMPLATE, source.shape))


def box_to_similarity(box: npt.ArrayLike) -> FloatArray:
    """The upright similarity [2, 3] that puts a face box (x1, y1, x2, y2 in px) where boxes lie in crops."""
    x1, y1, x2, y2 = np.asarray(box, np.float64)
    scale = BOX_SIDE / max(x2 - x1, y2 - y1)
    shift = BOX_CENTRE - scale * np.array([x1 + x2, y1 + y2]) / 2
    return np.array([[scale, 0.0, shift[0]], [0.0, scale, shift[1]]])


def crop(image: UInt8Array, similarity: FloatArray, size: int = CROP_SIZE) -> UInt8Array:
    """The aligned crop of a face.

    A large face is first reduced by a whole number, so that it does not alias, then sampled bilinearly, as
    training does. Beyond the image its border is repeated.

    Args:
        image: uint8 [H, W, 3].
        similarity: [2, 3], image px -> px of a 128 px crop, as :func:`align_to_template` gives it.
        size: side of the crop in px; another size shows the same field of view.

    Returns:
        uint8 [size, size, 3].
    """
    zoom = size / CROP_SIZE
    to_size = np.array([[zoom, 0, (zoom - 1) / 2], [0, zoom, (zoom - 1) / 2]])
    linear = to_size[:, :2] @ similarity[:, :2]
    inverse = invert(np.concatenate([linear, to_size[:, :2] @ similarity[:, 2:] + to_size[:, 2:]], axis=1))
    shrink = max(1, int(np.ceil(scale_of(inverse) / PIXELS_PER_SAMPLE - 1e-6)))
    pixels = Image.fromarray(image)
    if shrink > 1:
        pixels = pixels.reduce(shrink)
        inverse = inverse / shrink - [0, 0, (shrink - 1) / (2 * shrink)]
    corners = transform(inverse, np.array([[-1, -1], [size, -1], [-1, size], [size, size]]))
    pixels, origin = _pad_to_cover(pixels, corners)
    # Pillow gives the middle of output pixel u as u + 0.5 and takes the middle of input pixel i as i + 0.5.
    a, b = inverse[:, 0], inverse[:, 1]
    c = inverse[:, 2] - (a + b) / 2 + 0.5 - origin
    coefficients = (a[0], b[0], c[0], a[1], b[1], c[1])
    affine, bilinear = Image.Transform.AFFINE, Image.Resampling.BILINEAR
    return np.asarray(pixels.transform((size, size), affine, coefficients, bilinear))


def _pad_to_cover(image: Image.Image, corners: FloatArray) -> tuple[Image.Image, FloatArray]:
    """The image, its border repeated where the corners' rectangle leaves it, and the new origin (x, y)."""
    low = np.floor(corners.min(0)).astype(int) - 1
    high = np.ceil(corners.max(0)).astype(int) + 2
    left, top = np.maximum(-low, 0)
    right, bottom = np.maximum(high - image.size, 0)
    if not (left or top or right or bottom):
        return image, np.zeros(2)
    padded = np.pad(np.asarray(image), ((top, bottom), (left, right), (0, 0)), mode="edge")
    return Image.fromarray(padded), np.array([-left, -top], np.float64)


# --- one face -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Patch:
    """The neighbourhood of a face, cut from its photograph and reduced to the resolution that crops need."""

    pixels: UInt8Array  # [h, w, 3]
    to_photo: FloatArray  # [2, 3], patch px -> photograph px
    first: FloatArray  # [2, 3], photograph px -> px of the first crop

    def crop(self, similarity: FloatArray, size: int = CROP_SIZE) -> UInt8Array:
        """Crop by a similarity in photograph px; see :func:`crop`."""
        linear = similarity[:, :2] @ self.to_photo[:, :2]
        shift = similarity[:, :2] @ self.to_photo[:, 2:] + similarity[:, 2:]
        return crop(self.pixels, np.concatenate([linear, shift], axis=1), size)


def cut_patch(image: UInt8Array, first: FloatArray) -> Patch:
    """The patch around the loose crop that the similarity ``first`` [2, 3] describes."""
    inverse = invert(first)
    centre = transform(inverse, np.full((1, 2), (CROP_SIZE - 1) / 2))[0]
    half = PATCH_MARGIN / 2 * CROP_SIZE / scale_of(first)
    height, width = image.shape[:2]
    # Whole blocks of the reduction, counted from the patch's own corner.
    step = max(1, int(CROP_SIZE / (DISPLAY_SIZE * scale_of(first))))
    x1, y1 = np.clip(np.floor(centre - half), 0, None).astype(int)
    x2, y2 = np.minimum(np.ceil(centre + half).astype(int) + 1, (width, height))
    x2, y2 = max(x2, min(x1 + step, width)), max(y2, min(y1 + step, height))
    piece = np.ascontiguousarray(image[y1:y2, x1:x2])
    if step > 1:
        piece = np.asarray(Image.fromarray(piece).reduce(step))
    middle = (step - 1) / 2
    to_photo = np.array([[step, 0, x1 + middle], [0, step, y1 + middle]], np.float64)
    return Patch(piece, to_photo, first)


@dataclass(frozen=True)
class Face:
    """One row of the result to be: a face, or the reason why there is none.

    Attributes:
        image, source: the photograph's position among the inputs, and its name.
        number: position of the face within its photograph, from 0.
        box: [4] x1, y1, x2, y2 in px; NaN where there is no face.
        score: the face finder's, in [0, 1]; NaN for a given box.
        patch: the face's pixels, None where there is no face.
        aligned: the landmarks were given, so that ``patch.first`` is final.
        status, message: why there is no patch.
    """

    image: int
    source: str
    number: int = 0
    box: FloatArray = field(default_factory=lambda: np.full(4, np.nan))
    score: float = np.nan
    patch: Patch | None = None
    aligned: bool = False
    status: Status | None = None
    message: str = ""


def faces_of(
    source: Source, boxes: FloatArray | None = None, landmarks: FloatArray | None = None
) -> list[Face]:
    """Decode a photograph and cut out its faces; at least one row, also where nothing can be fitted.

    Args:
        source: the photograph.
        boxes: [n, 4] px, or None to search for faces.
        landmarks: [n, 68, 2] px, or None to let the extractor align.
    """
    try:
        image = source.read()
    except UnreadableImage as error:
        return [Face(source.index, source.name, status=Status.UNREADABLE, message=str(error))]
    scores = None
    if boxes is None and landmarks is None:
        boxes, scores = find_faces(image)
    elif boxes is None and landmarks is not None:
        boxes = np.concatenate([landmarks.min(1), landmarks.max(1)], axis=1)
    assert boxes is not None
    if len(boxes) == 0:
        return [Face(source.index, source.name, status=Status.NO_FACE, message="no face found")]
    return [
        _cut_face(
            image,
            Face(source.index, source.name, number, box, np.nan if scores is None else float(scores[number])),
            None if landmarks is None else landmarks[number],
        )
        for number, box in enumerate(boxes)
    ]


def _cut_face(image: UInt8Array, face: Face, landmarks: FloatArray | None) -> Face:
    """``face`` with its patch, or with the reason why it has none."""
    box, (height, width) = face.box, image.shape[:2]
    if np.isnan(box).any():
        return replace(face, status=Status.NO_FACE, message="the given box is NaN")
    where = f"box {np.round(box, 1).tolist()} on an image of {width} x {height} px"
    shared = np.minimum(box[2:], (width, height)) - np.maximum(box[:2], 0)
    problem = None
    if not np.isfinite(box).all() or (box[2:] - box[:2]).min() < MIN_BOX:
        problem = f"expected x1 y1 x2 y2 at least {MIN_BOX:g} px apart"
    elif shared.min() <= 0 or shared.prod() < 0.25 * (box[2:] - box[:2]).prod():
        problem = "less than a quarter of it lies on the image"
    first = box_to_similarity(box) if problem is None else np.empty(0)
    if problem is None and landmarks is not None:
        first = align_to_template(landmarks[None])[0]
        if not np.isfinite(first).all():
            problem = "eyes and nose of the given landmarks coincide or are not finite"
    if problem is not None:
        return replace(face, status=Status.BAD_BOX, message=f"{problem}: {where}")
    return replace(face, patch=cut_patch(image, first), aligned=landmarks is not None)


# --- a batch of faces -----------------------------------------------------------------------------


@dataclass(frozen=True)
class FaceBatch:
    """Aligned crops of B faces and what the extractor saw in them, rows without a face included.

    Attributes:
        faces: the B faces.
        seen: the extractor's output [B, ...], on the networks' device; zero without a face. Its parameters
            and landmarks are the mean of what the crop and its mirror image say.
        similarity: float64 [B, 2, 3], photograph px -> crop px; NaN without a face.
        valid: bool [B], whether there is a face.
    """

    faces: list[Face]
    seen: ExtractorOutput
    similarity: FloatArray
    valid: npt.NDArray[np.bool_]


def align_faces(faces: list[Face], extractor: Extractor, device: torch.device) -> FaceBatch:
    """Crop every face, look at it, and crop it anew by the landmarks seen, until that changes little.

    What was seen in the last crop is the result: a crop that is already where its landmarks want it needs no
    second look. Parameters and landmarks are those of it and of its mirror image.
    """
    valid = np.array([face.patch is not None for face in faces], bool)
    similarity = np.full((len(faces), 2, 3), np.nan)
    for row in np.flatnonzero(valid):
        similarity[row] = faces[row].patch.first  # type: ignore[union-attr]
    movable = valid & ~np.array([face.aligned for face in faces], bool)
    seen: tuple[Tensor, ...] | None = None
    last = torch.zeros(len(faces), 3, CROP_SIZE, CROP_SIZE, dtype=torch.uint8, device=device)
    rows = np.flatnonzero(valid)
    for looks_left in reversed(range(MAX_LOOKS)):
        pixels = _crops([faces[row] for row in rows], similarity[rows], device)
        at = torch.from_numpy(rows).to(device)
        last[at] = pixels
        output = look(extractor, pixels)
        if seen is None:
            seen = tuple(x.new_zeros(len(faces), *x.shape[1:]) for x in output)
        for whole, part in zip(seen, output, strict=True):
            whole[at] = part
        landmarks = output.landmarks.double().cpu().numpy()
        now = similarity[rows]
        wanted = align_to_template(transform(invert(now), landmarks))
        unsettled = movable[rows] & _plausible(wanted, now) & (_movement(wanted, now) >= SETTLED)
        if not (looks_left and unsettled.any()):
            break
        rows = rows[unsettled]
        similarity[rows] = wanted[unsettled]
    assert seen is not None
    found, at = ExtractorOutput(*seen), torch.from_numpy(valid).to(device)
    mirror_images = last[at].flip(3).contiguous(memory_format=torch.channels_last)
    mirrored = look(extractor, mirror_images)
    found.parameters[at] = both_ways(found.parameters[at], mirrored.parameters)
    found.landmarks[at] = (found.landmarks[at] + mirrored_points(mirrored.landmarks)) / 2
    return FaceBatch(faces, found, similarity, valid)


def look(extractor: Extractor, pixels: Tensor) -> ExtractorOutput:
    """The extractor's output of uint8 crops [B, 3, 128, 128]; B may be 0."""
    with torch.no_grad():
        return ExtractorOutput(*in_chunks(lambda x: extractor(x.float() / 255), pixels))


def both_ways(regressed: Tensor, mirrored: Tensor) -> Tensor:
    """Parameters [B, P] from those regressed from crops and those from the crops' mirror images.

    The two err in part independently. Nothing is lost: a face in a mirror is a face.
    """
    return (regressed + load_parameter_space().mirrored(mirrored)) / 2


def mirrored_points(landmarks: Tensor) -> Tensor:
    """Landmarks [B, 68, 2] of crops, px -> those of the crops' mirror images."""
    swapped = landmarks[:, MIRROR_ORDER]
    return torch.stack([CROP_SIZE - 1 - swapped[..., 0], swapped[..., 1]], -1)


def _movement(new: FloatArray, old: FloatArray) -> FloatArray:
    """How far the template's points lie from each other in two crops, at most: [B] crop px."""
    in_photo = transform(invert(old), np.broadcast_to(TEMPLATE, (len(old), *TEMPLATE.shape)))
    with np.errstate(invalid="ignore"):
        distance: FloatArray = np.linalg.norm(transform(new, in_photo) - TEMPLATE, axis=-1).max(1)
    return distance


def _plausible(new: FloatArray, old: FloatArray) -> npt.NDArray[np.bool_]:
    """Whether the scale of crops [B, 2, 3] has not changed beyond belief."""
    with np.errstate(divide="ignore", invalid="ignore"):
        change = np.abs(np.log(scale_of(new) / scale_of(old)))
    trusted: npt.NDArray[np.bool_] = np.isfinite(new).all((1, 2)) & (change < np.log(MAX_SCALE_CHANGE))
    return trusted


def _crops(faces: list[Face], similarity: FloatArray, device: torch.device) -> Tensor:
    pixels = np.zeros((len(faces), CROP_SIZE, CROP_SIZE, 3), np.uint8)
    for row, face in enumerate(faces):
        if face.patch is not None:
            pixels[row] = face.patch.crop(similarity[row])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).to(device)


# --- boxes and landmarks given by the caller ------------------------------------------------------


def iter_given(
    values: Any, item_shape: tuple[int, ...], images: int | None, argument: str
) -> Iterator[FloatArray | None]:
    """The caller's boxes or landmarks, image by image, as float64 [n, *item_shape] (None: not given for this
    image).

    What can be checked at once is; the rest when its turn comes.

    Args:
        values: None; one item; an array [N, *item_shape] with one item per image (all of them for a single
            image); or an iterable with an array [n, *item_shape], one item, or None per image.
        item_shape: ``(4,)`` for boxes, ``(68, 2)`` for landmarks.
        images: how many images there are; None if that is not known yet.
        argument: the name to use in errors.

    Raises:
        ValueError: naming the argument, what was expected and what came.
    """
    if values is None:
        return repeat(None)
    array = _as_array(values)
    if array is not None and array.size and array.shape[-len(item_shape) :] != item_shape:
        raise ValueError(f"{argument}: expected {_given_shapes(item_shape)}; got shape {list(array.shape)}")
    if array is not None and (array.shape == item_shape or (images == 1 and array.shape[1:] == item_shape)):
        values = [array]
    elif array is not None:
        values = array
    elif not isinstance(values, Iterable):
        raise ValueError(f"{argument}: expected {_given_shapes(item_shape)}; got {type(values).__name__}")
    if images is not None and isinstance(values, Sized) and len(values) != images:
        raise ValueError(f"{argument}: expected one entry per image ({images}), got {len(values)}")
    items = (_given_item(entry, item_shape, i, argument) for i, entry in enumerate(values))
    return iter(list(items)) if isinstance(values, Sized) else items


def _given_item(entry: Any, item_shape: tuple[int, ...], image: int, argument: str) -> FloatArray | None:
    if entry is None:
        return None
    array = _as_array(entry)
    if array is not None and array.shape == item_shape:
        return array[None]
    if array is not None and array.size == 0:
        return np.empty((0, *item_shape))
    if array is None or array.shape[1:] != item_shape:
        got = "no array of numbers" if array is None else f"shape {list(array.shape)}"
        raise ValueError(f"{argument}: expected {_given_shapes(item_shape)}; image {image} has {got}")
    return array


def _given_shapes(item_shape: tuple[int, ...]) -> str:
    text = ", ".join(map(str, item_shape))
    return f"[N, {text}] with one row per image, or a list with an array [n, {text}] per image"


def _as_array(values: Any) -> FloatArray | None:
    """``values`` as float64, or None where it is no rectangular array of numbers."""
    if isinstance(values, Tensor):
        values = values.detach().cpu().numpy()
    try:
        array: FloatArray = np.asarray(values, np.float64)
    except (TypeError, ValueError):
        return None
    # A list with None entries becomes NaN or an array of objects: those are entries per image.
    return None if isinstance(values, (list, tuple)) and any(v is None for v in values) else array
