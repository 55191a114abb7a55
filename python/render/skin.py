"""Skin as a texture: photographed base, tone, brows, beard, lips, and the creases that expressions draw.

Colours are linear RGB. Textures are [256, 256, 3] in ICT-FaceKit's face layout (UDIM tile 0).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from .assets import FACE, FaceModel, ParameterTable
from .geometry import F32
from .rasterizer import draw
from .sampling import SkinChoice, split_skins

SIZE = 256
N_APPEARANCE_SKIN = 10
_N_COMPONENTS = 16
_VARIANTS = 3
_MOST_FRINGE = 0.5
_LUMINANCE = np.array([0.3, 0.6, 0.1], np.float32)

# The melanin curve: skin colour from the lightest to the darkest, at equal steps, straight in the logarithm
# between them. Brown skins are the most saturated.
_MELANIN = np.log(
    [[0.64, 0.45, 0.37], [0.46, 0.27, 0.19], [0.29, 0.14, 0.078], [0.15, 0.073, 0.042], [0.07, 0.037, 0.025]]
)


def melanin(darkness: float | NDArray[np.floating]) -> NDArray[np.float64]:
    """Typical skin colour [..., 3] for darkness in [0, 1]."""
    steps = np.linspace(0, 1, len(_MELANIN))
    return np.exp(np.stack([np.interp(darkness, steps, channel) for channel in _MELANIN.T], -1))


# Creases, drawn on the front view of the neutral face (cm; x of the subject's left half, mirrored for the
# right): name -> (strokes, half width, drivers). A driver is (parameter without side, gain);
# the crease's depth is the sum, at most 1. "C" creases cross the middle and take the mean of both sides.
_Stroke = tuple[tuple[float, float], ...]
CREASES: dict[str, tuple[tuple[_Stroke, ...], float, tuple[tuple[str, float], ...]]] = {
    "C_forehead_inner": (
        (
            ((-2.6, 7.5), (0.0, 7.3), (2.6, 7.5)),
            ((-2.8, 8.4), (0.0, 8.2), (2.8, 8.4)),
            ((-2.6, 9.3), (2.6, 9.3)),
        ),
        0.11,
        (("AU01", 0.9), ("AU02", 0.3)),
    ),
    "forehead_outer": (
        (((2.2, 7.6), (3.8, 7.7), (5.2, 7.0)), ((2.2, 8.5), (3.8, 8.5), (5.2, 7.9))),
        0.11,
        (("AU02", 0.9),),
    ),
    "C_glabella": (
        (((-0.75, 5.0), (-0.8, 5.9), (-0.6, 6.9)), ((0.75, 5.0), (0.8, 5.9), (0.6, 6.9))),
        0.12,
        (("AU04", 1.1), ("AU09", 0.3)),
    ),
    "C_nose_root": ((((-0.9, 4.3), (0.0, 4.15), (0.9, 4.3)),), 0.11, (("AU09", 0.9), ("AU04", 0.4))),
    "nose_side": (
        (((0.35, 3.5), (0.95, 2.9), (1.35, 2.2)), ((0.45, 2.9), (0.95, 2.3))),
        0.1,
        (("AU09", 1.2), ("AU10", 0.15)),
    ),
    "nasolabial": (
        (((1.55, -0.2), (2.2, -1.3), (2.9, -2.5), (3.15, -3.5)),),
        0.16,
        (("AU12", 0.8), ("AU10", 0.6), ("AU09", 0.4), ("AU06", 0.25)),
    ),
    "crows_feet": (
        (((4.75, 3.6), (6.1, 4.4)), ((4.8, 3.4), (6.3, 3.45)), ((4.7, 3.15), (6.1, 2.5))),
        0.09,
        (("AU06", 1.0), ("AU12", 0.2), ("AU07", 0.2)),
    ),
    "under_eye": (
        (((1.9, 2.75), (2.8, 2.35), (3.9, 2.5), (4.6, 2.95)), ((2.4, 1.75), (3.4, 1.7), (4.4, 2.1))),
        0.11,
        (("AU06", 0.7), ("AU07", 0.6)),
    ),
    "dimple": ((((2.95, -2.9), (3.15, -3.5), (3.0, -4.1)),), 0.15, (("AU14", 1.1), ("AU20", 0.3))),
    "mouth_corner": ((((2.45, -3.7), (2.8, -4.3), (2.9, -5.0)),), 0.15, (("AU15", 1.0), ("AU20", 0.4))),
    "C_chin": ((((-1.3, -5.35), (0.0, -5.1), (1.3, -5.35)),), 0.18, (("AU17", 0.8),)),
    "C_lip_ring": (
        (
            ((-0.9, -1.6), (-0.8, -2.2)),
            ((0.9, -1.6), (0.8, -2.2)),
            ((-1.6, -1.9), (-1.45, -2.6)),
            ((1.6, -1.9), (1.45, -2.6)),
        ),
        0.08,
        (("AU23", 0.7), ("AU18", 0.6), ("AU24", 0.3), ("AU28T", 0.4)),
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Crease:
    name: str
    maps: F32  # [variants, h, w] in [-0.3, 1]
    row: int
    column: int
    drivers: NDArray[np.float32]  # [46] gains over expression parameters


@dataclass(frozen=True)
class SkinModel:
    textures: F32  # [n, 256, 256, 3] of this split
    tone: F32  # [n, 3] median cheek colour
    darkness: F32  # [n]
    rows: NDArray[np.int_]  # [n] rows in the file
    mean: F32  # [256, 256, 3], of the training people only
    components: F32  # [16, 256, 256, 3], unit-variance weights, of the training people only
    mean_tone: F32  # [3]
    component_tone: F32  # [16, 3]
    projector: F32  # [10, m]: skin_00.. from the texels `projected`
    projected: NDArray[np.intp]  # [m]
    creases: tuple[Crease, ...]
    clean: F32  # [256, 256] how much of the photograph is replaced by plain skin (hairline, ears)
    brow: F32  # [256, 256] soft band
    brow_rows: NDArray[np.int32]  # [2, 256] first and last row of the band per column; equal: none
    brow_across: F32  # [256, 256] cm above the brow line
    brow_along: F32  # [256, 256] 0 inner to 1 outer end; < 0 away from it
    beard: F32  # [256, 256]
    moustache: F32  # [256, 256]
    lips: F32  # [256, 256]
    chin: F32  # [256, 256] where AU17 dimples
    noise: F32  # [256, 256] smooth, mean 0
    fine: F32  # [256, 256] strands, 0 to 1
    chin_driver: int  # place of AU17 among the expression parameters


def load_skin_model(path: Path, face: FaceModel, table: ParameterTable, split: str) -> SkinModel:
    """`path`: frll_albedo_train.npz. The PCA is computed anew from the training people, so that the held-out
    skins have no part in it."""
    with np.load(path) as z:
        linear = (z["tex"].astype(np.float32) / 255) ** 2.2
        known = z["mask"]
    position, seen = _positions(face)
    marks = _marks(face, position, seen)
    # Hair that hides the brows cannot be taken off a photograph.
    free = np.array([_fringe(t, position, seen) < _MOST_FRINGE for t in linear])
    tones = np.stack([_flatten(t, m, position, seen, marks) for t, m in zip(linear, known, strict=True)])
    training, rows = (part[free[part]] for part in (split_skins(len(linear), s) for s in ("train", split)))

    base = linear[training].reshape(len(training), -1)
    mean = base.mean(0)
    centred = base - mean
    _, vectors = np.linalg.eigh((centred @ centred.T).astype(np.float64))
    count = min(_N_COMPONENTS, len(training) - 1)
    weights = vectors[:, ::-1][:, :count] / np.sqrt(len(training))
    weights *= np.where(weights[np.abs(weights).argmax(0), np.arange(count)] < 0, -1, 1)
    components = (weights.T.astype(np.float32) @ centred).astype(np.float32)
    # A person's weight is their deviation in units of the component's spread.
    tone_mean = tones[training].mean(0)
    component_tone = weights.T.astype(np.float32) @ (tones[training] - tone_mean)

    projected = np.zeros((SIZE, SIZE), bool)
    projected[::4, ::4] = True
    projected &= seen & (position[..., 1] < 8) & (position[..., 1] > -8) & (position[..., 2] > 5)
    texels = np.flatnonzero(np.repeat(projected.reshape(-1), 3))
    projector = np.linalg.pinv(components[:N_APPEARANCE_SKIN, texels].T.astype(np.float64))

    darkness = np.linspace(0, 1, 201)
    gap = np.abs(np.log(tones[rows] @ _LUMINANCE)[:, None] - np.log(melanin(darkness) @ _LUMINANCE)[None])
    return SkinModel(
        textures=np.ascontiguousarray(linear[rows]),
        tone=tones[rows],
        darkness=darkness[gap.argmin(1)].astype(np.float32),
        rows=rows,
        mean=mean.reshape(SIZE, SIZE, 3),
        components=components.reshape(-1, SIZE, SIZE, 3),
        mean_tone=tone_mean,
        component_tone=component_tone,
        projector=projector.astype(np.float32),
        projected=texels,
        creases=_creases(position, seen, table),
        chin_driver=table.expression.index("AU17"),
        **marks,
    )


def _fringe(texture: F32, position: F32, seen: NDArray[np.bool_]) -> float:
    """Share of the forehead that is far darker than the cheeks."""
    x, y = np.abs(position[..., 0]), position[..., 1]
    light = texture @ _LUMINANCE
    cheeks = seen & (y > -3.0) & (y < 2.2) & (x > 2.2) & (x < 5.5)
    forehead = seen & (x < 3.5) & (y > 7.3) & (y < 8.6)
    return float((light[forehead] < 0.45 * np.median(light[cheeks])).mean())


def _flatten(
    texture: F32, known: NDArray[np.uint8], position: F32, seen: NDArray[np.bool_], marks: dict[str, Any]
) -> F32:
    """Take most of the studio's light out of a texture [256, 256, 3], in place; returns its skin colour [3].

    The photographs were lit from the front, so the sides of the face are baked in darker than the skin is.
    Broad brightness and colour differences are divided out; what is smaller than about 4 cm stays.
    """
    import cv2

    x, y, z = np.abs(position[..., 0]), position[..., 1], position[..., 2]
    plain = seen & (known > 60) & (y < 8.6) & (y > -7.0) & (z > 2.2)
    plain &= (marks["brow"] < 0.05) & (marks["lips"] < 0.05)
    plain &= ~((np.abs(y - 3.4) < 1.1) & (np.abs(x - 3.2) < 2.0))
    cheeks = plain & (y > -3.0) & (y < 2.2) & (x > 2.2) & (x < 5.5)
    tone: F32 = np.median(texture[cheeks], axis=0).astype(np.float32)
    # Hair, beards and nostrils are no skin: leave out what is far darker than the cheeks.
    light = texture @ _LUMINANCE
    weight = (plain & (light > 0.5 * np.median(light[cheeks]))).astype(np.float32)
    # Blurred at a quarter of the size: what is left is broad.
    weighted = np.concatenate([texture * weight[..., None], weight[..., None]], -1)
    small = cv2.resize(weighted, (SIZE // 4, SIZE // 4), interpolation=cv2.INTER_AREA)
    blurred = cv2.resize(cv2.GaussianBlur(small, (0, 0), 4), (SIZE, SIZE), interpolation=cv2.INTER_LINEAR)
    total = blurred[..., 3]
    low = blurred[..., :3] / np.maximum(total, 1e-4)[..., None]
    gain = np.clip(tone / np.maximum(low, 1e-3), 0.6, 2.0)
    trust = np.clip(total / 0.15, 0, 1)[..., None]
    texture *= 1 + trust * (gain**0.85 - 1)
    # Towards the sides the camera saw little, and what was filled in is darker than skin.
    outer = np.clip(np.maximum.reduce([(x - 4.6) / 1.2, (-5.6 - y) / 1.5, (y - 8.6) / 1.0]), 0, 1)
    guessed = cv2.GaussianBlur(np.clip((250 - known.astype(np.float32)) / 150, 0, 1) * outer, (0, 0), 3.0)
    texture += np.clip(1.6 * guessed, 0, 1)[..., None] * (tone - texture)
    # Hair is drawn by the renderer: dark strands above the brows give way to skin.
    light = texture @ _LUMINANCE / (tone @ _LUMINANCE)
    above_brows = np.interp(x, [0, 4.6, 5.4, 6.0, 6.6], [7.0, 7.2, 6.5, 5.4, 3.8])
    forehead = np.clip((y - above_brows) / 0.5, 0, 1) * seen
    strands = cv2.GaussianBlur(np.clip((0.8 - light) / 0.25, 0, 1) * forehead, (0, 0), 1.5)
    strands = np.clip(2 * strands, 0, 1)[..., None]
    texture += strands * (tone * (0.9 + 0.1 * light[..., None]) - texture)
    return tone


def _cross(a: F32, b: F32) -> F32:
    out: F32 = a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]
    return out


def _positions(face: FaceModel) -> tuple[F32, NDArray[np.bool_]]:
    """Neutral head position [256, 256, 3] of every texel, and which texels the face uses (grown by three)."""
    triangles = face.triangles[face.material == FACE]
    depth = np.zeros((SIZE, SIZE), np.float32)
    seen = np.full((SIZE, SIZE), -1, np.int32)
    draw(triangles, 0, len(triangles), False, face.uv, np.ones(len(face.uv), np.float32), depth, seen)
    mask = seen >= 0
    t = triangles[seen[mask]]
    rows, columns = np.nonzero(mask)
    p = np.stack([columns, rows], 1).astype(np.float32)
    a, b, c = (face.uv[t[:, k]] for k in range(3))
    area = _cross(b - a, c - a)
    u, v = _cross(p - a, c - a) / area, _cross(b - a, p - a) / area
    out = np.zeros((SIZE, SIZE, 3), np.float32)
    corners = face.neutral[t]
    out[mask] = corners[:, 0] * (1 - u - v)[:, None] + corners[:, 1] * u[:, None] + corners[:, 2] * v[:, None]
    for _ in range(3):
        for axis, step in ((0, 1), (0, -1), (1, 1), (1, -1)):
            source, known = np.roll(out, step, axis), np.roll(mask, step, axis)
            grow = ~mask & known
            out[grow] = source[grow]
            mask = mask | grow
    return out, mask


def _distance(points: F32, stroke: _Stroke) -> tuple[F32, F32]:
    """Distance of points [..., 2] from a polyline, and how far along it (0 to 1) the nearest point lies."""
    best = np.full(points.shape[:-1], np.inf, np.float32)
    along = np.zeros(points.shape[:-1], np.float32)
    corners = np.array(stroke, np.float32)
    lengths = np.linalg.norm(np.diff(corners, axis=0), axis=1)
    total, done = float(lengths.sum()), 0.0
    for a, b, length in zip(corners[:-1], corners[1:], lengths, strict=True):
        t = np.clip(((points - a) @ (b - a)) / max(float(length) ** 2, 1e-9), 0, 1)
        d = np.linalg.norm(points - a - t[..., None] * (b - a), axis=-1)
        nearer = d < best
        best = np.where(nearer, d, best).astype(np.float32)
        along = np.where(nearer, (done + t * float(length)) / total, along).astype(np.float32)
        done += float(length)
    return best, along


def _smooth_noise(rng: np.random.Generator, cells: int) -> F32:
    """Periodic noise [256, 256], zero mean and unit deviation, with features of 256 / cells texels."""
    spectrum = np.fft.rfft2(rng.normal(0, 1, (SIZE, SIZE)))
    ky, kx = np.fft.fftfreq(SIZE)[:, None] * SIZE, np.fft.rfftfreq(SIZE)[None] * SIZE
    noise = np.fft.irfft2(spectrum * np.exp(-0.5 * (kx**2 + ky**2) / cells**2), (SIZE, SIZE))
    noise -= noise.mean()
    return (noise / noise.std()).astype(np.float32)


def _creases(position: F32, seen: NDArray[np.bool_], table: ParameterTable) -> tuple[Crease, ...]:
    rng = np.random.default_rng(7)
    front = seen & (position[..., 2] > 4)
    # Eight cells over 256 texels: creases wander by a millimetre or so, differently in every variant.
    wander = [np.stack([_smooth_noise(rng, 10), _smooth_noise(rng, 10)], -1) * 0.08 for _ in range(_VARIANTS)]
    strength = [np.clip(0.75 + 0.35 * _smooth_noise(rng, 12), 0, 1) for _ in range(_VARIANTS)]
    out = []
    for name, (strokes, width, drivers) in CREASES.items():
        sides = ("",) if name.startswith("C_") else ("_L", "_R")
        for side in sides:
            xy = position[..., :2] * np.array([-1 if side == "_R" else 1, 1], np.float32)
            maps = []
            for shift, gain in zip(wander, strength, strict=True):
                total = np.zeros((SIZE, SIZE), np.float32)
                for stroke in strokes:
                    low, high = np.min(stroke, axis=0) - 1, np.max(stroke, axis=0) + 1
                    near = front & (xy > low).all(-1) & (xy < high).all(-1)
                    d, along = _distance((xy + shift)[near], stroke)
                    taper = np.clip(np.minimum(along, 1 - along) * 5 + 0.15, 0, 1)
                    # A dark line with lighter ridges beside it.
                    line = np.exp(-0.5 * (d / width) ** 2) - 0.3 * np.exp(
                        -0.5 * ((d - 2.6 * width) / width) ** 2
                    )
                    total[near] += line * taper * gain[near]
                maps.append(total)
            stack = np.stack(maps).astype(np.float32)
            rows = np.flatnonzero((np.abs(stack) > 0.01).any((0, 2)))
            columns = np.flatnonzero((np.abs(stack) > 0.01).any((0, 1)))
            r0, r1, c0, c1 = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
            gains = np.zeros(len(table.expression), np.float32)
            for unit, gain_of in drivers:
                for i, parameter in enumerate(table.expression):
                    if parameter == unit or (side and parameter == unit + side):
                        gains[i] += gain_of
                    elif not side and parameter in (unit + "_L", unit + "_R"):
                        gains[i] += gain_of / 2
            if not gains.any():
                raise KeyError(f"parameters.csv: expected the drivers of crease {name}: {drivers}")
            out.append(
                Crease(name + side, np.ascontiguousarray(stack[:, r0:r1, c0:c1]), int(r0), int(c0), gains)
            )
    return tuple(out)


def hairline_height(position: F32) -> F32:
    """Centimetres above the average hairline, for neutral head positions [..., 3]; negative on the face.

    The line falls from the forehead over the temples to the ear, and behind the ear to the nape.
    """
    z = position[..., 2]
    line = np.interp(
        z,
        [-6, -3, -0.5, 1.5, 3.0, 4.0, 5.2, 6.5, 8.0, 9.5],
        [-7.0, -5.5, -3.0, 0.5, 1.5, 3.0, 5.8, 7.8, 9.3, 10.2],
    )
    out: F32 = (position[..., 1] - line).astype(np.float32)
    return out


def _marks(face: FaceModel, position: F32, seen: NDArray[np.bool_]) -> dict[str, Any]:
    """Soft masks in the texture: brows, beard, lips, hairline."""
    import cv2

    front = seen & (position[..., 2] > 3)
    xy = position[..., :2]
    landmarks = face.neutral[face.landmarks]

    across = np.full((SIZE, SIZE), 9.0, np.float32)
    along = np.full((SIZE, SIZE), -1.0, np.float32)
    for brow in (slice(22, 27), slice(21, 16, -1)):  # inner to outer
        line = landmarks[brow, :2] - np.array([0, 0.1], np.float32)
        d, t = _distance(xy, tuple(map(tuple, line)))
        height = np.interp(xy[..., 0], np.sort(line[:, 0]), line[np.argsort(line[:, 0]), 1])
        near = front & (d < 1.2)
        signed = np.where(xy[..., 1] >= height, d, -d)
        across = np.where(near, signed, across).astype(np.float32)
        along = np.where(near, t, along).astype(np.float32)
    band = (along >= 0) & (across > -0.75) & (across < 0.65)
    soft = cv2.GaussianBlur(band.astype(np.float32), (0, 0), 1.5)
    rows = np.zeros((2, SIZE), np.int32)
    wide = soft > 0.02
    for column in range(SIZE):
        filled = np.flatnonzero(wide[:, column])
        if len(filled):
            rows[:, column] = filled[0], filled[-1]

    outline = face.uv[face.landmarks[48:60]]
    lips = np.zeros((SIZE, SIZE), np.uint8)
    cv2.fillPoly(lips, [np.round(outline).astype(np.int32)], 255)
    lips_soft = cv2.GaussianBlur(lips.astype(np.float32) / 255, (0, 0), 1.2)
    around_lips = cv2.dilate(lips, np.ones((5, 5), np.uint8)).astype(np.float32) / 255

    x, y, z = np.abs(position[..., 0]), position[..., 1], position[..., 2]

    def step(value: F32, low: float, high: float) -> F32:
        t: F32 = np.clip((value - low) / (high - low), 0, 1).astype(np.float32)
        return t * t * (3 - 2 * t)

    # The cheek line of a beard falls from the sideburns to the corner of the mouth.
    cheek = np.interp(x, [0, 2.4, 4.0, 6.0, 7.2], [-3.9, -3.6, -2.6, -0.5, 2.5])
    beard = step(cheek - y, 0.0, 1.2) * step(y, -11.0, -8.5) * step(z, 1.0, 3.0) * seen
    beard = np.where((x < 2.2) & (y > -4.6), 0, beard)
    moustache = step(-1.35 - y, 0, 0.5) * step(y, -4.6, -3.6) * step(3.1 - x, 0.0, 0.6) * front
    keep_lips = 1 - cv2.GaussianBlur(around_lips, (0, 0), 1.0)
    chin = np.exp(-0.5 * (((x / 1.1) ** 2) + ((y + 6.0) / 0.8) ** 2)) * front

    ear_uv = np.zeros((SIZE, SIZE), np.float32)
    ear_uv[int(0.28 * SIZE) : int(0.62 * SIZE), : int(0.14 * SIZE)] = 1
    ear_uv[int(0.28 * SIZE) : int(0.62 * SIZE), int(0.86 * SIZE) :] = 1
    clean = np.maximum(step(hairline_height(position), -1.3, 0.2) * seen, ear_uv)
    clean = np.maximum(clean, step(-7.9 - y, 0, 1.5))
    clean = np.maximum(clean, step(3.2 - z, 0, 1.5))

    rng = np.random.default_rng(11)
    noise = (_smooth_noise(rng, 6) + 0.7 * _smooth_noise(rng, 20) + 0.4 * _smooth_noise(rng, 60)) / 1.3
    fine = rng.random((SIZE, SIZE)).astype(np.float32)
    return {
        "clean": cv2.GaussianBlur(clean.astype(np.float32), (0, 0), 2.0),
        "brow": np.clip(soft, 0, 1),
        "brow_rows": rows,
        "brow_across": across,
        "brow_along": along,
        "beard": (beard * keep_lips).astype(np.float32),
        "moustache": (moustache * keep_lips).astype(np.float32),
        "lips": lips_soft,
        "chin": chin.astype(np.float32),
        "noise": noise.astype(np.float32),
        "fine": fine,
    }


@dataclass(frozen=True)
class Skin:
    albedo: F32  # [256, 256, 3]
    tone: F32  # [3] plain skin colour, for neck, ears and scalp
    coefficients: F32  # [10] of the appearance label


def compose(model: SkinModel, choice: SkinChoice, expression: F32) -> Skin:
    """The texture of one face with `expression` [46] (labelled parameters only) creased into it."""
    a, b = choice.people
    if choice.pca is None:
        tone = choice.mix * model.tone[a] + (1 - choice.mix) * model.tone[b]
        texture = _mix(model.textures[a], model.textures[b], np.float32(choice.mix))
    else:
        weights = choice.pca[: len(model.components)]
        tone = np.maximum(model.mean_tone + weights @ model.component_tone, 0.02)
        texture = model.mean.copy()
        _add_components(texture.reshape(-1), model.components.reshape(len(weights), -1), weights)
    target = melanin(choice.darkness) * np.exp([choice.chroma[0], 0, choice.chroma[1]])
    # Brightness and hue are limited apart: beyond these gains baked shine, noise and odd colours would show.
    brighter = np.clip((target @ _LUMINANCE) / (tone @ _LUMINANCE), 0.5, 1.5)
    hue = target / tone
    hue = np.clip(hue / (hue @ _LUMINANCE), 0.7, 1.35)
    gain = brighter * hue
    tone = (tone * gain).astype(np.float32)

    _paint(
        texture,
        gain.astype(np.float32),
        tone,
        model.clean,
        model.brow,
        model.brow_rows,
        model.brow_across,
        model.brow_along,
        model.beard,
        model.moustache,
        model.lips,
        model.chin,
        model.noise,
        model.fine,
        np.array(choice.brow_colour, np.float32),
        np.array(choice.lip_tint, np.float32),
        np.array(
            [
                choice.brow_keep,
                choice.brow_density,
                choice.brow_thickness,
                choice.brow_offset,
                choice.beard,
                choice.moustache,
                choice.lip_amount,
                choice.mottle,
                0.35 * choice.wrinkles * expression[model.chin_driver],
            ],
            np.float32,
        ),
        choice.noise_shift[0],
        choice.noise_shift[1],
    )
    coefficients = model.projector @ (
        texture.reshape(-1)[model.projected] - model.mean.reshape(-1)[model.projected]
    )

    for i, crease in enumerate(model.creases):
        depth = (
            choice.wrinkles * min(1.0, float(crease.drivers @ expression)) + choice.age[i % len(choice.age)]
        )
        if depth > 0.02:
            h, w = crease.maps.shape[1:]
            patch = texture[crease.row : crease.row + h, crease.column : crease.column + w]
            _carve(patch, crease.maps[choice.variant], np.float32(min(depth, 1.2) * 0.42))
    return Skin(texture, tone, coefficients.astype(np.float32))


@numba.njit(cache=True, nogil=True)
def _mix(a, b, t):  # type: ignore[no-untyped-def]
    return a * t + b * (np.float32(1.0) - t)


@numba.njit(cache=True, nogil=True)
def _add_components(out, components, weights):  # type: ignore[no-untyped-def]
    for k in range(weights.shape[0]):
        w = weights[k]
        row = components[k]
        for i in range(out.shape[0]):
            out[i] += w * row[i]
    for i in range(out.shape[0]):
        out[i] = max(out[i], np.float32(0.004))


@numba.njit(cache=True, nogil=True)
def _carve(patch, crease, depth):  # type: ignore[no-untyped-def]
    for r in range(patch.shape[0]):
        for c in range(patch.shape[1]):
            m = crease[r, c] * depth
            # Blood shows in a fold: it darkens less in red.
            patch[r, c, 0] *= 1 - m * np.float32(0.85)
            patch[r, c, 1] *= 1 - m
            patch[r, c, 2] *= 1 - m


@numba.njit(cache=True, nogil=True)
def _paint(
    texture, gain, tone, clean, brow, brow_rows, across, along, beard, moustache, lips, chin, noise, fine,
    brow_colour, lip_tint, amounts, shift_r, shift_c,
):  # type: ignore[no-untyped-def]  # fmt: skip
    """Tone, plain skin beyond the hairline, brows, beard, lips and mottling, in place."""
    keep, density, thickness, offset, beard_by, moustache_by, lip_by, mottle, dimple = amounts
    size = texture.shape[0]
    for r in range(size):
        for c in range(size):
            n = noise[(r + shift_r) & 255, (c + shift_c) & 255]
            k = clean[r, c]
            m = 1 + mottle * n
            for ch in range(3):
                v = texture[r, c, ch] * gain[ch]
                texture[r, c, ch] = (v + k * (tone[ch] - v)) * m
    # The photographed brow, thinned or strengthened against the skin above and below it.
    for c in range(size):
        top, bottom = brow_rows[0, c], brow_rows[1, c]
        if bottom <= top:
            continue
        for ch in range(3):
            first = texture[top, c, ch]
            last = texture[bottom, c, ch]
            for r in range(top, bottom + 1):
                t = np.float32(r - top) / np.float32(bottom - top)
                plain = first + t * (last - first)
                changed = max(plain + (texture[r, c, ch] - plain) * keep, np.float32(0.003))
                texture[r, c, ch] += brow[r, c] * (changed - texture[r, c, ch])
    for r in range(size):
        for c in range(size):
            f = fine[(r + shift_r) & 255, (c + shift_c) & 255]
            s = along[r, c]
            if density > 0 and s >= 0:
                half = np.float32(0.5) * thickness * (np.float32(1.15) - s * s)
                edge = (half - abs(across[r, c] - offset)) / np.float32(0.18) + (f - np.float32(0.5))
                cover = (
                    min(max(edge, np.float32(0.0)), np.float32(1.0)) * density * (np.float32(0.6) + 0.4 * f)
                )
                if s < 0.06 or s > 0.97:
                    cover *= np.float32(0.4)
                for ch in range(3):
                    texture[r, c, ch] += cover * (brow_colour[ch] - texture[r, c, ch])
            hairs = max(beard[r, c] * beard_by, moustache[r, c] * moustache_by) * (
                np.float32(0.55) + 0.45 * f
            )
            if hairs > 0:
                for ch in range(3):
                    texture[r, c, ch] += hairs * (brow_colour[ch] * np.float32(0.9) - texture[r, c, ch])
            red = lips[r, c] * lip_by
            if red > 0:
                light = (texture[r, c, 0] + texture[r, c, 1] + texture[r, c, 2]) / (
                    tone[0] + tone[1] + tone[2]
                )
                light = min(light, np.float32(1.3))
                for ch in range(3):
                    texture[r, c, ch] += red * (lip_tint[ch] * light - texture[r, c, ch])
            d = chin[r, c] * dimple
            if d > 0:
                bumps = 1 + d * (noise[(r * 5 + shift_r) & 255, (c * 5 + shift_c) & 255])
                for ch in range(3):
                    texture[r, c, ch] *= max(bumps, np.float32(0.4))
