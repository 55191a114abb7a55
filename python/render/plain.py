"""Faces that differ in nothing without a label: what theta and appearance do not say is as it usually is.

The image generator learns from them. Shown hair, glasses or resting lids that nothing tells it of, it would
draw the average of all of them, which is a blur.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from .sampling import BROW_HEIGHT, BROW_TILT, N_AGE, RESTING, ClothesChoice, EyeChoice, HairChoice, Sample

_DISTANCE = 70.0  # cm
_EYES = EyeChoice(
    iris=(0.09, 0.06, 0.035),
    iris_radius=0.58,
    pupil_radius=0.22,
    sclera=0.66,
    redness=0.2,
    lash=0.3,
    teeth=(0.66, 0.62, 0.53),
)
_HAIR = HairChoice(
    colour=(0.04, 0.026, 0.018),
    bald=False,
    hairline=0.0,
    thickness=0.9,
    fringe=0.0,
    fringe_x=0.0,
    fringe_width=3.0,
    length=0.0,
    opening=1.2,
    ragged=0.5,
    noise_shift=(0, 0),
    lump=np.zeros(6, np.float32),
)
_CLOTHES = ClothesChoice(
    colour=(0.18, 0.2, 0.24), stripe=(0.0, 0.0, 0.0), stripes=0.0, collar=5.0, shoulder=18.0, follow=0.5
)


def plain(sample: Sample) -> Sample:
    """The same labels with everything else as usual: one head of hair, one pair of eyes, no glasses."""
    skin = replace(
        sample.skin,
        brow_keep=1.0,  # the photographed brow alone
        brow_density=0.0,
        beard=0.0,
        moustache=0.0,
        lip_amount=0.15,
        lip_tint=(0.3, 0.12, 0.1),
        wrinkles=0.7,  # creases tell what a still picture shows of many AUs
        age=np.zeros(N_AGE, np.float32),
        variant=0,
        noise_shift=(0, 0),
        mottle=0.04,
        gloss=0.05,
    )
    return replace(
        sample,
        hidden_shapes=dict(RESTING),
        brows=(BROW_HEIGHT[0], BROW_TILT[0]),
        lips_sealed=1.0,
        distance=_DISTANCE,
        skin=skin,
        eyes=_EYES,
        hair=_HAIR,
        clothes=_CLOTHES,
        glasses=None,
        light=replace(sample.light, back_share=0.0, shadow=0.6),
        strangeness=None,
    )
