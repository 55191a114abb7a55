"""Deferred shading of what the rasteriser found, resolved to pixels. Linear RGB until the last step."""

from __future__ import annotations

import math
from typing import NamedTuple

import numba
import numpy as np

from .assets import CLOTHES, EYE, EYE_SOCKET, FACE, GLASSES, GUMS, HAIR, HEAD, SOCKET, TEETH
from .geometry import F32

SUPERSAMPLING = 2


class Scene(NamedTuple):
    """What `shade` reads; float32 unless said. V vertices, T triangles; positions in the camera frame, cm."""

    triangles: np.ndarray  # int32 [T, 3]
    material: np.ndarray  # uint8 [T]
    xy: F32  # [V, 2] samples
    iw: F32  # [V] 1 / distance
    normal: F32  # [V, 3]
    camera: F32  # [V, 3]
    rest: F32  # [V, 3] head frame, face at rest
    uv: F32  # [V, 2] texels of the skin, strand coordinates for hair
    scalp: F32  # [V] share of hair colour on the skin (cropped hair under the shell)
    albedo: F32  # [256, 256, 3]
    fine: F32  # [256, 256] strand noise
    shadow: F32  # [S, S] depth seen from the light, larger is nearer
    to_light: F32  # [2, 4] camera frame -> texel of `shadow`, rows x and y
    light: F32  # [4] direction to the light, its share
    back: F32  # [4] direction to the second light, its share
    colour: F32  # [3] exposure and tint
    shadow_depth: float
    skin: F32  # [3] plain skin
    gloss: float
    hair: F32  # [3]
    iris: F32  # [3]
    iris_size: F32  # [2] radius of iris and pupil, cm
    sclera: F32  # [3]
    teeth: F32  # [3]
    glasses: F32  # [3]
    clothes: F32  # [7] two colours, stripes per cm
    eye_rest: F32  # [2, 3] centres of the eyeballs at rest
    eye_camera: F32  # [2, 3] and as posed
    lid: F32  # [2, 4, 2] samples: upper lid of either eye, by x
    lip_depth: float  # head frame z of the lips, cm
    samples_per_cm: float


@numba.njit(cache=True, nogil=True)
def _ramp(value, low, high):  # type: ignore[no-untyped-def]
    t = (value - low) / (high - low)
    t = min(max(t, np.float32(0.0)), np.float32(1.0))
    return t * t * (np.float32(3.0) - np.float32(2.0) * t)


@numba.njit(cache=True, nogil=True)
def _bilinear(texture, row, column, fu, fv, channel):  # type: ignore[no-untyped-def]
    top = texture[row, column, channel] * (1 - fu) + texture[row, column + 1, channel] * fu
    bottom = texture[row + 1, column, channel] * (1 - fu) + texture[row + 1, column + 1, channel] * fu
    return top * (1 - fv) + bottom * fv


@numba.njit(cache=True, nogil=True)
def _lid_shadow(scene, eye, x, y):  # type: ignore[no-untyped-def]
    """How much light the upper lid and its lashes leave on the eyeball at a sample."""
    lid = scene.lid[eye]
    row = lid[0, 1]
    if x >= lid[3, 0]:
        row = lid[3, 1]
    else:
        for k in range(3):
            if lid[k, 0] <= x < lid[k + 1, 0]:
                t = (x - lid[k, 0]) / max(lid[k + 1, 0] - lid[k, 0], np.float32(1e-3))
                row = lid[k, 1] + t * (lid[k + 1, 1] - lid[k, 1])
    below = (y - row) / scene.samples_per_cm
    return np.float32(0.35) + np.float32(0.65) * _ramp(below, np.float32(-0.08), np.float32(0.42))


@numba.njit(cache=True, nogil=True)
def _lit(scene, px, py, pz):  # type: ignore[no-untyped-def]
    """Share of the directional light that reaches a point: a 2 x 2 filtered look into the shadow map."""
    m = scene.to_light
    u = m[0, 0] * px + m[0, 1] * py + m[0, 2] * pz + m[0, 3]
    v = m[1, 0] * px + m[1, 1] * py + m[1, 2] * pz + m[1, 3]
    size = scene.shadow.shape[0]
    c, r = math.floor(u), math.floor(v)
    if c < 0 or r < 0 or c + 1 >= size or r + 1 >= size:
        return np.float32(1.0)
    d = scene.light[0] * px + scene.light[1] * py + scene.light[2] * pz
    fu, fv = np.float32(u - c), np.float32(v - r)
    total = np.float32(0.0)
    for i in range(2):
        for j in range(2):
            weight = (fv if i else 1 - fv) * (fu if j else 1 - fu)
            gap = scene.shadow[r + i, c + j] - d
            # Thin gaps are the surface itself.
            total += weight * (1 - _ramp(gap, np.float32(0.25), np.float32(0.9)))
    return 1 - np.float32(scene.shadow_depth) * (1 - total)


@numba.njit(cache=True, nogil=True)
def shade(scene, seen, lash_veil, lens_veil, lash_opacity, glare, curve, out):  # type: ignore[no-untyped-def]
    """`seen` [2H, 2W] and veils -> `out` uint8 [H, W, 4], straight sRGB and coverage.

    Pixels of no coverage are black with alpha 0 (see spread_edges). `curve`: linear light to sRGB, by index.
    """
    height, width = out.shape[0], out.shape[1]
    lx, ly, lz, directional = scene.light[0], scene.light[1], scene.light[2], scene.light[3]
    bx, by, bz, second = scene.back[0], scene.back[1], scene.back[2], scene.back[3]
    ambient = np.float32(1.0) - directional
    hx, hy, hz = lx, ly, lz + np.float32(1.0)
    norm = math.sqrt(hx * hx + hy * hy + hz * hz) + 1e-6
    hx, hy, hz = hx / norm, hy / norm, hz / norm
    last = curve.shape[0] - 1
    texture_last = scene.albedo.shape[0] - 2
    for row in range(height):
        for column in range(width):
            red = np.float32(0.0)
            green = np.float32(0.0)
            blue = np.float32(0.0)
            count = 0
            for k in range(SUPERSAMPLING * SUPERSAMPLING):
                sy = row * SUPERSAMPLING + k // SUPERSAMPLING
                sx = column * SUPERSAMPLING + k % SUPERSAMPLING
                t = seen[sy, sx]
                if t < 0:
                    continue
                count += 1
                a, b, c = scene.triangles[t, 0], scene.triangles[t, 1], scene.triangles[t, 2]
                ax, ay = scene.xy[a, 0], scene.xy[a, 1]
                ex, ey = scene.xy[b, 0] - ax, scene.xy[b, 1] - ay
                fx, fy = scene.xy[c, 0] - ax, scene.xy[c, 1] - ay
                inverse = np.float32(1.0) / (ex * fy - ey * fx)
                wb = ((sx - ax) * fy - (sy - ay) * fx) * inverse
                wc = ((sy - ay) * ex - (sx - ax) * ey) * inverse
                wa = np.float32(1.0) - wb - wc
                kind = scene.material[t]

                nx = wa * scene.normal[a, 0] + wb * scene.normal[b, 0] + wc * scene.normal[c, 0]
                ny = wa * scene.normal[a, 1] + wb * scene.normal[b, 1] + wc * scene.normal[c, 1]
                nz = wa * scene.normal[a, 2] + wb * scene.normal[b, 2] + wc * scene.normal[c, 2]
                px = wa * scene.camera[a, 0] + wb * scene.camera[b, 0] + wc * scene.camera[c, 0]
                py = wa * scene.camera[a, 1] + wb * scene.camera[b, 1] + wc * scene.camera[c, 1]
                pz = wa * scene.camera[a, 2] + wb * scene.camera[b, 2] + wc * scene.camera[c, 2]

                occlusion = np.float32(1.0)
                shine = np.float32(0.0)
                bleed = np.float32(0.12)
                r, g, bl = scene.skin[0], scene.skin[1], scene.skin[2]
                if kind in (FACE, HEAD):
                    if kind == FACE:
                        u = wa * scene.uv[a, 0] + wb * scene.uv[b, 0] + wc * scene.uv[c, 0]
                        v = wa * scene.uv[a, 1] + wb * scene.uv[b, 1] + wc * scene.uv[c, 1]
                        u = min(max(u, np.float32(0.0)), np.float32(texture_last))
                        v = min(max(v, np.float32(0.0)), np.float32(texture_last))
                        c0, r0 = int(u), int(v)
                        fu, fv = u - c0, v - r0
                        r = _bilinear(scene.albedo, r0, c0, fu, fv, 0)
                        g = _bilinear(scene.albedo, r0, c0, fu, fv, 1)
                        bl = _bilinear(scene.albedo, r0, c0, fu, fv, 2)
                    cropped = wa * scene.scalp[a] + wb * scene.scalp[b] + wc * scene.scalp[c]
                    if cropped > 0:
                        r += cropped * (scene.hair[0] - r)
                        g += cropped * (scene.hair[1] - g)
                        bl += cropped * (scene.hair[2] - bl)
                    shine = np.float32(scene.gloss) * (1 - cropped)
                elif kind == EYE:
                    rx = wa * scene.rest[a, 0] + wb * scene.rest[b, 0] + wc * scene.rest[c, 0]
                    ry = wa * scene.rest[a, 1] + wb * scene.rest[b, 1] + wc * scene.rest[c, 1]
                    eye = 0 if rx > 0 else 1
                    dx, dy = rx - scene.eye_rest[eye, 0], ry - scene.eye_rest[eye, 1]
                    radius = math.sqrt(dx * dx + dy * dy)
                    iris, pupil = scene.iris_size[0], scene.iris_size[1]
                    white = _ramp(np.float32(radius), iris - np.float32(0.06), iris + np.float32(0.05))
                    dark = _ramp(np.float32(radius), pupil - np.float32(0.03), pupil + np.float32(0.03))
                    # The iris is lighter towards the pupil, with a dark rim.
                    rim = np.float32(1.15) - np.float32(0.6) * _ramp(
                        np.float32(radius), iris * np.float32(0.6), iris
                    )
                    pink = _ramp(abs(dx), np.float32(0.7), np.float32(1.5))
                    r = scene.iris[0] * rim * dark
                    g = scene.iris[1] * rim * dark
                    bl = scene.iris[2] * rim * dark
                    r += white * (scene.sclera[0] - r)
                    g += white * (scene.sclera[1] * (1 - np.float32(0.3) * pink) - g)
                    bl += white * (scene.sclera[2] * (1 - np.float32(0.3) * pink) - bl)
                    # The cornea is a sphere whatever the iris beneath does.
                    nx = px - scene.eye_camera[eye, 0]
                    ny = py - scene.eye_camera[eye, 1]
                    nz = pz - scene.eye_camera[eye, 2]
                    occlusion = _lid_shadow(scene, eye, np.float32(sx), np.float32(sy))
                    occlusion *= 1 - np.float32(0.35) * _ramp(abs(dx), np.float32(0.8), np.float32(1.5))
                elif kind in (TEETH, GUMS, SOCKET):
                    rz = wa * scene.rest[a, 2] + wb * scene.rest[b, 2] + wc * scene.rest[c, 2]
                    behind = np.float32(scene.lip_depth) - rz
                    if kind == TEETH:
                        r, g, bl = scene.teeth[0], scene.teeth[1], scene.teeth[2]
                        occlusion = np.float32(0.95) - np.float32(0.75) * _ramp(
                            behind, np.float32(0.7), np.float32(4.0)
                        )
                    elif kind == GUMS:
                        r, g, bl = np.float32(0.42), np.float32(0.15), np.float32(0.14)
                        occlusion = np.float32(0.75) - np.float32(0.68) * _ramp(
                            behind, np.float32(0.8), np.float32(4.5)
                        )
                    else:
                        r, g, bl = np.float32(0.25), np.float32(0.07), np.float32(0.06)
                        occlusion = np.float32(0.5) - np.float32(0.47) * _ramp(
                            behind, np.float32(0.3), np.float32(3.0)
                        )
                    shine = np.float32(0.12)
                elif kind == EYE_SOCKET:
                    r, g, bl = r * np.float32(0.55), g * np.float32(0.35), bl * np.float32(0.35)
                    occlusion = np.float32(0.6)
                elif kind == HAIR:
                    u = wa * scene.uv[a, 0] + wb * scene.uv[b, 0] + wc * scene.uv[c, 0]
                    v = wa * scene.uv[a, 1] + wb * scene.uv[b, 1] + wc * scene.uv[c, 1]
                    strand = scene.fine[math.floor(v * np.float32(0.12)) & 255, math.floor(u) & 255]
                    lock = scene.fine[
                        math.floor(v * np.float32(0.03)) & 255,
                        math.floor(u * np.float32(0.16)) & 255,
                    ]
                    tone = np.float32(0.45) + np.float32(0.5) * strand + np.float32(0.45) * lock
                    r, g, bl = scene.hair[0] * tone, scene.hair[1] * tone, scene.hair[2] * tone
                    shine = np.float32(0.05) * strand
                    bleed = np.float32(0.35)
                elif kind == GLASSES:
                    r, g, bl = scene.glasses[0], scene.glasses[1], scene.glasses[2]
                    shine = np.float32(0.25)

                elif kind == CLOTHES:
                    v = wa * scene.uv[a, 1] + wb * scene.uv[b, 1] + wc * scene.uv[c, 1]
                    second_colour = math.sin(np.float32(2 * math.pi) * scene.clothes[6] * v) > np.float32(0.4)
                    k0 = 3 if second_colour else 0
                    r, g, bl = scene.clothes[k0], scene.clothes[k0 + 1], scene.clothes[k0 + 2]

                length = math.sqrt(nx * nx + ny * ny + nz * nz) + np.float32(1e-6)
                nx, ny, nz = nx / length, ny / length, nz / length
                if kind in (GLASSES, HAIR, CLOTHES) and nz < 0:
                    nx, ny, nz = -nx, -ny, -nz
                facing = nx * lx + ny * ly + nz * lz
                open_to_light = np.float32(1.0)
                if facing > -bleed and directional > 0.02:
                    open_to_light = _lit(scene, px, py, pz)
                # Light enters skin a little past the terminator, red furthest.
                diffuse = max(np.float32(0.0), (facing + bleed) / (1 + bleed)) * open_to_light
                diffuse_red = max(np.float32(0.0), (facing + 2 * bleed) / (1 + 2 * bleed)) * (
                    np.float32(0.25) + np.float32(0.75) * open_to_light
                )
                diffuse_red = np.float32(0.7) * diffuse + np.float32(0.3) * diffuse_red
                behind_light = max(np.float32(0.0), nx * bx + ny * by + nz * bz) * second
                sky = (
                    ambient
                    * (np.float32(0.78) + np.float32(0.22) * ny)
                    * (np.float32(0.8) + np.float32(0.2) * nz)
                )
                strength = np.float32(1.25) * directional
                highlight = np.float32(0.0)
                half = nx * hx + ny * hy + nz * hz
                if half > 0:
                    p = half * half
                    p = p * p
                    p = p * p
                    if kind == EYE:
                        p = p * p
                        p = p * p
                        p = p * p
                        p = p * p
                        highlight = np.float32(0.9) * p * occlusion
                    elif shine > 0:
                        highlight = shine * (p + np.float32(0.6) * p * p)
                highlight *= (np.float32(0.25) + directional) * open_to_light
                r = r * (sky + strength * diffuse_red + behind_light) * occlusion + highlight
                g = g * (sky + strength * diffuse + behind_light) * occlusion + highlight
                bl = bl * (sky + strength * diffuse + behind_light) * occlusion + highlight

                lash = lash_veil[sy, sx] * np.float32(lash_opacity)
                if lash > 0:
                    r *= 1 - lash
                    g *= 1 - lash
                    bl *= 1 - lash
                lens = lens_veil[sy, sx]
                if lens > 0:
                    shine_here = glare * _ramp(
                        np.float32(math.sin(0.05 * sx + 0.035 * sy)), np.float32(0.2), np.float32(0.9)
                    )
                    keep = 1 - lens
                    r, g, bl = r * keep + shine_here, g * keep + shine_here, bl * keep + shine_here
                red += r
                green += g
                blue += bl
            if count == 0:
                out[row, column, 3] = 0
                continue
            scale = np.float32(last) / count
            out[row, column, 0] = curve[int(min(max(red * scene.colour[0] * scale, 0), last))]
            out[row, column, 1] = curve[int(min(max(green * scene.colour[1] * scale, 0), last))]
            out[row, column, 2] = curve[int(min(max(blue * scene.colour[2] * scale, 0), last))]
            out[row, column, 3] = (255 * count) // (SUPERSAMPLING * SUPERSAMPLING)


@numba.njit(cache=True, nogil=True)
def spread_edges(image):  # type: ignore[no-untyped-def]
    """Give pixels of no coverage the colour of a covered pixel of their row, else of the row below.

    So interpolation at the outline does not mix in black.
    """
    height, width = image.shape[0], image.shape[1]
    for step in range(height):
        row = height - 1 - step
        first, last = -1, -1
        for column in range(width):
            if image[row, column, 3] > 0:
                if first < 0:
                    first = column
                last = column
        if first < 0:
            for column in range(width):
                for ch in range(3):
                    image[row, column, ch] = image[row + 1, column, ch] if row + 1 < height else 0
            continue
        previous = first
        for column in range(width):
            if image[row, column, 3] > 0:
                previous = column
            else:
                source = last if column > last else previous
                for ch in range(3):
                    image[row, column, ch] = image[row, source, ch]


def srgb_curve() -> np.ndarray:
    """[4096] uint8: display value of linear light index / 4095."""
    return np.round(255 * (np.arange(4096) / 4095) ** (1 / 2.2)).astype(np.uint8)
