"""Faces that the face model does not know: smooth random fields bend who somebody is and how they move.

A network that has only seen one face model takes what that model cannot explain for an expression. So a
person may get a head bent by a smooth field (a shift of every point, mostly the same on both sides), and
muscles that pull a little more or less, and in another direction, from place to place. Neither has a label:
an AU keeps its intensity, whatever it looks like on this face.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .geometry import F32

WAVES = 16
# cm; shorter ones would bend lids and lips apart, longer ones the alignment takes out.
WAVELENGTH = (4.0, 14.0)
ASYMMETRY = 0.2  # of the other parity, per channel
GAIN_LIMITS = (0.3, 1.7)
# Channels of the field, and whether they keep (+1) or turn (-1) their sign in a mirror.
CHANNELS = {"x": -1, "y": 1, "z": 1, "gain": 1, "turn": -1}


@dataclass(frozen=True)
class Strangeness:
    """One person's fields: plane waves along the head's axes, unit variance, and how strong they are."""

    waves: F32  # [WAVES, 3] rad / cm
    phases: F32  # [WAVES]
    even: F32  # [WAVES, channels] what x and -x share
    odd: F32  # [WAVES, channels]
    shift: float  # cm, root mean square per axis, of the resting head
    gain: float  # standard deviation of the factor on an expression's movement
    turn: float  # rad, standard deviation of the movement's turn in the frontal plane

    def bend(self, rest: F32, moved: F32, movement: F32) -> None:
        """Add this person's shift and movement to a head, in place.

        Args:
            rest: [V, 3] where the fields are looked up, cm in the head's frame.
            moved: [V, 3] the head without its expression; becomes the head with it.
            movement: [V, 3] what the expression adds on the face model itself.
        """
        across = rest[:, :1] * self.waves[:, 0]
        along = np.cos(rest[:, 1:] @ self.waves[:, 1:].T + self.phases)
        field = (np.cos(across) * along) @ self.even + (np.sin(across) * along) @ self.odd
        gain = np.clip(1 + self.gain * field[:, 3], *GAIN_LIMITS)
        turn = self.turn * field[:, 4]
        x, y = movement[:, 0] * gain, movement[:, 1] * gain
        moved[:, 0] += np.cos(turn) * x - np.sin(turn) * y
        moved[:, 1] += np.sin(turn) * x + np.cos(turn) * y
        moved[:, 2] += movement[:, 2] * gain
        moved += self.shift * field[:, :3]


def sample_strangeness(
    rng: np.random.Generator, shift: float, gain: float, turn: float
) -> Strangeness | None:
    """A person's fields, as strong as ``shift``, ``gain`` and ``turn`` at most; None where all are zero."""
    if not (shift or gain or turn):
        return None
    length = np.exp(rng.uniform(*np.log(WAVELENGTH), WAVES))
    direction = rng.normal(0, 1, (WAVES, 3))
    waves = direction / np.linalg.norm(direction, axis=1, keepdims=True) * (2 * np.pi / length[:, None])
    # Half of a cosine's square is its mean, and there are two factors; larger features differ by more.
    strength = 2 * length / np.sqrt((length**2).sum())
    amplitudes = rng.normal(0, 1, (2, WAVES, len(CHANNELS))) * strength[:, None]
    parity = np.array(list(CHANNELS.values()))
    even = np.where(parity > 0, 1.0, ASYMMETRY) * amplitudes[0]
    odd = np.where(parity < 0, 1.0, ASYMMETRY) * amplitudes[1]
    return Strangeness(
        waves=waves.astype(np.float32),
        phases=rng.uniform(0, 2 * np.pi, WAVES).astype(np.float32),
        even=even.astype(np.float32),
        odd=odd.astype(np.float32),
        shift=float(rng.uniform(0, shift)),
        gain=float(rng.uniform(0, gain)),
        turn=float(rng.uniform(0, turn)),
    )
