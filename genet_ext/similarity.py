"""Similarities of the plane: rotation, scale and shift, as matrices [..., 2, 3]."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

FloatArray: TypeAlias = npt.NDArray[np.float64]


def similarity_between(source: FloatArray, target: FloatArray) -> FloatArray:
    """The similarities [B, 2, 3] that take points [B, n, 2] to others [B, n, 2], least squares.

    Not finite where the points are not, or where all of a source's coincide.
    """
    # As complex numbers a similarity is z -> a z + b.
    z, w = (points[..., 0] + 1j * points[..., 1] for points in (source, target))
    z_mean, w_mean = (points.mean(1, keepdims=True) for points in (z, w))
    spread = (np.abs(z - z_mean) ** 2).sum(1)
    with np.errstate(divide="ignore", invalid="ignore"):
        a = ((z - z_mean).conj() * (w - w_mean)).sum(1) / spread
        b = w_mean[:, 0] - a * z_mean[:, 0]
    rows = [np.stack([a.real, -a.imag, b.real], 1), np.stack([a.imag, a.real, b.imag], 1)]
    return np.stack(rows, axis=1)


def scale_of(similarity: FloatArray) -> Any:
    """Crop pixels per photograph pixel, of similarities [..., 2, 3]."""
    return np.hypot(similarity[..., 0, 0], similarity[..., 1, 0])


def rotation_of(similarity: FloatArray) -> Any:
    """Angle of similarities [..., 2, 3] in radians; positive turns the picture clockwise as seen (y is down).

    It is the roll that alignment took out of the face: positive when the crown tilts to the image's left.
    """
    return np.arctan2(similarity[..., 1, 0], similarity[..., 0, 0])


def invert(similarity: FloatArray) -> FloatArray:
    """Inverse of similarities [..., 2, 3]."""
    linear = np.linalg.inv(similarity[..., :2])
    return np.concatenate([linear, -linear @ similarity[..., 2:]], axis=-1)


def transform(similarity: FloatArray, points: npt.ArrayLike) -> FloatArray:
    """Points [..., n, 2] through similarities [..., 2, 3]."""
    moved: FloatArray = np.asarray(points, np.float64) @ np.swapaxes(similarity[..., :2], -1, -2)
    return moved + similarity[..., None, :, 2]
