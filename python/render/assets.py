"""The face model, reduced to what a camera can see and put in drawing order."""

from __future__ import annotations

import argparse
import csv
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .geometry import F32

I32 = NDArray[np.int32]

TABLES = Path(__file__).resolve().parents[2] / "genet_ext" / "data"
N_IDENTITY = 47
BLOCK = 3 * 256
"""Coordinates blended together; a shape that moves nothing in a block is skipped there."""

# What a triangle is made of. FACE carries the skin texture; the shells of the eyes (ICT's sclera, lacrimal
# fluid, eye blend, eye occlusion) are left out: they are made for a renderer with refraction.
FACE, HEAD, SOCKET, EYE_SOCKET, GUMS, TEETH, EYE, LASHES, HAIR, GLASSES, CLOTHES = range(11)
_DRAWN = {
    "M_Face": FACE,
    "M_BackHead": HEAD,
    "M_GumsTongue": GUMS,
    "M_Teeth": TEETH,
    "M_IrisLeft": EYE,
    "M_IrisRight": EYE,
    "M_EyeLashes": LASHES,
}
_MOUTH_PARTS = ("mouth_socket", "gums_tongue", "teeth")

# Shapes of our own (see _local_shapes): they vary the shape of eyes and brows without being an action unit.
LOCAL_SHAPES = ("canthus_raise", "fissure_length", "brow_apart", "brow_tilt", "brow_height")


@dataclass(frozen=True)
class ParameterTable:
    """The rows of parameters.csv and how expression parameters drive the face model's shapes."""

    names: tuple[str, ...]
    groups: tuple[str, ...]
    lower: F32  # [P]
    upper: F32  # [P]
    shape_weights: dict[str, dict[str, float]]

    @cached_property
    def expression(self) -> tuple[str, ...]:
        return tuple(n for n, g in zip(self.names, self.groups, strict=True) if g == "expression")

    def index(self, name: str) -> int:
        return self.names.index(name)


def read_parameters() -> ParameterTable:
    with (TABLES / "parameters.csv").open(newline="") as f:
        rows = list(csv.DictReader(f))
    shapes: dict[str, dict[str, float]] = {}
    with (TABLES / "parameter_shapes.csv").open(newline="") as f:
        for row in csv.DictReader(f):
            shapes.setdefault(row["parameter"], {})[row["shape"]] = float(row["weight"])
    return ParameterTable(
        names=tuple(r["name"] for r in rows),
        groups=tuple(r["group"] for r in rows),
        lower=np.array([float(r["lower"]) for r in rows], np.float32),
        upper=np.array([float(r["upper"]) for r in rows], np.float32),
        shape_weights=shapes,
    )


@dataclass(frozen=True)
class FaceModel:
    """What is drawn of ICT-FaceKit. Lengths in cm, head frame. V vertices, T triangles, S shapes."""

    neutral: F32  # [V, 3]
    deltas: NDArray[np.int16]  # [47 + S, V * 3], identity modes first
    active: NDArray[np.bool_]  # [47 + S, blocks]
    step: float
    shapes: tuple[str, ...]  # S names
    triangles: I32  # [T, 3], grouped: outside, eyes | lashes | mouth
    material: NDArray[np.uint8]  # [T]
    uv: F32  # [V, 2], texels of a 256 x 256 texture, for FACE
    landmarks: I32  # [68]
    dense: I32  # [D], fixed vertices for dense supervision
    ear: NDArray[np.bool_]  # [V]
    eyeball_part: NDArray[np.int8]  # [V], 0 left, 1 right, -1 none
    first_lash_triangle: int
    first_mouth_triangle: int

    @cached_property
    def landmark_deltas(self) -> F32:
        """[47 + S, 68, 3] cm: how identity modes and shapes move the landmarks."""
        deltas = self.deltas.reshape(len(self.deltas), -1, 3)
        return deltas[:, self.landmarks] * np.float32(self.step)

    def shape_matrix(self, shape_weights: Sequence[Mapping[str, float]]) -> F32:
        """[N, S] of N mappings from shapes to weights."""
        matrix = np.zeros((len(shape_weights), len(self.shapes)), np.float32)
        for row, weights in enumerate(shape_weights):
            for shape, weight in weights.items():
                matrix[row, self.shapes.index(shape)] = weight
        return matrix

    @cached_property
    def eye_centres(self) -> F32:
        """[2, 3]: centre of the left and the right eyeball at rest (means of their extents)."""
        centres = []
        for side in (0, 1):
            ball = self.neutral[self.eyeball_part == side]
            centres.append((ball.min(0) + ball.max(0)) / 2)
        return np.stack(centres)


def add_assets_option(
    parser: argparse.ArgumentParser, files: str = "ict_facekit.npz and frll_albedo_train.npz"
) -> None:
    """The option --assets of scripts that read these files."""
    default = os.environ.get("GENET_ASSETS")
    parser.add_argument(
        "--assets",
        type=Path,
        default=default,
        required=default is None,
        metavar="DIR",
        help=f"folder with {files} (default: $GENET_ASSETS)",
    )


def load_face_model(path: Path) -> FaceModel:
    """`path`: ict_facekit.npz. Raises FileNotFoundError, or KeyError for a file of another kind."""
    with np.load(path) as z:
        neutral_all = z["neutral"].astype(np.float32)
        triangles_all = z["triangles"]
        uv_all = z["vertex_uv"]
        part = z["vertex_part"]
        part_names = [str(n) for n in z["part_names"]]
        materials = [str(n) for n in z["material_names"]]
        kind = np.array([_DRAWN.get(m, -1) for m in materials])[z["triangle_material"]]
        identity = z["identity"][:N_IDENTITY]
        expression = z["expression"]
        shapes = tuple(str(n) for n in z["expression_names"])
        landmarks_all = z["landmarks_multipie68"]
        step = float(z["delta_step"])

    triangle_part = np.array(part_names)[part[triangles_all[:, 0]]]
    kind = kind.copy()
    kind[(kind == HEAD) & (triangle_part == "mouth_socket")] = SOCKET
    kind[(kind == HEAD) & np.char.startswith(triangle_part, "eye_socket")] = EYE_SOCKET
    keep = kind >= 0
    triangles, kind, triangle_part = triangles_all[keep], kind[keep], triangle_part[keep]
    in_mouth = np.isin(triangle_part, _MOUTH_PARTS)
    order = np.argsort(np.where(in_mouth, 2, np.where(kind == LASHES, 1, 0)), kind="stable")
    triangles, kind, in_mouth = triangles[order], kind[order], in_mouth[order]

    used = np.unique(triangles)
    new = np.full(len(neutral_all), -1, np.int32)
    new[used] = np.arange(len(used))
    neutral = _without_shoulders(neutral_all[used])
    uv = uv_all[used]
    names = np.array(part_names)[part[used]]
    eyeball = np.where(names == "eyeball_left", 0, np.where(names == "eyeball_right", 1, -1)).astype(np.int8)
    # The two side patches of the texture are the ears.
    ear = (names == "face") & ((uv[:, 0] < 0.14) | (uv[:, 0] > 0.86)) & (uv[:, 1] > 0.38) & (uv[:, 1] < 0.72)

    landmarks = new[landmarks_all]
    local = _local_shapes(neutral, names, landmarks, step)
    deltas = np.concatenate([identity[:, used], expression[:, used], local]).reshape(-1, 3 * len(used))
    blocks = -(-deltas.shape[1] // BLOCK)
    padded = np.zeros((len(deltas), blocks * BLOCK), bool)
    padded[:, : deltas.shape[1]] = deltas != 0
    return FaceModel(
        neutral=neutral,
        deltas=np.ascontiguousarray(deltas),
        active=padded.reshape(len(deltas), blocks, BLOCK).any(-1),
        step=step,
        shapes=shapes + LOCAL_SHAPES,
        triangles=np.ascontiguousarray(new[triangles]),
        material=kind.astype(np.uint8),
        uv=np.stack([uv[:, 0] * 256 - 0.5, (1 - uv[:, 1]) * 256 - 0.5], 1).astype(np.float32),
        landmarks=landmarks,
        dense=_dense_vertices(neutral, names, landmarks, ear),
        ear=ear,
        eyeball_part=eyeball,
        first_lash_triangle=int(np.argmax(kind == LASHES)),
        first_mouth_triangle=int(np.argmax(in_mouth)),
    )


def _without_shoulders(vertices: F32) -> F32:
    """The model's bare shoulders drawn in to the neck [V, 3]: what people wear is put there instead."""
    out = vertices.copy()
    low = np.clip((-8.8 - out[:, 1]) / 1.5, 0, 1)
    for axis, centre, half in ((0, 0.0, 5.6), (2, -2.0, 5.0)):
        offset = out[:, axis] - centre
        out[:, axis] += low * (np.clip(offset, -half, half) - offset)
    return out


def _local_shapes(neutral: F32, names: NDArray[np.str_], landmarks: I32, step: float) -> NDArray[np.int16]:
    """Smooth bumps [5, V, 3] around eyes and brows, symmetric, weight 1 = 1 cm at the centre of the bump."""
    soft = (names == "face") | np.char.startswith(names, "eyelashes")
    shapes = np.zeros((len(LOCAL_SHAPES), len(neutral), 3), np.float32)

    def bump(centre: F32, radius: tuple[float, float, float]) -> F32:
        d = ((neutral - centre) / np.array(radius, np.float32)) ** 2
        out: F32 = np.exp(-0.5 * d.sum(-1)) * soft
        return out

    for outer, inner, brow, side in ((45, 42, slice(22, 27), 1.0), (36, 39, slice(17, 22), -1.0)):
        outer_at, inner_at = neutral[landmarks[outer]], neutral[landmarks[inner]]
        at_outer = bump(outer_at, (0.8, 0.6, 1.5))
        shapes[0, :, 1] += at_outer
        shapes[1, :, 0] += side * (at_outer - 0.4 * bump(inner_at, (0.5, 0.5, 1.5)))
        shapes[1, :, 2] -= 0.5 * at_outer
        points = neutral[landmarks[brow]]
        middle = points[2]
        whole = bump(middle, (1.9, 0.75, 3.0))
        shapes[2, :, 0] += side * whole
        shapes[3, :, 1] += whole * np.clip(side * (neutral[:, 0] - middle[0]) / 2.0, -1, 1)
    shapes[4, :, 1] = _brow_band(neutral, neutral[landmarks[22:27]]) * soft
    return np.round(shapes / step).astype(np.int16)


def _brow_band(neutral: F32, brow: F32) -> F32:
    """How much each point [V] goes along when both brows, with the skin between them, sit higher or lower.

    Args:
        neutral: [V, 3].
        brow: [5, 3] the left brow's landmarks, from the inner end to the outer one.
    """
    side = np.abs(neutral[:, 0])
    above = neutral[:, 1] - np.interp(side, brow[:, 0], brow[:, 1])
    # The lids stay where they are, 2 cm below; the forehead gives way over a longer stretch.
    band = np.exp(-0.5 * (above / np.where(above > 0, 1.6, 0.8)) ** 2)
    beside = np.clip(side - brow[-1, 0], 0, None)
    behind = np.clip(brow[-1, 2] - neutral[:, 2], 0, None)
    out: F32 = (band * np.exp(-0.5 * beside**2 - 0.5 * (behind / 1.5) ** 2)).astype(np.float32)
    return out


def _dense_vertices(neutral: F32, names: NDArray[np.str_], landmarks: I32, ear: NDArray[np.bool_]) -> I32:
    """200 vertices [D]: farthest-point samples, stratified so that lids, lips and brows get many."""
    face = (names == "face") & ~ear & (neutral[:, 1] > -8.5) & (neutral[:, 1] < 10) & (neutral[:, 2] > 3.5)
    xy = neutral[:, :2]

    def near(indices: range, distance: float) -> NDArray[np.bool_]:
        points = xy[landmarks[list(indices)]]
        return face & (np.linalg.norm(xy[:, None] - points[None], axis=-1).min(1) < distance)

    regions = [
        (near(range(36, 42), 0.45), 20),
        (near(range(42, 48), 0.45), 20),
        (near(range(17, 22), 0.7), 16),
        (near(range(22, 27), 0.7), 16),
        (near(range(48, 68), 0.5), 44),
        (near(range(27, 36), 1.0), 24),
        (face, 60),
    ]
    chosen: list[int] = []
    for region, count in regions:
        candidates = np.setdiff1d(np.flatnonzero(region), chosen)
        picked = [int(candidates[0])]
        distance = np.linalg.norm(neutral[candidates] - neutral[picked[0]], axis=1)
        for _ in range(min(count, len(candidates)) - 1):
            picked.append(int(candidates[int(np.argmax(distance))]))
            distance = np.minimum(distance, np.linalg.norm(neutral[candidates] - neutral[picked[-1]], axis=1))
        chosen += picked
    return np.array(chosen, np.int32)
