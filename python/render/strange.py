"""Faces that the face model does not know: smooth random fields bend who somebody is and how they move.

A network that has only seen one face model takes what that model cannot explain for an expression. So a
person may get a head bent by a smooth field (a shift of every point, mostly the same on both sides), and
muscles that pull a little more or less, and in another direction, from place to place. And nobody moves one
muscle alone: an AU may bring some of its neighbours' movement with it, or less of its own, in a way that is
this person's habit. None of it has a label: an AU keeps its intensity, whatever it looks like on this face.
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

# What a habit may mix, by region: expression parameters and shapes, paired ones without their side. Of the
# mouth's, none that parts the lips: that has a label.
REGIONS = tuple(
    (tuple(parameters.split()), tuple(shapes.split()))
    for parameters, shapes in (
        ("AU01 AU02 AU04", "browInnerUp browOuterUp browDown"),
        ("AU05 AU06 AU07", "eyeWide eyeSquint cheekSquint cheekRaiser"),
        ("AU09 AU10", "noseSneer mouthUpperUp cheekSquint cheekRaiser"),
        (
            "AU12 AU14 AU15 AU16 AU17 AU18 AU20 AU22 AU23 AU24 AU25 AU28T AU28B AU34",
            "mouthSmile mouthDimple mouthFrown mouthStretch mouthPress mouthShrugLower mouthShrugUpper "
            "mouthRollUpper mouthRollLower mouthPucker",
        ),
    )
)
UNPAIRED = {"mouthShrugLower", "mouthShrugUpper", "mouthRollUpper", "mouthRollLower", "mouthPucker"}
HABIT_SHAPES = 3  # of its region that an AU brings along

Habits = dict[str, dict[str, float]]  # expression parameter -> shape -> weight that comes with it


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
    habits: Habits

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


def sample_habits(rng: np.random.Generator, habit: float) -> Habits:
    """What every AU brings along, the same on both sides; the weights' deviation is ``habit`` at most."""
    strength = rng.uniform(0, habit)
    habits: Habits = {}
    for parameters, shapes in REGIONS:
        for parameter in parameters:
            names = rng.choice(shapes, HABIT_SHAPES, replace=False)
            weights = strength * rng.normal(0, 1, HABIT_SHAPES).clip(-2, 2)
            brought = {str(name): float(weight) for name, weight in zip(names, weights, strict=True)}
            habits[parameter] = _on("LR", brought)
            habits |= {f"{parameter}_{side}": _on(side, brought) for side in "LR"}
    return habits


def _on(sides: str, brought: dict[str, float]) -> dict[str, float]:
    """Weights by shapes of the face model; a movement of one side takes half of what has no sides."""
    weights = {}
    for shape, weight in brought.items():
        if shape in UNPAIRED:
            weights[shape] = weight * len(sides) / 2
        else:
            weights |= {f"{shape}_{side}": weight for side in sides}
    return weights


def sample_strangeness(
    rng: np.random.Generator, shift: float, gain: float, turn: float, habits: Habits
) -> Strangeness | None:
    """A person's fields, as strong as ``shift``, ``gain`` and ``turn`` at most, and habits.

    None where all are zero and there are no habits.
    """
    if not (shift or gain or turn or habits):
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
        habits=habits,
    )
