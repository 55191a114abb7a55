"""What the faces do and who they are: everything random about one render, before a pixel is drawn.

The random numbers of a sample depend on (seed, split, index) alone, never on other samples or on the worker
that draws it. Labelled quantities go into `Sample.theta`; everything else varies without a label, so that the
networks learn to ignore it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from .assets import N_IDENTITY, ParameterTable
from .geometry import F32
from .strange import Habits, Strangeness, sample_habits, sample_strangeness

SPLITS = ("train", "validation", "test")  # choices are made on validation, figures reported on test
HELD_OUT_SKINS = 6  # people in each of the last two
_SKIN_SPLIT_SEED = 20200408

Rng = np.random.Generator


@dataclass(frozen=True)
class SamplingConfig:
    """Shares in [0, 1], angles in radians, lengths in cm."""

    neutral_share: float = 0.15
    unilateral_share: float = 0.15
    combination_share: float = 0.5
    identity_scale: tuple[float, float] = (0.6, 1.4)
    yaw_sd: float = 0.3
    yaw_tail_share: float = 0.12
    yaw_limit: float = 0.9
    pitch_sd: float = 0.17
    pitch_limit: float = 0.55
    distance: tuple[float, float] = (35.0, 150.0)
    glasses_share: float = 0.08
    bald_share: float = 0.06
    beard_share: float = 0.22
    images_per_identity: int = 1
    plain: bool = False  # nothing without a label varies: see python.render.plain
    # Strongest bending of a head (cm), of how it moves (share, rad) and of what an AU brings along (standard
    # deviation of a shape's weight): see python.render.strange.
    strange_shift: float = 0.0
    strange_gain: float = 0.0
    strange_turn: float = 0.0
    strange_habit: float = 0.0


@dataclass
class Sample:
    """One render. `theta` [P] is complete but for roll, which the alignment decides."""

    theta: F32
    hidden_shapes: dict[str, float]  # shape -> unlabelled weight
    brows: tuple[float, float] | None  # height and tilt at rest, as BROW_HEIGHT; None: the face model's
    lips_sealed: float  # share of the gap that this identity's resting lips would have which is closed
    distance: float
    skin: SkinChoice
    eyes: EyeChoice
    hair: HairChoice
    clothes: ClothesChoice
    glasses: GlassesChoice | None
    light: LightChoice
    strangeness: Strangeness | None
    identity_index: int
    seed: int


@dataclass(frozen=True)
class SkinChoice:
    people: tuple[int, int]  # rows of the split's textures; used where pca is None
    mix: float
    pca: F32 | None  # standard-normal weights
    person: int  # FRLL row when one person's texture is used alone, else -1
    darkness: float  # 0 lightest to 1 darkest, on the melanin curve
    chroma: tuple[float, float]  # log ratios of red and blue to green
    brow_keep: float  # how much of the photographed brow stays
    brow_density: float  # of the drawn brow; 0 = none
    brow_thickness: float  # cm
    brow_offset: float  # cm
    brow_colour: tuple[float, float, float]
    beard: float
    moustache: float
    lip_tint: tuple[float, float, float]
    lip_amount: float
    wrinkles: float  # how strongly expressions crease this skin
    age: F32  # [n] unlabelled creases
    variant: int
    noise_shift: tuple[int, int]
    mottle: float
    gloss: float


@dataclass(frozen=True)
class EyeChoice:
    iris: tuple[float, float, float]
    iris_radius: float
    pupil_radius: float
    sclera: float
    redness: float
    lash: float
    teeth: tuple[float, float, float]


@dataclass(frozen=True)
class HairChoice:
    colour: tuple[float, float, float]
    bald: bool
    hairline: float  # cm lower than average
    thickness: float  # cm
    fringe: float  # cm of hair over the forehead
    fringe_x: float
    fringe_width: float
    length: float  # cm below the ears; <= 0: short
    opening: float  # rad, half angle that long hair leaves free for the face
    ragged: float
    noise_shift: tuple[int, int]
    lump: F32  # [6] low-frequency variation of the silhouette


@dataclass(frozen=True)
class ClothesChoice:
    colour: tuple[float, float, float]
    stripe: tuple[float, float, float]
    stripes: float  # per cm; 0 = plain
    collar: float  # cm below the chin
    shoulder: float  # half width, cm
    follow: float  # share of the head's rotation that the body shares


@dataclass(frozen=True)
class GlassesChoice:
    colour: tuple[float, float, float]
    half_width: float
    half_height: float
    roundness: float
    rim: float
    drop: float
    lens: float
    glare: float


@dataclass(frozen=True)
class LightChoice:
    direction: tuple[float, float, float]  # unit, camera frame
    share: float  # of the directional light
    back: tuple[float, float, float]
    back_share: float
    exposure: float  # natural log
    tint: tuple[float, float]  # log ratios of red and blue to green
    shadow: float  # how dark cast shadows are, 0 to 1


# --------------------------------------------------------------------------------------------- expressions

# Groups of expression parameters that move together; left/right pairs are named without their side.
PAIRED = (
    "AU01", "AU02", "AU04", "AU05", "AU06", "AU07", "AU09", "AU10", "AU12", "AU14", "AU15", "AU16", "AU20",
    "AU34", "AU43",
)  # fmt: skip
SINGLE = ("AU17", "AU18", "AU22", "AU23", "AU24", "AU25", "AU27", "AU28T", "AU28B", "AU29")
SIDEWAYS = "AU30"
GAZE = (("AU61", "AU62"), ("AU63", "AU64"))

# Combinations as faces make them: (relative frequency, always, sometimes).
COMBINATIONS: tuple[tuple[float, str, str], ...] = (
    (3.0, "AU06 AU12", "AU25 AU07"),
    (1.5, "AU06 AU12 AU25", "AU27 AU10"),
    (1.0, "AU12", "AU14 AU02"),
    (2.0, "AU01 AU02", "AU05 AU25 AU27"),
    (1.0, "AU01 AU02 AU05 AU27", "AU25"),
    (2.0, "AU04 AU07", "AU05 AU23 AU24"),
    (1.5, "AU01 AU04", "AU15 AU17 AU43"),
    (1.0, "AU01 AU02 AU04", "AU05 AU20 AU25"),
    (1.0, "AU09 AU10", "AU04 AU07 AU17"),
    (1.0, "AU04 AU09", "AU07 AU10 AU15"),
    (1.5, "AU15 AU17", "AU01 AU04 AU24"),
    (1.0, "AU20 AU25", "AU01 AU04 AU16"),
    (1.0, "AU25 AU27", "AU16"),
    (1.0, "AU17 AU24", "AU04 AU14"),
    (1.0, "AU17 AU23", "AU04 AU07"),
    (0.7, "AU10 AU25", "AU16 AU09"),
    (0.7, "AU16 AU25", "AU20"),
    (0.7, "AU18", "AU22 AU25"),
    (0.7, "AU22 AU25", "AU18"),
    (0.7, "AU28T AU28B", "AU14 AU17"),
    (0.7, "AU34", "AU18 AU24"),
    (0.8, "AU43", "AU07 AU04"),
    (0.6, "AU43 AU06 AU12", "AU25"),
    (0.5, "AU29", "AU17 AU04"),
)
# Drawn more often on their own, because few combinations hold them.
_EXTRA_WEIGHT = {
    "AU30": 3.2, "AU29": 1.9, "AU28T": 1.7, "AU28B": 1.7, "AU34": 1.7, "AU22": 1.5, "AU18": 1.5, "AU16": 1.5,
    "AU14": 1.3, "AU20": 1.4, "AU23": 1.5, "AU24": 1.3, "AU09": 1.2, "AU05": 1.1,
}  # fmt: skip

# (kept, limited, at most): what a face cannot do together; applied in order.
_EXCLUSIONS: tuple[tuple[str, str, float], ...] = (
    ("AU28T", "AU27", 0.1), ("AU28B", "AU27", 0.1), ("AU24", "AU27", 0.12), ("AU23", "AU27", 0.15),
    ("AU34", "AU27", 0.05), ("AU34", "AU25", 0.0), ("AU24", "AU25", 0.0), ("AU28T", "AU25", 0.0),
    ("AU28B", "AU25", 0.0), ("AU24", "AU22", 0.1), ("AU24", "AU16", 0.1), ("AU24", "AU10", 0.4),
    ("AU28T", "AU10", 0.15), ("AU28B", "AU16", 0.15), ("AU28B", "AU17", 0.5), ("AU28T", "AU22", 0.1),
    ("AU28B", "AU22", 0.1), ("AU28T", "AU18", 0.3), ("AU18", "AU20", 0.2), ("AU22", "AU20", 0.2),
    ("AU18", "AU12", 0.4), ("AU22", "AU12", 0.4), ("AU17", "AU16", 0.3), ("AU43", "AU05", 0.0),
    ("AU27", "AU17", 0.4), ("AU18", "AU14", 0.3),
)  # fmt: skip


def sample_expression(rng: Rng, table: ParameterTable, config: SamplingConfig) -> dict[str, float]:
    """Expression parameters by name, zeros left out; values in (0, 1]."""
    neutral = rng.random() < config.neutral_share
    values: dict[str, float] = {}
    if not neutral:
        values = _sample_action_units(rng, config)
    if rng.random() < (0.3 if neutral else 0.45):
        _sample_gaze(rng, values)
    unknown = set(values) - set(table.expression)
    if unknown:
        raise KeyError(f"parameters.csv: expected the expression parameters {sorted(unknown)}")
    return {k: v for k, v in values.items() if v > 0}


def _sample_action_units(rng: Rng, config: SamplingConfig) -> dict[str, float]:
    units: dict[str, float] = {}
    if rng.random() < config.combination_share:
        rates = np.array([c[0] for c in COMBINATIONS])
        _, always, sometimes = COMBINATIONS[rng.choice(len(COMBINATIONS), p=rates / rates.sum())]
        for unit in always.split():
            units[unit] = rng.random()
        for unit in sometimes.split():
            if rng.random() < 0.4:
                units[unit] = rng.random()
        extra = rng.choice([0, 1, 2], p=[0.35, 0.4, 0.25])
    else:
        extra = rng.integers(1, 6)
    pool = [*PAIRED, *SINGLE, SIDEWAYS]
    weights = np.array([_EXTRA_WEIGHT.get(u, 1.0) for u in pool])
    for unit in rng.choice(pool, size=int(extra), replace=False, p=weights / weights.sum()):
        units.setdefault(str(unit), rng.random())

    if units.get("AU27", 0) > 0.5 and rng.random() < 0.8:
        units["AU27"] = rng.random() * 0.5
    if units.get("AU43", 0) > 0 and rng.random() < 0.35:
        units["AU43"] = 1.0 - 0.15 * rng.random()
    for kept, limited, most in _EXCLUSIONS:
        # The weaker of two antagonists gives way, so that neither is rare.
        if units.get(kept, 0) > 0 and units.get(limited, 0) > 0:
            scale = 1 - units[kept]
            units[limited] = min(units[limited], most + (1 - most) * scale * scale * 0.3)
            if most == 0.0:
                if rng.random() < 0.5:
                    del units[limited]
                else:
                    del units[kept]
    if min(units.get(u, 0) for u in ("AU09", "AU10", "AU17")) > 0:
        # Together they push the teeth through the lips.
        units["AU17"] = min(units["AU17"], 0.3)

    values: dict[str, float] = {}
    for unit, value in units.items():
        if unit in SINGLE:
            values[unit] = value
        elif unit == SIDEWAYS:
            values[f"{unit}_{'LR'[rng.integers(2)]}"] = value
        else:
            values.update(_both_sides(rng, unit, value, config.unilateral_share))
    return values


def _both_sides(rng: Rng, unit: str, value: float, unilateral_share: float) -> dict[str, float]:
    if rng.random() < unilateral_share:
        strong, weak = ("L", "R") if rng.random() < 0.5 else ("R", "L")
        return {f"{unit}_{strong}": value, f"{unit}_{weak}": value * 0.5 * max(0.0, rng.random() - 0.5)}
    shift = float(np.clip(rng.normal(0, 0.06), -0.15, 0.15))
    return {
        f"{unit}_L": float(np.clip(value * (1 + shift), 0, 1)),
        f"{unit}_R": float(np.clip(value * (1 - shift), 0, 1)),
    }


def _sample_gaze(rng: Rng, values: dict[str, float]) -> None:
    for pair, share in zip(GAZE, (0.75, 0.7), strict=True):
        if rng.random() < share:
            values[pair[rng.integers(2)]] = rng.random() * (0.85 if rng.random() < 0.8 else 1.0)


# ---------------------------------------------------------------------------------------- unlabelled shape


# What the face model's neutral lacks to be a photographed neutral face (fitted to such).
RESTING = {
    "browDown_L": 0.12, "browDown_R": 0.12, "eyeSquint_L": 0.08, "eyeSquint_R": 0.08,
    "mouthSmile_L": 0.06, "mouthSmile_R": 0.06, "jawOpen": 0.01, "mouthClose": 0.01,
}  # fmt: skip

# How high the brows sit above the eyes' corners at rest, and their inner ends above their outer ones, as
# shares of the distance between the outer corners: mean, standard deviation, lowest, highest. They are those
# of photographs (python.evaluate.proportions), whatever the face model would make of somebody. Its own brows
# stand as high as raised ones do in photographs and differ twice as much: a raised brow would tell nothing.
BROW_HEIGHT = (0.218, 0.026, 0.15, 0.29)
BROW_TILT = (0.09, 0.03, 0.02, 0.16)


def sample_hidden_shapes(rng: Rng) -> dict[str, float]:
    """Shape weights without a label: resting faces differ, and no two eyes are cut alike."""

    clipped = partial(_clipped_normal, rng)
    weights: dict[str, float] = {}

    def add(shape: str, value: float, asymmetry: float = 0.15) -> None:
        shift = asymmetry * rng.normal()
        weights[f"{shape}_L"] = weights.get(f"{shape}_L", 0.0) + value * (1 + shift)
        weights[f"{shape}_R"] = weights.get(f"{shape}_R", 0.0) + value * (1 - shift)

    # The usual face at rest, jittered.
    add("browDown", clipped(RESTING["browDown_L"], 0.08, -0.05, 0.3))
    add("eyeSquint", clipped(RESTING["eyeSquint_L"], 0.05, -0.05, 0.2))
    add("mouthSmile", clipped(RESTING["mouthSmile_L"], 0.06, -0.06, 0.18))
    # Resting faces that look as if something moved: what of it does not change is who they are.
    add("cheekSquint", clipped(0.0, 0.09, -0.1, 0.2))
    add("noseSneer", clipped(0.0, 0.06, -0.06, 0.15))
    add("mouthPress", clipped(0.0, 0.08, -0.1, 0.2))
    add("mouthFrown", clipped(0.0, 0.06, -0.08, 0.15))
    jaw = clipped(RESTING["jawOpen"], 0.012, 0.0, 0.035)
    weights["jawOpen"] = jaw
    weights["mouthClose"] = jaw
    # Nobody looks exactly into the lens.
    for side in "LR":
        for shape, sd in (("eyeLookOut", 0.04), ("eyeLookUp", 0.03)):
            weights[f"{shape}_{side}"] = clipped(0.0, sd, -0.1, 0.1)
    # The cut of the eye: lids that sit low or high at rest.
    if rng.random() < 0.75:
        add("eyeBlink", clipped(0.06, 0.09, -0.08, 0.26), 0.08)
        add("eyeSquint", clipped(0.0, 0.12, -0.2, 0.3), 0.08)
        add("eyeWide", clipped(0.0, 0.07, -0.18, 0.18), 0.08)
    # The brows' height and tilt follow from `sample_brows`.
    for shape, sd in (("canthus_raise", 0.09), ("fissure_length", 0.07), ("brow_apart", 0.08)):
        weights[shape] = clipped(0.0, sd, -2 * sd, 2 * sd)
    return weights


def sample_brows(rng: Rng) -> tuple[float, float]:
    """Height and tilt of the resting brows, see BROW_HEIGHT and BROW_TILT."""
    return _clipped_normal(rng, *BROW_HEIGHT), _clipped_normal(rng, *BROW_TILT)


def _clipped_normal(rng: Rng, mean: float, sd: float, low: float, high: float) -> float:
    return float(np.clip(rng.normal(mean, sd), low, high))


# ---------------------------------------------------------------------------------------------------- look

_IRIS = (
    (0.03, 0.015, 0.008), (0.05, 0.025, 0.012), (0.09, 0.042, 0.018), (0.12, 0.075, 0.03),
    (0.08, 0.09, 0.05), (0.12, 0.15, 0.17), (0.08, 0.13, 0.19), (0.06, 0.1, 0.17),
)  # fmt: skip
_HAIR = (
    (0.012, 0.01, 0.009), (0.02, 0.014, 0.011), (0.05, 0.028, 0.016), (0.09, 0.05, 0.026), (0.16, 0.09, 0.04),
    (0.26, 0.18, 0.1), (0.38, 0.3, 0.19), (0.18, 0.065, 0.028), (0.3, 0.29, 0.28), (0.6, 0.58, 0.55),
)  # fmt: skip
_HAIR_RATES = np.array([4, 4, 3, 3, 2, 1.6, 1, 0.7, 1, 0.6])


def _jitter(rng: Rng, colour: tuple[float, float, float], sd: float) -> tuple[float, float, float]:
    overall = np.exp(rng.normal(0, sd))
    c = np.array(colour) * overall * np.exp(rng.normal(0, 0.12 * sd, 3))
    return (float(c[0]), float(c[1]), float(c[2]))


def _triple(values: NDArray[np.floating]) -> tuple[float, float, float]:
    return (float(values[0]), float(values[1]), float(values[2]))


N_AGE = 16
"""Length of `SkinChoice.age`; at least as many as skin.py has crease maps."""


def sample_skin(
    rng: Rng,
    darkness: float,
    darkness_of: F32,
    rows: NDArray[np.int_],
    hair: HairChoice,
    config: SamplingConfig,
) -> SkinChoice:
    """`darkness_of` [n]: place of the split's textures on the melanin curve; `rows` [n]: their FRLL rows."""
    # A base texture of similar tone needs the smallest correction.
    gap = np.abs(darkness_of - darkness)
    p = np.exp(-gap / 0.06) + 1e-4
    p /= p.sum()
    a = int(rng.choice(len(rows), p=p))
    q = np.exp(-np.abs(darkness_of - darkness_of[a]) / 0.08)
    q /= q.sum()
    b = int(rng.choice(len(rows), p=q))
    kind = rng.choice(3, p=[0.5, 0.25, 0.25])  # mix, alone, PCA
    mix = float(rng.uniform(0.15, 0.85)) if kind == 0 else 1.0
    # Far out along many components at once lie no skins.
    pca = (np.clip(rng.normal(0, 1, 16), -2, 2) * 0.7).astype(np.float32) if kind == 2 else None
    single = kind == 1 or (kind == 0 and a == b)
    drawn_brow = rng.random() < 0.45
    bearded = rng.random() < config.beard_share
    age = np.where(rng.random(N_AGE) < 0.5, rng.random(N_AGE), 0.0) * (rng.random() ** 2) * 0.8
    make_up = rng.random() < 0.15
    grey = 0.7 if rng.random() < 0.8 else 1.6
    return SkinChoice(
        people=(a, b),
        mix=mix,
        pca=pca,
        person=int(rows[a]) if single else -1,
        darkness=darkness,
        chroma=(float(rng.normal(0, 0.05)), float(rng.normal(0, 0.08))),
        brow_keep=float(rng.uniform(0.0, 0.6) if drawn_brow else rng.uniform(0.6, 1.3)),
        brow_density=float(rng.uniform(0.25, 0.95) if drawn_brow else 0.0),
        brow_thickness=float(rng.uniform(0.22, 0.6)),
        # Brow height beyond this would be read as AU1, AU2 and AU4, a fifth of which is 0.1 cm.
        brow_offset=float(np.clip(rng.normal(0, 0.05), -0.1, 0.1)),
        brow_colour=_triple(np.array(hair.colour) * grey * 0.8),
        beard=float(rng.random() ** 1.5 * 0.9) if bearded else 0.0,
        moustache=float(rng.random() ** 1.5 * 0.9) if bearded and rng.random() < 0.85 else 0.0,
        lip_tint=_triple(
            np.array([rng.uniform(0.2, 0.5), rng.uniform(0.03, 0.14), rng.uniform(0.04, 0.14)])
            if make_up
            else np.array([0.42, 0.17, 0.15]) * (1.2 - darkness * 0.9)
        ),
        lip_amount=float(rng.uniform(0.3, 0.85) if make_up else rng.uniform(0.0, 0.35)),
        # Smooth skin raises its brows without a line: a crease must help, its absence must not say no.
        wrinkles=float(rng.uniform(0.0, 0.15) if rng.random() < 0.45 else rng.uniform(0.25, 1.2)),
        age=age.astype(np.float32),
        variant=int(rng.integers(3)),
        noise_shift=(int(rng.integers(256)), int(rng.integers(256))),
        mottle=float(rng.uniform(0.0, 0.12)),
        # Shine does not darken with the skin, so on dark skin little of it goes a long way.
        gloss=float(rng.uniform(0.01, 0.12) * (1.0 - 0.6 * darkness)),
    )


def sample_hair(rng: Rng, darkness: float, config: SamplingConfig) -> HairChoice:
    # Fair hair grows less rare the lighter the skin; grey and dyed hair (the last ones) on anybody.
    rates = _HAIR_RATES * np.array([*np.exp(-2.2 * darkness * np.arange(8)), 1.0, 1.0])
    colour = _jitter(rng, _HAIR[rng.choice(len(_HAIR), p=rates / rates.sum())], 0.3)
    bald = bool(rng.random() < config.bald_share)
    fringe = float(rng.uniform(0.5, 4.2)) if rng.random() < 0.3 else 0.0
    return HairChoice(
        colour=colour,
        bald=bald,
        hairline=float(np.clip(rng.normal(0.0, 0.6), -1.6, 1.0)),
        thickness=float(rng.uniform(0.25, 1.0) if rng.random() < 0.4 else rng.uniform(0.6, 2.4)),
        fringe=fringe,
        fringe_x=float(rng.normal(0, 3.0)),
        fringe_width=float(rng.uniform(1.5, 6.0)),
        length=float(rng.uniform(0.0, 16.0)) if rng.random() < 0.45 else 0.0,
        opening=float(rng.uniform(0.85, 1.6)),
        ragged=float(rng.uniform(0.3, 1.2)),
        noise_shift=(int(rng.integers(256)), int(rng.integers(256))),
        lump=rng.normal(0, 1, 6).astype(np.float32),
    )


def sample_clothes(rng: Rng) -> ClothesChoice:
    grey = np.full(3, rng.uniform(0.01, 0.7))
    return ClothesChoice(
        colour=_triple(rng.uniform(0.0, 0.7, 3) ** 1.5 if rng.random() < 0.6 else grey),
        stripe=_triple(rng.uniform(0.0, 0.7, 3) ** 1.5),
        stripes=float(rng.uniform(0.2, 1.0)) if rng.random() < 0.3 else 0.0,
        collar=float(rng.uniform(3.5, 7.0)),
        shoulder=float(rng.uniform(15.0, 21.0)),
        follow=float(rng.uniform(0.2, 0.8)),
    )


def sample_eyes(rng: Rng, darkness: float) -> EyeChoice:
    tooth = rng.uniform(0.5, 0.8)
    # Light eyes are rare in dark faces; the colours are listed from brown to blue.
    rates = np.exp(-0.8 * darkness * np.arange(len(_IRIS)))
    return EyeChoice(
        iris=_jitter(rng, _IRIS[rng.choice(len(_IRIS), p=rates / rates.sum())], 0.25),
        iris_radius=float(rng.uniform(0.54, 0.62)),
        pupil_radius=float(rng.uniform(0.15, 0.32)),
        sclera=float(rng.uniform(0.5, 0.78)),
        redness=float(rng.random() * 0.5),
        lash=float(rng.uniform(0.1, 0.5)),
        teeth=(tooth, tooth * float(rng.uniform(0.88, 0.97)), tooth * float(rng.uniform(0.68, 0.9))),
    )


def sample_glasses(rng: Rng, config: SamplingConfig) -> GlassesChoice | None:
    if rng.random() >= config.glasses_share:
        return None
    dark = rng.random() < 0.7
    colour = rng.uniform(0.005, 0.05, 3) if dark else rng.uniform(0.05, 0.6, 3)
    return GlassesChoice(
        colour=_triple(colour),
        half_width=float(rng.uniform(2.2, 2.8)),
        half_height=float(rng.uniform(1.4, 2.3)),
        roundness=float(rng.uniform(2.0, 4.5)),
        rim=float(rng.uniform(0.08, 0.4)),
        drop=float(rng.uniform(-0.1, 0.5)),
        lens=float(rng.uniform(0.0, 0.12)),
        glare=float(rng.random() ** 3 * 0.5),
    )


def sample_light(rng: Rng, darkness: float) -> LightChoice:
    """Mostly from above and in front; sometimes hard from the side."""
    azimuth = rng.normal(0, 0.75)
    height = np.clip(rng.normal(0.45, 0.45), -0.5, 1.25)
    direction = np.array([np.sin(azimuth) * np.cos(height), np.sin(height), np.cos(azimuth) * np.cos(height)])
    side = 1.0 if rng.random() < 0.5 else -1.0
    back = np.array([side * rng.uniform(0.6, 1.0), rng.uniform(-0.2, 0.8), rng.uniform(-0.8, 0.1)])
    back /= np.linalg.norm(back)
    warmth = rng.normal(0.03, 0.1)
    return LightChoice(
        direction=_triple(direction),
        share=float(rng.uniform(0.1, 0.75)),
        back=_triple(back),
        back_share=float(rng.random() ** 2 * 0.35),
        # Cameras expose dark skin longer.
        exposure=float(np.clip(rng.normal(0.05 + 0.5 * darkness, 0.28), -0.8, 1.2)),
        tint=(float(warmth + rng.normal(0, 0.03)), float(-warmth + rng.normal(0, 0.05))),
        shadow=float(rng.uniform(0.3, 1.0)),
    )


# -------------------------------------------------------------------------------------------------- sample


def split_skins(n_people: int, split: str) -> NDArray[np.int_]:
    """Rows of the texture file that belong to a split: the same for every seed, no row in two."""
    if split not in SPLITS:
        raise ValueError(f"split: expected one of {SPLITS}, got {split!r}")
    held = min(HELD_OUT_SKINS, n_people // 3)
    order = np.random.default_rng(_SKIN_SPLIT_SEED).permutation(n_people)
    parts = {"test": order[:held], "validation": order[held : 2 * held], "train": order[2 * held :]}
    return np.sort(parts[split])


def sample_pose(rng: Rng, config: SamplingConfig) -> tuple[float, float]:
    """(pitch, yaw) in radians, relative to the ray from the camera to the face."""
    if rng.random() < config.yaw_tail_share:
        yaw = rng.uniform(-config.yaw_limit, config.yaw_limit)
    else:
        yaw = rng.normal(0, config.yaw_sd)
    pitch = rng.normal(0, config.pitch_sd)
    return (
        float(np.clip(pitch, -config.pitch_limit, config.pitch_limit)),
        float(np.clip(yaw, -config.yaw_limit, config.yaw_limit)),
    )


def sample_one(
    seed: int,
    split: str,
    index: int,
    table: ParameterTable,
    darkness_of: F32,
    skin_rows: NDArray[np.int_],
    config: SamplingConfig,
) -> Sample:
    """Sample number `index` of a data set. Who it shows depends on index // images_per_identity alone."""
    stream = SPLITS.index(split)
    identity_index = index // config.images_per_identity
    who = np.random.default_rng([seed, stream, 0, identity_index])
    what = np.random.default_rng([seed, stream, 1, index])

    theta = np.zeros(len(table.names), np.float32)
    scale = who.uniform(*config.identity_scale)
    theta[table.index("id_00") :] = np.clip(who.normal(0, 1, N_IDENTITY) * scale, -4, 4)
    hidden, brows = sample_hidden_shapes(who), sample_brows(who)
    darkness = float(who.random())
    hair = sample_hair(who, darkness, config)
    skin = sample_skin(who, darkness, darkness_of, skin_rows, hair, config)
    eyes = sample_eyes(who, darkness)
    glasses = sample_glasses(who, config)

    for name, value in sample_expression(what, table, config).items():
        theta[table.index(name)] = value
    theta[0], theta[1] = sample_pose(what, config)
    distance = float(np.exp(what.uniform(*np.log(config.distance))))
    light = sample_light(what, skin.darkness)
    lips_sealed = 1.0 if who.random() < 0.85 else float(who.random())
    habits: Habits = {}
    if config.strange_habit:
        # Numbers of its own: without habits everybody is who they were before there were any.
        own = np.random.default_rng([seed, stream, 2, identity_index])
        habits = sample_habits(own, config.strange_habit)
    return Sample(
        theta=theta,
        hidden_shapes=hidden,
        brows=brows,
        lips_sealed=lips_sealed,
        distance=distance,
        skin=skin,
        eyes=eyes,
        hair=hair,
        clothes=sample_clothes(what),
        glasses=glasses,
        light=light,
        strangeness=sample_strangeness(
            who, config.strange_shift, config.strange_gain, config.strange_turn, habits
        ),
        identity_index=identity_index,
        seed=int(np.random.SeedSequence([seed, stream, 1, index]).generate_state(1)[0]),
    )
