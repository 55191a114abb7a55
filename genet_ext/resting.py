"""The resting face: what all pictures of a person show of an AU although nothing moves.

Stern lids and low brows are read as AU07 and AU04 on every picture of some people. That offset of the reading
is estimated from the person's own pictures, for each AU alone. Of picture t the AU reads

    y_t = clip(a_t + b, 0, 1) + noise        b ~ N(0, spread^2)

where the movement a_t is 0 with probability AT_REST, else anything up to 1, and the noise grows with b. b is
one number, so its posterior is computed on a grid. What is taken off is its mean, never below 0: that a face
at rest reads as too little is not seen where all readings are 0.

What may be taken off is limited from three sides. `spread` says how far off the AU is read on faces at rest
(AU15 on many people, AU12 on next to nobody); something in every picture that is more than that is rather an
expression that is held. AT_REST asks for pictures that do without. And T pictures of a person count as
(T - 1) / (1 + (T - 1) CORRELATION), since they also share light and mood: never more than 2.5, and a
single one says nothing of what its like would share.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr

# Chosen on films of the validation split, half of them of people whom the face model does not span.
AT_REST = 0.9  # share of pictures in which an AU is absent
NOISE, NOISE_SLOPE = 0.03, 0.3  # sd of a reading at rest: at an offset of 0, and per offset
MISSED = 0.1  # share of movements that read as 0
CORRELATION = 0.4
ABSENT = 0.005  # readings up to this are 0: the search ends at the bound
STRAY = 1e-4  # density of readings that fit nothing, so that no single picture excludes an offset

OFFSETS = np.linspace(-0.8, 0.8, 81)

Floats = npt.NDArray[np.float64]


def resting_aus(aus: Floats, doubt: Floats, spread: Floats) -> Floats:
    """What a person's AUs read on the face at rest, as far as the pictures tell: [A] in [0, 0.8].

    Args:
        aus: [T, A] readings in [0, 1]; NaN counts as 0.
        doubt: [T] of each picture, how many times less than a usual one it says, at least 1.
        spread: [A] standard deviation of the offset over people, above 0.
    """
    others = len(aus) - 1
    count = others / (1 + others * CORRELATION)
    weight = count * (1 / doubt) / len(aus)
    believed = -0.5 * (OFFSETS / spread[:, None]) ** 2 + np.tensordot(weight, _log_likelihood(aus), 1)
    mass = np.exp(believed - believed.max(1, keepdims=True))
    mean: Floats = mass @ OFFSETS / mass.sum(1)
    return np.maximum(mean, 0)


def _log_likelihood(aus: Floats) -> Floats:
    """Of every offset [T, A, G], by one reading each; that of 0 has a probability, others a density."""
    y = np.nan_to_num(aus)[..., None]
    noise = NOISE + NOISE_SLOPE * np.maximum(OFFSETS, 0)
    z = (y - OFFSETS) / noise
    at_rest = np.exp(-0.5 * z * z) / (np.sqrt(2 * np.pi) * noise)
    absent = AT_REST * ndtr(-OFFSETS / noise) + (1 - AT_REST) * MISSED
    present = AT_REST * at_rest + (1 - AT_REST) * ndtr(z) + STRAY
    out: Floats = np.log(np.where(y <= ABSENT, absent, present))
    return out
