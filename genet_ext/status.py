"""How the fit of a face ended."""

from __future__ import annotations

from enum import StrEnum


class Status(StrEnum):
    """One word per face; the last four have NaN in every fitted column, and a message that says why."""

    CONVERGED = "converged"  # the parameters no longer moved
    MAX_ITERATIONS = "max_iterations"  # stopped by the limit on iterations: usable
    FAILED = "failed"  # loss or gradient not finite
    NO_FACE = "no_face"  # the face finder found none, or the given box was NaN
    BAD_BOX = "bad_box"  # the given box or landmarks do not lie on the image
    UNREADABLE = "unreadable"  # the image could not be decoded

    @property
    def fitted(self) -> bool:
        """Whether the face has parameters."""
        return self in (Status.CONVERGED, Status.MAX_ITERATIONS)
