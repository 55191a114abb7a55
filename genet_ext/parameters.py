"""The parameter space: what the numbers of a face's parameter vector mean, and their bounds."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache, cached_property
from importlib import resources

import torch
from torch import Tensor

POSE, EXPRESSION, IDENTITY = "pose", "expression", "identity"


def read_table(name: str) -> list[dict[str, str]]:
    """Rows of one of the package's CSV tables (``genet_ext/data``), as dictionaries by column name."""
    with resources.files("genet_ext").joinpath("data", name).open("r", encoding="utf-8") as file:
        return list(csv.DictReader(file))


# What changes its sign in a mirror; of the identity, the antisymmetric modes.
MIRROR_TURNS = frozenset(
    ("yaw", "roll", "id_09", "id_20", "id_25", "id_28", "id_33", "id_37", "id_43", "id_45")
)


@dataclass(frozen=True)
class ParameterSpace:
    """Names, groups, units and bounds of the P parameters of a face, in vector order.

    Attributes:
        names: P parameter names, e.g. ``"yaw"``, ``"AU12_L"``, ``"id_00"``.
        groups: P group names, each ``"pose"``, ``"expression"`` or ``"identity"``.
        units: P unit names (rad, share of the strongest movement, standard deviation).
        lower, upper: float32 [P], inclusive bounds.
    """

    names: tuple[str, ...]
    groups: tuple[str, ...]
    units: tuple[str, ...]
    lower: Tensor
    upper: Tensor

    @property
    def size(self) -> int:
        """P, the number of parameters."""
        return len(self.names)

    def index(self, name: str) -> int:
        """Position of a parameter. Raises KeyError with the known names if there is none of that name."""
        try:
            return self.names.index(name)
        except ValueError:
            raise KeyError(f"unknown parameter {name!r}; the space has {', '.join(self.names)}") from None

    def indices(self, group: str) -> slice:
        """Where a group lies in the vector (groups are contiguous).

        Raises KeyError for an unknown group.
        """
        if group not in self.groups:
            raise KeyError(f"unknown group {group!r}; expected one of {sorted(set(self.groups))}")
        start = self.groups.index(group)
        return slice(start, start + self.groups.count(group))

    def mirrored(self, theta: Tensor) -> Tensor:
        """Parameters [..., P] of a face -> those of its mirror image.

        Left and right change places, the head turns and leans the other way, and the identity modes that make
        a face lopsided make it so on the other side. Exact for ICT-FaceKit: each of its modes is symmetric or
        antisymmetric.
        """
        return theta[..., self._mirror_order.to(theta.device)] * self._mirror_sign.to(theta)

    @cached_property
    def _mirror_order(self) -> Tensor:
        """[P]: where each parameter of the mirror image comes from."""
        other = {"AU61": "AU62", "AU62": "AU61"}  # eyes to the left, to the right
        for name in self.names:
            if name[-2:] in ("_L", "_R"):
                other[name] = name[:-1] + ("R" if name.endswith("L") else "L")
        return torch.tensor([self.index(other.get(name, name)) for name in self.names])

    @cached_property
    def _mirror_sign(self) -> Tensor:
        return torch.tensor([-1.0 if name in MIRROR_TURNS else 1.0 for name in self.names])

    def names_of(self, group: str) -> tuple[str, ...]:
        """Parameter names of one group, in order."""
        return self.names[self.indices(group)]


@cache
def load_parameter_space() -> ParameterSpace:
    """The parameter space of the shipped models, read from ``data/parameters.csv``."""
    rows = read_table("parameters.csv")
    return ParameterSpace(
        names=tuple(row["name"] for row in rows),
        groups=tuple(row["group"] for row in rows),
        units=tuple(row["unit"] for row in rows),
        lower=torch.tensor([float(row["lower"]) for row in rows]),
        upper=torch.tensor([float(row["upper"]) for row in rows]),
    )
