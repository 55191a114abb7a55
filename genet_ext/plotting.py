"""The picture of a fit: photograph, rendering and AU bars of each face."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from genet_ext.action_units import load_action_units
from genet_ext.images import UInt8Array

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from genet_ext.result import FitResult

MAX_ROWS = 24
ROW_HEIGHT, WIDTH = 2.6, 10.0  # inches
BAR, STRONG_BAR, ERROR, TEXT, GRID = "#9db7d5", "#2f6db3", "#41566f", "#333333", "#e3e6ea"
GAMMA, MOST_GAIN = 2.2, 4.0
LUMINANCE = np.array([0.2126, 0.7152, 0.0722], np.float32)  # of linear light
STRONG = 0.3  # AUs from here on are drawn in the strong colour
AU_NAMES = {
    "AU01": "inner brow raiser",
    "AU02": "outer brow raiser",
    "AU04": "brow lowerer",
    "AU05": "upper lid raiser",
    "AU06": "cheek raiser",
    "AU07": "lid tightener",
    "AU09": "nose wrinkler",
    "AU10": "upper lip raiser",
    "AU11": "nasolabial deepener",
    "AU12": "lip corner puller",
    "AU14": "dimpler",
    "AU15": "lip corner depressor",
    "AU17": "chin raiser",
    "AU20": "lip stretcher",
    "AU23": "lip tightener",
    "AU24": "lip pressor",
    "AU25": "lips part",
    "AU26": "jaw drop",
    "AU28": "lip suck",
    "AU43": "eyes closed",
}


def plot_result(result: FitResult, path: str | Path | None = None) -> Figure:
    """See :meth:`FitResult.plot`."""
    if not 1 <= len(result) <= MAX_ROWS:
        raise ValueError(
            f"plot: expected 1 to {MAX_ROWS} faces, got {len(result)}; take some: result[:5].plot()"
        )
    lost = [row for row, crop in enumerate(result.crops) if crop is None and result.fitted[row]]
    if lost:
        raise ValueError(
            f"plot: the photograph of face {lost[0]} was not kept; fit with keep_crops={len(result)} or more"
        )
    figure = Figure(figsize=(WIDTH, ROW_HEIGHT * len(result)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(result), 3, squeeze=False, gridspec_kw={"width_ratios": [1, 1, 2.1]})
    renderings, aus, deviations = result.render(), result.aus.to_numpy(), result.aus_sd.to_numpy()
    for row, (left, middle, right) in enumerate(axes):
        _show(left, result.crops[row], _title(result, row))
        if result.fitted[row]:
            said = "doubtful fit" if result.quality[row] == "doubtful" else "rendering of the fit"
            picture = renderings[row]
            if (crop := result.crops[row]) is not None:
                picture = in_colours_of(crop, picture)
            _show(middle, picture, said if row == 0 or said == "doubtful fit" else "")
            _bars(right, aus[row], deviations[row])
        else:
            _show(middle, None, "")
            right.set_axis_off()
            right.text(
                0, 0.5, f"{result.status[row]}: {result.message[row]}", color=TEXT, va="center", wrap=True
            )
    if path is not None:
        figure.savefig(path, dpi=120)
    return figure


def in_colours_of(photo: UInt8Array, rendering: UInt8Array) -> UInt8Array:
    """The rendering with its skin as bright as the photograph's, for the eye to compare shapes.

    A camera's exposure and white balance are not among the fitted parameters: linear light is scaled so that
    the luminance of the medians over the middle of the face agrees, the background with it. Their hue meets
    half way, as the middle of a face, with its nose, may be redder than the rest of it.

    Args:
        photo: uint8 [S, S, 3], the aligned photograph.
        rendering: uint8 [R, R, 3].
    """
    light = [(picture.astype(np.float32) / 255) ** GAMMA for picture in (photo, rendering)]
    wanted, found = (np.median(_middle(picture).reshape(-1, 3), 0) for picture in light)
    found = np.maximum(found, 1e-3)
    gain = np.sqrt(wanted / found)
    gain *= (LUMINANCE @ wanted) / np.maximum(LUMINANCE @ (found * gain), 1e-3)
    scaled = light[1] * np.clip(gain, 1 / MOST_GAIN, MOST_GAIN)
    out: UInt8Array = (255 * scaled.clip(0, 1) ** (1 / GAMMA)).round().astype(np.uint8)
    return out


def _middle(picture: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.floating[Any]]:
    """From below the eyes to the upper lip of an aligned face, between the cheeks."""
    side = len(picture)
    return picture[int(0.42 * side) : int(0.62 * side), int(0.3 * side) : int(0.7 * side)]


def _title(result: FitResult, row: int) -> str:
    name = Path(result.source[row]).name
    several = result.face.max() > 0
    return f"{name[:28]}{f'  face {result.face[row]}' if several else ''}"


def _show(axes: Axes, picture: UInt8Array | None, title: str) -> None:
    axes.set_axis_off()
    axes.set_title(title, fontsize=9, color=TEXT)
    if picture is not None:
        axes.imshow(picture, interpolation="antialiased")


def _bars(axes: Axes, values: npt.NDArray[Any], deviations: npt.NDArray[Any]) -> None:
    names = load_action_units().names
    known = np.isfinite(values)
    at = np.arange(len(names))
    colours = [STRONG_BAR if value >= STRONG else BAR for value in np.nan_to_num(values)]
    axes.bar(at, np.nan_to_num(values), color=colours, width=0.72, zorder=2)
    if np.isfinite(deviations).any():
        low = np.minimum(deviations, values)[known]
        high = np.minimum(deviations, 1 - values)[known]
        axes.errorbar(
            at[known], values[known], yerr=(low, high), fmt="none", ecolor=ERROR, elinewidth=0.8, zorder=3
        )
    for position in at[~known]:
        axes.text(position, 0.02, "n/a", ha="center", va="bottom", fontsize=6, color=TEXT)
    axes.set_ylim(0, 1)
    axes.set_xlim(-0.6, len(names) - 0.4)
    axes.set_yticks([0, 0.5, 1])
    axes.tick_params(length=0, labelsize=8, colors=TEXT)
    axes.set_xticks(at, [name.removeprefix("AU") for name in names])
    axes.set_ylabel("AU", fontsize=8, color=TEXT)
    axes.grid(axis="y", color=GRID, zorder=0)
    for side in ("top", "right", "left", "bottom"):
        axes.spines[side].set_visible(False)
    _name_strongest(axes, np.nan_to_num(values), names)


def _name_strongest(axes: Axes, values: npt.NDArray[Any], names: tuple[str, ...]) -> None:
    strongest = [i for i in np.argsort(-values, kind="stable")[:3] if values[i] >= STRONG]
    said = ", ".join(f"{names[i]} {AU_NAMES[names[i]]}" for i in strongest)
    axes.set_title(said or f"no AU above {STRONG}", fontsize=9, color=TEXT, loc="left")
