"""What people wear: hair (a shell around the scalp, a fringe, a curtain when long), spectacles, clothes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .assets import FACE, HEAD, FaceModel
from .geometry import F32
from .sampling import ClothesChoice, GlassesChoice, HairChoice
from .skin import hairline_height

_REACH = 4.8
"""The shell starts this far below the average hairline, cm, so that a fringe can come down over the brows."""
_CENTRE = np.array([0.0, 4.0, 1.5], np.float32)


@dataclass(frozen=True)
class HairModel:
    """A copy of the scalp's triangles, pushed outwards, followed by a curtain grid hung from the scalp."""

    roots: NDArray[np.int32]  # [Vh] face-model vertex that carries each hair vertex
    height: F32  # [Vh] cm above the average hairline
    outward: F32  # [Vh, 3]
    rest: F32  # [Vh, 3] head position at rest
    hang: F32  # [Vh] 0 on the scalp, 1 at the lower end of the curtain
    side: F32  # [Vh] angle from the front around the vertical, rad, positive to the subject's left
    triangles: NDArray[np.int32]  # [Th, 3] into hair vertices
    uv: F32  # [Vh, 2] strand coordinates: around, down


def build_hair_model(face: FaceModel) -> HairModel:
    outside = np.isin(face.material, (FACE, HEAD))
    height = hairline_height(face.neutral)
    eligible = (height > -_REACH) & ~face.ear & (face.neutral[:, 1] > -9)
    # In front only the forehead can be covered; the hair stops above the eyes.
    eligible &= (face.neutral[:, 2] < 5.5) | (face.neutral[:, 1] > 5.3)
    triangles = face.triangles[outside]
    triangles = triangles[eligible[triangles].all(1)]
    roots = np.unique(triangles).astype(np.int32)
    new = np.full(len(face.neutral), -1, np.int32)
    new[roots] = np.arange(len(roots))
    shell = new[triangles]
    position = face.neutral[roots]
    outward = position - _CENTRE
    outward /= np.linalg.norm(outward, axis=1, keepdims=True)

    columns, rows = 56, 14
    scalp = roots[(position[:, 1] > 0.5) & (position[:, 1] < 6) & (position[:, 2] < 4.5)]
    angles = np.linspace(-np.pi, np.pi, columns, endpoint=False) + np.pi / columns
    grid_rest, grid_root, hang, side = [], [], [], []
    scalp_angle = np.arctan2(face.neutral[scalp, 0], face.neutral[scalp, 2])
    for angle in angles:
        gap = np.abs(np.angle(np.exp(1j * (scalp_angle - angle)))) + 0.25 * np.abs(
            face.neutral[scalp, 1] - 4.5
        )
        root = scalp[int(np.argmin(gap))]
        for t in np.linspace(0, 1, rows):
            # Ellipse around the head at ear height, a little wider than the ears.
            grid_rest.append((8.6 * np.sin(angle), 5.5 - 22.0 * t, -0.6 + 8.6 * np.cos(angle)))
            grid_root.append(root)
            hang.append(t)
            side.append(angle)
    first = len(roots)
    curtain = []
    for i in range(columns):
        for j in range(rows - 1):
            a, b = first + i * rows + j, first + ((i + 1) % columns) * rows + j
            curtain += [(a, a + 1, b), (b, a + 1, b + 1)]
    rest = np.array(grid_rest, np.float32)
    all_rest = np.concatenate([position, rest])
    all_side = np.concatenate([np.arctan2(position[:, 0], position[:, 2] - 1.5), np.array(side)]).astype(
        np.float32
    )
    out_grid = np.stack([np.sin(side), np.zeros(len(side)), np.cos(side)], 1)
    # Around: about two strands per sample; down: long. Measured on rest positions, so hair does not swim.
    down = np.concatenate([np.arccos(np.clip(outward[:, 1], -1, 1)) * 9.0, 12.0 - rest[:, 1]])
    return HairModel(
        roots=np.concatenate([roots, np.array(grid_root, np.int32)]),
        height=np.concatenate([height[roots], np.full(len(rest), 9.0)]).astype(np.float32),
        outward=np.concatenate([outward, out_grid]).astype(np.float32),
        rest=all_rest.astype(np.float32),
        hang=np.concatenate([np.zeros(len(roots)), np.array(hang) + 1e-3]).astype(np.float32),
        side=all_side,
        triangles=np.concatenate([shell, np.array(curtain, np.int32)]).astype(np.int32),
        uv=np.stack([all_side * 70.0, down * 1.6], 1).astype(np.float32),
    )


def place_hair(model: HairModel, choice: HairChoice, vertices: F32, neutral: F32) -> tuple[F32, F32]:
    """Hair vertices [Vh, 3] in the head frame, and their density [Vh] (<= 0: none; see draw_strands)."""
    rest, lump = model.rest, choice.lump
    x, y, z = rest[:, 0], rest[:, 1], rest[:, 2]
    wave = (
        1
        + 0.14 * lump[0] * np.sin(0.45 * x + 2 * lump[1])
        + 0.14 * lump[2] * np.sin(0.5 * y + 2 * lump[3])
        + 0.14 * lump[4] * np.cos(0.4 * z + 2 * lump[5])
    ).clip(0.3, 1.8)

    over = np.zeros_like(x)
    if choice.fringe > 0:
        over = choice.fringe * np.exp(-(((x - choice.fringe_x) / choice.fringe_width) ** 2)) * (z > 4)
    above = model.height + choice.hairline + over
    rise = np.clip(above / 2.5, 0, 1) ** 0.7
    thick = (choice.thickness * rise * wave + 0.12).astype(np.float32)
    shell = vertices[model.roots] + model.outward * thick[:, None]
    density = above / choice.ragged

    hanging = model.hang > 0
    if choice.length > 0:
        end = choice.length + 5.5
        down = 22.0 * model.hang
        swell = (choice.thickness * 0.5 * wave)[:, None] * model.outward
        moved = rest + (vertices[model.roots] - neutral[model.roots]) + swell
        # Below the ears the hair falls straight, a little towards the neck.
        moved[:, 0] *= 1 - 0.012 * np.clip(down - 6, 0, None) * (0.5 + 0.5 * np.tanh(lump[0]))
        shell = np.where(hanging[:, None], moved, shell)
        free = (np.abs(model.side) - choice.opening) / 0.25
        density = np.where(hanging, np.minimum(free, (end - down) / 1.5), density)
    else:
        density = np.where(hanging, -1.0, density)
    if choice.bald:
        density = np.full_like(density, -1.0)
    return shell.astype(np.float32), density.astype(np.float32)


_RING = 40


def build_glasses_triangles() -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """(frame, lens) triangles into the vertices of `place_glasses`."""
    frame, lens = [], []
    for eye in range(2):
        first = eye * (2 * _RING)
        for i in range(_RING):
            j = (i + 1) % _RING
            a, b, c, d = first + i, first + j, first + _RING + i, first + _RING + j
            frame += [(a, b, c), (c, b, d)]
            if 0 < i < _RING - 1:
                lens.append((first, first + i, first + j))
    bars = 4 * _RING
    for k in range(3):  # bridge, left temple, right temple
        a = bars + 4 * k
        frame += [(a, a + 1, a + 2), (a + 2, a + 1, a + 3)]
    return np.array(frame, np.int32), np.array(lens, np.int32)


def place_glasses(choice: GlassesChoice, landmarks: F32) -> F32:
    """Vertices [4 * ring + 12, 3] of a frame on the nose of a head with `landmarks` [68, 3] (cm)."""
    centres = np.stack([landmarks[42:48].mean(0), landmarks[36:42].mean(0)])
    middle = centres.mean(0)
    bridge = landmarks[27]
    plane = max(float(bridge[2]) + 0.25, float(centres[:, 2].max()) + 1.1)
    angle = np.linspace(0, 2 * np.pi, _RING, endpoint=False)
    power = 2.0 / choice.roundness
    outline = np.stack(
        [
            np.sign(np.cos(angle)) * np.abs(np.cos(angle)) ** power,
            np.sign(np.sin(angle)) * np.abs(np.sin(angle)) ** power,
        ],
        1,
    )
    half = np.array([choice.half_width, choice.half_height])
    out = []
    for centre in centres:
        side = np.sign(centre[0] - middle[0])
        at = np.array([middle[0] + side * (half[0] + 0.85), centre[1] - choice.drop])
        for size in (half - choice.rim / 2, half + choice.rim / 2):
            xy = at + outline * size
            # The frame curves backwards with the face.
            depth = plane - 0.035 * (xy[:, 0] - middle[0]) ** 2
            out.append(np.concatenate([xy, depth[:, None]], 1))
    y = middle[1] - choice.drop + 0.35 * choice.half_height
    bar = max(choice.rim, 0.12)
    out.append(
        np.array(
            [
                (middle[0] - 0.95, y, plane),
                (middle[0] - 0.95, y + bar, plane),
                (middle[0] + 0.95, y, plane),
                (middle[0] + 0.95, y + bar, plane),
            ]
        )
    )
    reach = 2 * half[0] + 0.85 + choice.rim / 2
    for side, ear in ((1, 16), (-1, 0)):
        x0, x1 = middle[0] + side * reach, landmarks[ear, 0] + side * 0.35
        z0, z1 = plane - 0.035 * reach**2, landmarks[ear, 2] - 1.0
        out.append(np.array([(x0, y, z0), (x0, y + bar, z0), (x1, y, z1), (x1, y + bar, z1)]))
    return np.concatenate(out).astype(np.float32)


_BODY_COLUMNS, _BODY_ROWS = 36, 10


def build_clothes_triangles() -> NDArray[np.int32]:
    """Triangles into the vertices of `place_clothes`."""
    out = []
    for i in range(_BODY_COLUMNS):
        j = (i + 1) % _BODY_COLUMNS
        for r in range(_BODY_ROWS - 1):
            a, b = i * _BODY_ROWS + r, j * _BODY_ROWS + r
            out += [(a, a + 1, b), (b, a + 1, b + 1)]
    return np.array(out, np.int32)


# Rows from the collar outwards: cm below the collar, half width (from row 3 on a share of the shoulders'),
# half depth.
_PROFILE = np.array(
    [(-0.6, 6.2, 5.6), (0.0, 7.0, 6.2), (0.8, 9.0, 7.0), (1.6, 0.62, 7.6), (2.6, 0.8, 8.2), (4.0, 0.92, 8.8),
     (6.0, 1.0, 9.4), (9.0, 1.06, 10.0), (14.0, 1.1, 10.5), (40.0, 1.15, 11.0)]
)  # fmt: skip


def clothes_uv() -> F32:
    """[36 * 10, 2]: 0, and cm along the cloth from the collar, for stripes."""
    along = np.tile(_PROFILE[:, 0], _BODY_COLUMNS)
    return np.stack([np.zeros_like(along), along], 1).astype(np.float32)


def place_clothes(choice: ClothesChoice, chin: F32, body_to_head: F32) -> F32:
    """Collar and shoulders [36 * 10, 3] in the head frame; the body has turned less than the head."""
    profile = _PROFILE.copy()
    profile[3:, 1] *= choice.shoulder
    angle = np.linspace(0, 2 * np.pi, _BODY_COLUMNS, endpoint=False)
    top = chin[1] - choice.collar
    x = np.sin(angle)[:, None] * profile[None, :, 1]
    # The collar is lower in front.
    y = top - profile[None, :, 0] - 1.2 * np.cos(angle)[:, None] * np.exp(-profile[None, :, 0])
    z = np.cos(angle)[:, None] * profile[None, :, 2] - 2.0
    points = np.stack([x, np.broadcast_to(y, x.shape), z], -1).reshape(-1, 3)
    neck = np.array([0.0, top + 2.0, -2.0])
    return ((points - neck) @ body_to_head.T + neck).astype(np.float32)
