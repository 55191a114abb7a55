"""Where the face model has its 68 landmarks, and how well the extractor finds them.

The face is seen from far away. The unit of length is the distance between the outer corners of the eyes of
the average face; x is the subject's left, y up, z out of the face; in pictures y is down.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from genet_ext.parameters import IDENTITY, load_parameter_space
from genet_ext.similarity import FloatArray, similarity_between, transform

# The bridge and foot of the nose and the corners of the eyes: what no expression moves far.
STABLE = [27, 28, 29, 30, 31, 33, 35, 36, 39, 42, 45]
READ = slice(17, 68)  # the jaw line slides over the cheek as the head turns
COORDINATES = 2 * 51  # of the landmarks that are read


@dataclass(frozen=True)
class LandmarkModel:
    """The face model's landmarks; everything float64, on the host.

    Attributes:
        rest: [68, 3], of the average face at rest.
        identity: [K, 68, 3], what each identity parameter does to them at 1.
        expression: [E, 68, 3], what each expression parameter does at 1.
        precision: [D, D], inverse covariance of how far the extractor's landmarks are from where they should
            be, about each person's mean; D = 102 coordinates of the landmarks that are read.
    """

    rest: FloatArray
    identity: FloatArray
    expression: FloatArray
    precision: FloatArray

    def displacement(self, landmarks: FloatArray, theta: FloatArray) -> FloatArray:
        """How far landmarks are from those of the face at rest, of this identity, at this pose: [N, D].

        Place, size and roll in the picture mean nothing: the landmarks are laid over the expected ones by
        what no expression moves far.

        Args:
            landmarks: [N, 68, 2] px, as the extractor sees them.
            theta: [N, P] parameters.
        """
        identity = theta[:, load_parameter_space().indices(IDENTITY)].astype(np.float64)
        # Row by row, not as one matrix product: the sums then do not depend on the batch.
        shape = identity[:, None] @ self.identity.reshape(len(self.identity), -1)
        head = self.rest + shape.reshape(-1, *self.rest.shape)
        expected = _seen(head[:, None], theta)[:, 0]
        laid = transform(similarity_between(landmarks[:, STABLE], expected[:, STABLE]), landmarks)
        return (laid - expected)[:, READ].reshape(len(theta), COORDINATES)

    def movements(self, theta: FloatArray) -> FloatArray:
        """What each expression parameter does to landmarks at 1, at the poses of theta [N, P]: [N, E, D]."""
        moved = _seen(np.broadcast_to(self.expression, (len(theta), *self.expression.shape)), theta)
        return moved[:, :, READ].reshape(len(theta), -1, COORDINATES)

    def save(self, path: Path) -> None:
        """Write it as a safetensors file, in float32."""
        # Contiguous, because safetensors writes an array's memory, whatever its strides.
        save_file({n: np.ascontiguousarray(array, np.float32) for n, array in vars(self).items()}, path)


def load_landmark_model(path: Path) -> LandmarkModel:
    """The landmark model of a safetensors file."""
    return LandmarkModel(**{name: array.astype(np.float64) for name, array in load_file(path).items()})


def _seen(points: FloatArray, theta: FloatArray) -> FloatArray:
    """Points [N, K, 68, 3] of heads at the pitch and yaw of theta [N, P], from far away: [N, K, 68, 2]."""
    (cp, sp), (cy, sy) = ((np.cos(a), np.sin(a)) for a in theta[:, :2].astype(np.float64).T)
    # The rows of x and y of Ry(-yaw) Rx(-pitch), as in python/render/geometry.py; y is down in the picture.
    camera = np.array([[cy, sy * sp, -sy * cp], [np.zeros_like(cp), -cp, -sp]])  # [2, 3, N]
    out: FloatArray = points @ camera.T[:, None]
    return out
