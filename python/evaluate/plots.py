"""Pictures of the figures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from python.evaluate.metrics import Array


def plot_cross_talk(names: Sequence[str], slopes: dict[str, Array], path: Path) -> None:
    """A heat map [A, A] for each method: rows are true AUs, columns predicted ones."""
    figure, axes = plt.subplots(1, len(slopes), figsize=(7.2 * len(slopes), 6.6), layout="constrained")
    labels = [name.removeprefix("AU") for name in names]
    for axis, (method, matrix) in zip(np.atleast_1d(axes), slopes.items(), strict=True):
        picture = axis.imshow(matrix, cmap="RdBu_r", vmin=-1, vmax=1)
        axis.set_xticks(range(len(names)), labels)
        axis.set_yticks(range(len(names)), labels)
        axis.set_facecolor("0.85")
        for i, row in enumerate(matrix):
            for j, value in enumerate(row):
                if np.isfinite(value) and abs(value) >= 0.1:
                    colour = "white" if abs(value) > 0.6 else "black"
                    axis.text(j, i, f"{value:.1f}", ha="center", va="center", fontsize=6, color=colour)
        axis.set(title=method, xlabel="predicted AU", ylabel="true AU")
    figure.colorbar(
        picture, ax=axes, shrink=0.7, label="rise of the prediction as the true AU goes from 0 to 1"
    )
    figure.savefig(path, dpi=110)
    plt.close(figure)


def plot_convergence(curves: dict[str, list[dict[str, float]]], path: Path) -> None:
    """Mean absolute error and correlation against iterations and against time, a line for each start."""
    figure, axes = plt.subplots(2, 2, figsize=(10, 7), layout="constrained", sharex="col", sharey="row")
    for name, points in curves.items():
        for row, (figure_name, label) in enumerate(
            (("mae", "mean absolute error"), ("r", "mean correlation"))
        ):
            for column, (key, unit) in enumerate(
                (("iterations", "iterations"), ("us_per_face", "us per face"))
            ):
                axis = axes[row, column]
                axis.plot([p[key] for p in points], [p[figure_name] for p in points], "o-", ms=4, label=name)
                axis.set_ylabel(label if column == 0 else "")
                axis.set_xlabel(unit if row == 1 else "")
                axis.grid(alpha=0.3)
    axes[0, 0].legend()
    figure.savefig(path, dpi=110)
    plt.close(figure)
