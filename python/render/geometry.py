"""Where things are: head rotation, perspective, alignment to the crop template, blending of the mesh.

Frames
------
Head (the face model's own): centimetres, x to the subject's left, y up, z out of the face.
Camera: the same axes when pose is zero: x to image right, y up, z towards the camera.
Image: pixels, pixel centres at integers, x right, y down.

Pose
----
``R = Rz(roll) @ Ry(-yaw) @ Rx(-pitch)`` maps head to camera: pitch about the head's own ear-to-ear axis, then
yaw about the camera's vertical, then roll about the viewing axis. Positive pitch looks up, positive yaw turns
to the subject's right (image left), positive roll tilts the crown to the subject's right (image left).
Roll is outermost, so the in-plane rotation of the alignment adds to it exactly.
"""

from __future__ import annotations

import math

import numba
import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]

CROP_SIZE = 128
"""Side of the aligned face crop that the networks see, px."""
MARGIN = 32
"""Rendered on every side of the crop, px, so that training can jitter the alignment."""
CANVAS = CROP_SIZE + 2 * MARGIN

EYE_DISTANCE_PX = 38.0
EYE_ROW_PX = 44.0
# Neutral ICT-FaceKit face seen from the front, centimetres: the eye centres (means of landmarks 36-41 and
# 42-47) are 6.5129 apart, and the nose tip (landmark 30) lies 3.0360 below their line.
_NEUTRAL_EYE_DISTANCE_CM = 6.5129
_NEUTRAL_NOSE_DROP_CM = 3.0360

_CENTRE = (CROP_SIZE - 1) / 2
TEMPLATE: F32 = np.array(
    [
        [_CENTRE - EYE_DISTANCE_PX / 2, EYE_ROW_PX],
        [_CENTRE + EYE_DISTANCE_PX / 2, EYE_ROW_PX],
        [_CENTRE, EYE_ROW_PX + EYE_DISTANCE_PX * _NEUTRAL_NOSE_DROP_CM / _NEUTRAL_EYE_DISTANCE_CM],
    ],
    np.float32,
)
"""Crop pixels [3, 2] of the eye centre at image left (the subject's right), the other one, the nose tip."""


def rotation(pitch: float, yaw: float, roll: float) -> F32:
    """Head-to-camera rotation [3, 3] of a pose in radians (see the module's text for order and signs)."""
    cp, sp = math.cos(pitch), math.sin(pitch)
    cy, sy = math.cos(yaw), math.sin(yaw)
    cr, sr = math.cos(roll), math.sin(roll)
    rx = np.array([[1, 0, 0], [0, cp, sp], [0, -sp, cp]])
    ry = np.array([[cy, 0, -sy], [0, 1, 0], [sy, 0, cy]])
    rz = np.array([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]])
    return (rz @ ry @ rx).astype(np.float32)


def alignment_points(landmarks: F32) -> F32:
    """[..., 68, D] landmarks -> [..., 3, D]: the points that TEMPLATE places."""
    at_left = landmarks[..., 36:42, :].mean(-2)
    at_right = landmarks[..., 42:48, :].mean(-2)
    return np.stack([at_left, at_right, landmarks[..., 30, :]], -2)


def outer_eye_distance(landmarks: NDArray[np.floating]) -> float:
    """Between the outer corners of the eyes, of landmarks [68, D]."""
    return float(np.linalg.norm(landmarks[36] - landmarks[45]))


def similarity(source: F32, target: F32) -> NDArray[np.float64]:
    """Least-squares rotation, scale and shift, without reflection: [N, 2] -> [N, 2], as a matrix [2, 3]."""
    source, target = source.astype(np.float64), target.astype(np.float64)
    ms, mt = source.mean(0), target.mean(0)
    a, b = source - ms, target - mt
    norm = (a * a).sum()
    if not norm > 0:
        raise ValueError("source: expected points that are not all the same")
    c = (a * b).sum() / norm
    s = (a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]).sum() / norm
    linear = np.array([[c, -s], [s, c]])
    return np.concatenate([linear, (mt - linear @ ms)[:, None]], 1)


def roll_of_similarity(matrix: NDArray[np.float64]) -> float:
    """Roll in radians that an image similarity [2, 3] adds to a head (image y is down, hence the sign)."""
    return -math.atan2(matrix[1, 0], matrix[0, 0])


@numba.njit(cache=True, nogil=True)
def blend(out, neutral, deltas, weights, active, step, block):  # type: ignore[no-untyped-def]
    """out = neutral + step * sum_k weights[k] * deltas[k], over flattened coordinates.

    `active` [K, blocks] marks the blocks of `block` coordinates in which a shape moves anything; the others
    are skipped.
    """
    n_shapes = weights.shape[0]
    accumulated = np.empty(block, np.float32)
    for first in range(0, neutral.shape[0], block):
        last = min(first + block, neutral.shape[0])
        n = last - first
        for i in range(n):
            accumulated[i] = 0.0
        for k in range(n_shapes):
            w = weights[k]
            if w == 0.0 or not active[k, first // block]:
                continue
            row = deltas[k]
            for i in range(n):
                accumulated[i] += w * np.float32(row[first + i])
        for i in range(n):
            out[first + i] = neutral[first + i] + step * accumulated[i]


@numba.njit(cache=True, nogil=True)
def rotate_project(points, rot, pivot, distance, out_camera, out_xy, out_iw):  # type: ignore[no-untyped-def]
    """Head-frame points [V, 3] -> camera frame, perspective plane (x right, y down; cm), 1 / depth."""
    for v in range(points.shape[0]):
        x = points[v, 0] - pivot[0]
        y = points[v, 1] - pivot[1]
        z = points[v, 2] - pivot[2]
        cx = rot[0, 0] * x + rot[0, 1] * y + rot[0, 2] * z
        cy = rot[1, 0] * x + rot[1, 1] * y + rot[1, 2] * z
        cz = rot[2, 0] * x + rot[2, 1] * y + rot[2, 2] * z
        out_camera[v, 0] = cx
        out_camera[v, 1] = cy
        out_camera[v, 2] = cz
        iw = np.float32(1.0) / (distance - cz)
        out_iw[v] = iw
        out_xy[v, 0] = distance * cx * iw
        out_xy[v, 1] = -distance * cy * iw


@numba.njit(cache=True, nogil=True)
def vertex_normals(points, triangles, out):  # type: ignore[no-untyped-def]
    """Area-weighted unit normals [V, 3] of points [V, 3]; a vertex of no triangle keeps (0, 0, 0)."""
    out[:] = 0.0
    for t in range(triangles.shape[0]):
        a, b, c = triangles[t, 0], triangles[t, 1], triangles[t, 2]
        ux = points[b, 0] - points[a, 0]
        uy = points[b, 1] - points[a, 1]
        uz = points[b, 2] - points[a, 2]
        vx = points[c, 0] - points[a, 0]
        vy = points[c, 1] - points[a, 1]
        vz = points[c, 2] - points[a, 2]
        nx = uy * vz - uz * vy
        ny = uz * vx - ux * vz
        nz = ux * vy - uy * vx
        for v in (a, b, c):
            out[v, 0] += nx
            out[v, 1] += ny
            out[v, 2] += nz
    for v in range(out.shape[0]):
        length = math.sqrt(out[v, 0] ** 2 + out[v, 1] ** 2 + out[v, 2] ** 2)
        if length > 0:
            out[v, 0] /= length
            out[v, 1] /= length
            out[v, 2] /= length
