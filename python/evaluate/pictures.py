"""Held-out renders as test pictures: photograph-like images, loose face boxes, and the truth about each."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import torch

from genet_ext.action_units import load_action_units
from genet_ext.faces import BOX_CENTRE, BOX_SIDE
from genet_ext.images import UInt8Array
from python.evaluate import metrics
from python.evaluate.metrics import Array
from python.render.geometry import MARGIN
from python.render.reader import RenderDataset, load_dataset
from python.train.augment import Draw, composite, photographs
from python.train.crops import GREY

Labels = npt.NDArray[np.str_]

CHUNK = 64  # renders read at a time
# How much smaller the picture is than the render, in which 38 px lie between the eyes, and how often.
SCALES, SCALE_SHARES = (1.0, 0.6, 0.4), (0.6, 0.2, 0.2)
EYE_DISTANCE = 38
BOX_SHIFT, BOX_LOG_SIDE = 0.05, 0.1  # standard deviations: of the box's side, and of its logarithm


@dataclass(frozen=True)
class TestSet:
    """N pictures with their truth. Coordinates are px of the pictures, angles radians.

    Attributes:
        names: the A AUs.
        aus: [N, A] in [0, 1]; NaN where the face model cannot express an AU.
        pose: [N, 3] pitch, yaw, roll as in the picture.
        landmarks: [N, 68, 2].
        scale: [N], picture px per px of the 128 px crop.
        box: [N, 4] loose face boxes.
        person: [N].
        level, ramp, ramp_au: of the pictures of a ramp (see python.evaluate.second_model); -1 elsewhere.
        groups: labels [N] by what they tell apart: yaw, skin tone, resolution.
        neutral_groups: labels [N] that mean something on neutral faces only: eye shape.
    """

    renders: RenderDataset
    rows: npt.NDArray[np.int64]
    seed: int
    names: tuple[str, ...]
    aus: Array
    pose: Array
    landmarks: Array
    scale: Array
    box: Array
    person: npt.NDArray[np.int64]
    level: Array
    ramp: npt.NDArray[np.int64]
    ramp_au: Labels
    groups: dict[str, Labels]
    neutral_groups: dict[str, Labels]

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def neutral(self) -> npt.NDArray[np.bool_]:
        """[N], whether no AU is above 0."""
        return ~(np.nan_to_num(self.aus) > 0).any(1)

    def by_person(
        self, read: Array, rows: slice | npt.NDArray[np.bool_ | np.int64]
    ) -> dict[str, dict[str, float]]:
        """Figures of each AU, ``read`` [n, A] of some ``rows``, that compare pictures of one person."""
        aus, person, ramp, level = self.aus[rows], self.person[rows], self.ramp[rows], self.level[rows]
        out = {}
        for j, name in enumerate(self.names):
            rises = self.ramp_au[rows] == name
            out[name] = {
                "within_person_r": metrics.within_person(aus[:, j], read[:, j], person),
                "rising_steps": metrics.rising_steps(level[rises], read[rises, j], ramp[rises]),
            }
        return out

    def pictures(self) -> Iterator[UInt8Array]:
        """The N pictures, uint8 [H, W, 3], in order: background, light, blur, noise and size by the seed."""
        for index, row in enumerate(self.rows):
            pair = self.renders.images([row, self.rows[(index + 1) % len(self)]])
            rgba, other = (torch.from_numpy(pair).permute(0, 3, 1, 2).float() / 255).split(1)
            draw = Draw(1, torch.Generator().manual_seed(self.seed * 1_000_003 + int(row)))
            pixels = photographs(rgba, other, draw)[0].permute(1, 2, 0)
            photo = (pixels * 255).round().to(torch.uint8).numpy()
            side = round(photo.shape[0] * self.scale[index])
            if side != photo.shape[0]:
                photo = cv2.resize(photo, (side, side), interpolation=cv2.INTER_AREA)
            yield np.asarray(photo, np.uint8)


def over_grey(rgba: UInt8Array) -> UInt8Array:
    """A render [H, W, 4] as it is, without what a camera makes of it, over a grey background: [H, W, 3]."""
    planes = torch.from_numpy(rgba).permute(2, 0, 1)[None].float() / 255
    return np.asarray((255 * composite(planes, GREY)[0]).round().byte().permute(1, 2, 0), np.uint8)


def load_test_set(folder: Path, seed: int = 0, limit: int | None = None) -> TestSet:
    """The test set of a folder of renders, of python/render or python.evaluate.second_model.

    Args:
        folder: with dataset.json; where there is a truth.csv, AUs and ramps are read from it, else the AUs
            follow from theta.
        seed: of boxes, sizes, backgrounds and everything a camera does.
        limit: use the first so many only.
    """
    renders = load_dataset(folder)
    rows = np.arange(len(renders))[:limit]
    n = len(rows)
    truth = _read_truth(renders)[:limit]
    theta = renders.theta[rows].astype(np.float64)

    rng = np.random.default_rng([seed, 7])
    scale = rng.choice(SCALES, n, p=SCALE_SHARES)
    side = BOX_SIDE * np.exp(BOX_LOG_SIDE * rng.normal(size=n).clip(-2, 2))
    centre = BOX_CENTRE + MARGIN + BOX_SHIFT * BOX_SIDE * rng.normal(size=(n, 2)).clip(-2, 2)
    landmarks = renders.landmarks[rows].astype(np.float64)

    def to_picture(points: Array, s: Array) -> Array:
        # Pixel centres are at integers: the corner of the picture is at -0.5.
        return (points + 0.5) * s - 0.5

    corners = np.concatenate([centre - side[:, None] / 2, centre + side[:, None] / 2], axis=1)
    tone = np.array([-float(line["tone"]) for line in truth]) if truth else _lightness(renders, rows)
    yaw = np.degrees(np.abs(theta[:, 1]))
    eyes = np.array([f"{EYE_DISTANCE * s:.0f} px between the eyes" for s in scale])
    return TestSet(
        renders=renders,
        rows=rows,
        seed=seed,
        names=load_action_units().names,
        aus=_aus(truth, theta),
        pose=theta[:, :3],
        landmarks=to_picture(landmarks, scale[:, None, None]),
        scale=scale,
        box=to_picture(corners, scale[:, None]),
        person=renders.identity[rows].astype(np.int64),
        level=np.array([float(line["level"]) for line in truth]) if truth else np.full(n, np.nan),
        ramp=np.array([int(line["ramp"]) for line in truth]) if truth else np.full(n, -1),
        ramp_au=np.array([line["ramp_au"] for line in truth]) if truth else np.full(n, ""),
        groups={
            "yaw": metrics.bins(yaw, (0, 15, 30, 45), "deg"),
            "skin": metrics.terciles(tone, ("dark", "middle", "light")),
            "resolution": eyes,
        },
        neutral_groups={"eyes": metrics.terciles(_eye_opening(landmarks), ("narrow", "middle", "wide"))},
    )


def true_aus(renders: RenderDataset) -> Array:
    """The AUs [N, A] of all renders: as in truth.csv where there is one, else as they follow from theta."""
    return _aus(_read_truth(renders), renders.theta.astype(np.float64))


def _aus(truth: list[dict[str, str]], theta: Array) -> Array:
    table = load_action_units()
    if truth:
        return np.array([[float(line[au]) for au in table.names] for line in truth])
    return table.values(theta)


def _read_truth(renders: RenderDataset) -> list[dict[str, str]]:
    path = renders.folder / "truth.csv"
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        lines = {int(line["index"]): line for line in csv.DictReader(file)}
    missing = sorted(set(range(len(renders))) - lines.keys())
    if missing:
        raise ValueError(f"{path}: expected a line for every picture; picture {missing[0]} has none")
    return [lines[row] for row in range(len(renders))]


def _lightness(renders: RenderDataset, rows: npt.NDArray[np.int64]) -> Array:
    """Logarithm of the cheeks' lightness [N], the exposure taken off."""
    exposure = renders.appearance[rows, renders.meta["appearance"].index("exposure")]
    out = np.empty(len(rows))
    for start in range(0, len(rows), CHUNK):
        images = renders.images(rows[start : start + CHUNK])
        points = renders.landmarks[rows[start : start + CHUNK]]
        cheeks = (points[:, [2, 14]] + 2 * points[:, [31, 35]]) / 3
        for k, (image, places) in enumerate(zip(images, cheeks, strict=True)):
            patches = []
            for x, y in np.clip(np.round(places), 4, image.shape[0] - 5).astype(int):
                patches.append(image[y - 3 : y + 4, x - 3 : x + 4, :3].reshape(-1, 3))
            linear = (np.median(np.concatenate(patches), 0) / 255) ** 2.2
            out[start + k] = np.log(linear @ [0.2126, 0.7152, 0.0722] + 1e-3)
    return out - exposure


def _eye_opening(landmarks: Array) -> Array:
    """Height of the eyes over their width [N]."""
    height = np.linalg.norm(landmarks[:, [37, 38, 43, 44]] - landmarks[:, [41, 40, 47, 46]], axis=-1).mean(1)
    width = np.linalg.norm(landmarks[:, [36, 42]] - landmarks[:, [39, 45]], axis=-1).mean(1)
    out: Array = height / width
    return out
