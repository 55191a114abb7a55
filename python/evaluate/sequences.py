"""Short films of rendered people whose AUs are known in every frame.

One film: one person (identity, skin, hair, glasses, light), a neutral start, two expressions that rise, stay
and fall, a blink, a head that turns and drifts; then a camera that stays the same but for the noise of each
frame, and loose face boxes that jitter as a face finder's do. `spoil` blurs some frames and puts something in
front of the face in others, as films of people who move have them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import torch

from genet_ext.action_units import load_action_units
from genet_ext.faces import BOX_CENTRE, BOX_SIDE
from genet_ext.images import UInt8Array
from genet_ext.parameters import EXPRESSION, POSE, load_parameter_space
from python.evaluate.metrics import Array
from python.render.geometry import MARGIN
from python.render.renderer import Renderer
from python.render.sampling import Sample, SamplingConfig
from python.train.augment import Draw, photographs

FRAMES = 40
REST = 5  # neutral frames at the start
# Frames over which an expression rises, stays and falls, at most; at least half of them.
RISE, STAY, FALL = 6, 5, 8
BLINK = (0.5, 1.0, 0.6)  # AU43 in three successive frames
BASE_POSE = 0.5  # of the sampler's pose: people who are filmed mostly face the camera
POSE_SWING = (0.06, 0.12)  # sd of pitch and yaw over a film, rad
DRIFT, TILT = 3.0, 0.06  # sd of the head's place (px of the render) and roll (rad) over a film
SENSOR_NOISE = (1.0, 5.0)  # sd of each frame's own noise, of 255
SPOILT = 0.1  # share of the frames that `spoil` spoils
BOX_JITTER = 0.02  # sd of a box's centre and log side from frame to frame, of its side

PHOTO_BOX = np.concatenate([BOX_CENTRE + MARGIN - BOX_SIDE / 2, BOX_CENTRE + MARGIN + BOX_SIDE / 2])

Rng = np.random.Generator
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Film:
    """One person's frames and their truth.

    Attributes:
        frames: uint8 [H, W, 3] each.
        boxes: [T, 4] loose face boxes, px.
        aus: [T, A] in [0, 1], NaN where the face model cannot express an AU.
        photo: another picture of the person at rest, uint8 [H, W, 3], the face in `PHOTO_BOX`.
    """

    frames: list[UInt8Array]
    boxes: Floats
    aus: Array
    photo: UInt8Array


def render_films(
    assets: Path,
    people: int,
    seed: int,
    frames: int = FRAMES,
    split: str = "test",
    config: SamplingConfig | None = None,
) -> Iterator[Film]:
    """Films of people of a split, each a function of (seed, split, config, its number) alone."""
    config = replace(config or SamplingConfig(), images_per_identity=frames)
    renderer = Renderer(assets, split, config)
    for person in range(people):
        yield _film(renderer, seed, person, frames)


def _film(renderer: Renderer, seed: int, person: int, frames: int) -> Film:
    rng = np.random.default_rng([seed, 11, person])
    samples = [renderer.sample(seed, person * frames + k) for k in range(frames)]
    theta = act(rng, samples, frames)
    renders = [renderer.render(replace(samples[0], theta=values)).image for values in theta]
    other = renders[int(rng.integers(frames))]
    move = head_motion(rng, frames)
    noise, camera = rng.uniform(*SENSOR_NOISE), int(rng.integers(2**31))
    pictures = [_shoot(image, other, m, camera, noise, rng) for image, m in zip(renders, move, strict=True)]
    boxes = np.stack([_box(m, rng) for m in move])
    # The neutral photograph: another day's light and pose.
    resting = samples[1].theta.copy()
    resting[load_parameter_space().indices(EXPRESSION)] = 0
    still = renderer.render(replace(samples[0], theta=resting, light=samples[1].light)).image
    photo = _shoot(still, other, np.zeros(3), camera + 1, noise, rng)
    return Film(pictures, boxes, load_action_units().values(theta), photo)


def act(rng: Rng, samples: list[Sample], frames: int) -> npt.NDArray[np.float32]:
    """Parameters [T, P] of a film: neutral, two expressions of the sampler's one after the other, a blink."""
    space = load_parameter_space()
    expression, pose = space.indices(EXPRESSION), space.indices(POSE)
    theta = np.tile(samples[0].theta, (frames, 1))
    theta[:, expression] = 0
    apexes = [s.theta[expression] for s in samples if s.theta[expression].sum() > 0.5][:2]
    half = (frames - REST) // 2
    for number, apex in enumerate(apexes):
        rise, stay, fall = (int(rng.integers(-(-n // 2), n + 1)) for n in (RISE, STAY, FALL))
        strength = _envelope(np.arange(half, dtype=float), rise, stay, fall)
        start = REST + number * half
        theta[start : start + half, expression] = strength[:, None] * apex
    middle = int(rng.integers(REST, frames - len(BLINK)))
    for k, closed in enumerate(BLINK):
        for side in "LR":
            lid = space.index(f"AU43_{side}")
            theta[middle + k, lid] = max(theta[middle + k, lid], closed)
            theta[middle + k, space.index(f"AU05_{side}")] *= 1 - closed
    turning = slice(pose.start, pose.start + 2)  # pitch and yaw; roll is the camera's, see _shoot
    theta[:, turning] = BASE_POSE * theta[:, turning] + _wander(rng, frames, 2) * POSE_SWING
    return theta.astype(np.float32)


def _envelope(t: Floats, rise: int, stay: int, fall: int) -> Floats:
    """0 to 1 in `rise` frames, 1 for `stay`, back to 0 in `fall`, along half cosines."""
    up = np.clip(t / rise, 0, 1)
    down = np.clip((t - rise - stay) / fall, 0, 1)
    return 0.5 * (1 - np.cos(np.pi * up)) * 0.5 * (1 + np.cos(np.pi * down))


def head_motion(rng: Rng, frames: int) -> Floats:
    """[T, 3]: shift in x and y (px of the render) and roll (rad), slow."""
    return _wander(rng, frames, 3) * (DRIFT, DRIFT, TILT)


def _wander(rng: Rng, frames: int, channels: int) -> Floats:
    """Smooth curves [T, channels] of about unit variance: three slow waves each."""
    t = np.arange(frames)[:, None, None]
    period = rng.uniform(20, 80, (channels, 3))
    phase = rng.uniform(0, 2 * np.pi, (channels, 3))
    return np.asarray(np.sin(2 * np.pi * t / period + phase).sum(2) * np.sqrt(2 / 3))


def _shoot(
    rgba: UInt8Array, other: UInt8Array, move: Floats, camera: int, noise: float, rng: Rng
) -> UInt8Array:
    """One frame: the head moved, the same camera and background for each `camera`, noise of its own."""
    size = rgba.shape[0]
    centre = (size - 1) / 2
    matrix = cv2.getRotationMatrix2D((centre, centre), np.degrees(move[2]), 1.0)
    matrix[:, 2] += move[:2]
    moved = cv2.warpAffine(
        rgba, matrix, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    pair = torch.from_numpy(np.stack([moved, other])).permute(0, 3, 1, 2).float() / 255
    photo = photographs(*pair.split(1), Draw(1, torch.Generator().manual_seed(camera)))[0]
    pixels = 255 * photo.permute(1, 2, 0).double().numpy() + noise * rng.standard_normal((size, size, 3))
    return np.asarray(pixels.round().clip(0, 255), np.uint8)


def _box(move: Floats, rng: Rng) -> Floats:
    """A loose face box [4] round a head that has moved."""
    side = BOX_SIDE * np.exp(BOX_JITTER * rng.normal())
    centre = BOX_CENTRE + MARGIN + move[:2] + BOX_JITTER * BOX_SIDE * rng.normal(size=2)
    return np.concatenate([centre - side / 2, centre + side / 2])


def spoil(film: Film, rng: Rng, share: float = SPOILT) -> Film:
    """The film with a share of its frames out of focus, blurred by motion, or the face partly covered."""
    frames = [_spoilt(frame, rng) if rng.random() < share else frame for frame in film.frames]
    return replace(film, frames=frames)


def _spoilt(frame: UInt8Array, rng: Rng) -> UInt8Array:
    kind = rng.integers(3)
    if kind < 2:
        across, along = ((4, 4), (8, 0.5))[kind]
        return np.asarray(cv2.GaussianBlur(frame, (0, 0), across, sigmaY=along), np.uint8)
    covered, colour = frame.copy(), tuple(int(c) for c in rng.integers(60, 220, 3))
    x, y = (int(c) for c in (frame.shape[0] / 2 + rng.normal(0, 20, 2)))
    cv2.ellipse(covered, (x, y), (30, 18), float(rng.uniform(0, 180)), 0, 360, colour, -1)
    return covered
