"""From parameters to Action Units: the linear table ``data/action_units.csv``."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

from genet_ext.parameters import ParameterSpace, load_parameter_space, read_table

FACS_LEVELS = 5.0  # intensity of the strongest movement on the FACS scale (0 absent, A = 1 ... E = 5)


@dataclass(frozen=True)
class ActionUnitTable:
    """Which parameters make up which Action Unit.

    Attributes:
        names: the A reported AUs, in py-feat's order.
        weights: float64 [A, P]; AU = clip(weights @ theta, 0, 1).
        expressible: bool [A]; False for an AU the face model has no parameter for, reported as NaN.
    """

    names: tuple[str, ...]
    weights: npt.NDArray[np.float64]
    expressible: npt.NDArray[np.bool_]

    def values(self, theta: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
        """AU values in [0, 1] of parameters [B, P]: float64 [B, A]; NaN if theta is, or the AU unknown."""
        total = np.zeros((len(theta), len(self.names)))
        # Column by column, not as a matrix product: the sums then do not depend on the batch.
        for au, parameter in zip(*np.nonzero(self.weights), strict=True):
            total[:, au] += self.weights[au, parameter] * theta[:, parameter].astype(np.float64)
        total = np.clip(total, 0, 1)
        total[:, ~self.expressible] = np.nan
        return total


@cache
def load_action_units() -> ActionUnitTable:
    """The shipped table, for the shipped parameter space."""
    return build_action_units(read_table("action_units.csv"), load_parameter_space())


def build_action_units(rows: list[dict[str, str]], space: ParameterSpace) -> ActionUnitTable:
    """The table from its CSV rows (au, parameter, weight, side).

    Raises:
        KeyError: a row names a parameter that the space does not have.
        ValueError: a row's weight is not a number above 0.
    """
    names = tuple(dict.fromkeys(row["au"] for row in rows))
    weights = np.zeros((len(names), space.size))
    for row in rows:
        if row["parameter"]:
            weight = float(row["weight"])
            if not weight > 0:
                raise ValueError(
                    f"weight of {row['parameter']} in {row['au']}: expected above 0, got {row['weight']}"
                )
            weights[names.index(row["au"]), space.index(row["parameter"])] = weight
    return ActionUnitTable(names, weights, weights.sum(axis=1) > 0)
