"""Where the time of `genet_ext.fit` goes, from files to AUs, and whether its memory stays flat.

python -m python.bench.bench_path --data data/test --out bench-results/path-cpu.json --plot docs/path-cpu.png
python -m python.bench.bench_path --data data/test --memory-faces 20000 \\
    --out bench-results/path-memory-cpu.json

--data is a folder of photographs or of renders (python/render), of which photographs of 1280 x 960 px are
made.

The profile has two cases: faces searched for, and face boxes given. Each is run as it is and without its
savings (see SAVINGS), in turn, so that all see the same machine. One processor, one thread: CPU time by stage
adds up to the whole then, and is little disturbed by other programs.

The run for memory streams pictures of 192 px with given boxes, a few hundred over and over.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count, cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from genet_ext import assembly, face_finder, faces, fitting
from genet_ext.face_finder import find_faces
from genet_ext.faces import BOX_CENTRE, BOX_SIDE
from genet_ext.images import Source
from genet_ext.similarity import FloatArray
from python.bench.common import machine, pin_threads, write_result
from python.bench.photographs import photographs, pictures
from python.bench.stage_clock import Hook, StageClock
from python.render.geometry import MARGIN

SCHEMA = 1

HOOKS: list[Hook] = [
    (Source, "read", "decode"),
    (faces, "find_faces", "face finder"),
    (faces, "cut_patch", "cut out"),
    (faces, "_crops", "crops"),
    (faces, "look", "extractor"),
    (fitting, "align_faces", "alignment"),
    (fitting, "search", "search"),
    (assembly, "au_posterior", "uncertainty"),
    (fitting, "kept_crops_of", "pictures kept for plots"),
    (fitting, "assemble", "result"),
]
STAGES = [*(stage for _, _, stage in HOOKS), "the rest"]

SEARCHED, GIVEN = "faces searched for", "boxes given"

Saving = tuple[Any, str, Any]
"""Module, name of its constant, and the value that switches the saving off."""

SAVINGS: dict[str, dict[str, Saving]] = {
    SEARCHED: {"small copy first": (face_finder, "SEARCH_SIDES", face_finder.SEARCH_SIDES[-1:])},
    GIVEN: {"leaving settled crops": (faces, "SETTLED", 0.0)},
}
"""By the case in which they count."""

MEMORY_PICTURES = 256
MIB = 2**20


# --- where the time goes --------------------------------------------------------------------------


def variants(case: str) -> dict[str, Saving | None]:
    """As it is, and with each saving switched off."""
    return {"as it is": None, **{f"without {name}": saving for name, saving in SAVINGS[case].items()}}


@contextmanager
def switched_off(saving: Saving | None) -> Iterator[None]:
    """Within the block the path runs without a saving."""
    if saving is None:
        yield
        return
    module, name, value = saving
    before = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, before)


def profile_once(files: list[Path], boxes: list[FloatArray] | None) -> dict[str, Any]:
    """Milliseconds a photograph of each stage and of the whole, and the faces that were fitted."""
    clock = StageClock()
    wall, cpu = time.perf_counter(), time.process_time()
    fitted = rows = 0
    with clock.watching(HOOKS):
        for result in fitting.fit_stream(files, boxes, device="cpu"):
            fitted += int(result.fitted.sum())
            rows += len(result)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    stages = {stage: clock.seconds.get(stage, 0.0) for stage in STAGES}
    stages["the rest"] = cpu - sum(stages.values())
    each = 1e3 / len(files)
    return dict(
        cpu_ms=cpu * each,
        wall_ms=wall * each,
        stages_cpu_ms={stage: seconds * each for stage, seconds in stages.items()},
        fitted=fitted,
        rows=rows,
    )


def profile(files: list[Path], runs: int) -> list[dict[str, Any]]:
    """A row for each case and variant: medians over the runs, each on its share of the photographs."""
    rows = []
    for case in SAVINGS:
        found: dict[str, list[dict[str, Any]]] = {name: [] for name in variants(case)}
        for run in range(runs):
            share = files[run::runs]
            boxes = found_boxes(share) if case == GIVEN else None
            for name, saving in variants(case).items():
                with switched_off(saving):
                    found[name].append(profile_once(share, boxes))
                print(f"{case:20} {name:30} {found[name][-1]['cpu_ms']:8.1f} ms CPU a photograph", flush=True)
        rows += [summary(case, name, several) for name, several in found.items()]
    return rows


def found_boxes(files: list[Path]) -> list[FloatArray]:
    """What the face finder finds in each photograph: [n, 4]."""
    return [find_faces(Source(number, str(path), path).read())[0] for number, path in enumerate(files)]


def summary(case: str, variant: str, runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians over the runs."""

    def median(*keys: str) -> float:
        values = []
        for run in runs:
            value = run
            for key in keys:
                value = value[key]
            values.append(float(value))  # type: ignore[arg-type]
        return statistics.median(values)

    return dict(
        case=case,
        variant=variant,
        cpu_ms=median("cpu_ms"),
        wall_ms=median("wall_ms"),
        cpu_ms_of_runs=[run["cpu_ms"] for run in runs],
        stages_cpu_ms={stage: median("stages_cpu_ms", stage) for stage in STAGES},
        fitted=sum(run["fitted"] for run in runs),
        rows=sum(run["rows"] for run in runs),
    )


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """Stacked bars: a bar for each case and variant, a colour for each stage."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    cases = list(dict.fromkeys(row["case"] for row in rows))
    figure, axes = plt.subplots(
        len(cases), 1, figsize=(9, 1.4 + 0.42 * len(rows) + 0.6 * len(cases)), layout="constrained"
    )
    colours = plt.get_cmap("tab20").colors
    for axis, case in zip(np.atleast_1d(axes), cases, strict=True):
        bars = [row for row in rows if row["case"] == case]
        names = [row["variant"] for row in bars]
        left = np.zeros(len(bars))
        for number, stage in enumerate(STAGES):
            width = np.array([row["stages_cpu_ms"][stage] for row in bars])
            axis.barh(names, width, left=left, color=colours[number % len(colours)], label=stage, height=0.7)
            left += width
        for name, total in zip(names, left, strict=True):
            axis.text(total, name, f" {total:.0f}" if total >= 100 else f" {total:.1f}", va="center")
        axis.invert_yaxis()
        axis.margins(x=0.08)
        axis.set_title(case, loc="left")
        axis.set_xlabel("ms of CPU time a photograph")
        for side in ("top", "right"):
            axis.spines[side].set_visible(False)
    handles, labels = np.atleast_1d(axes)[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=6, frameon=False, fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)


# --- whether memory stays flat --------------------------------------------------------------------


def memory(folder: Path, total: int) -> dict[str, Any]:
    """Resident memory after each batch of a stream of ``total`` faces."""
    some = list(pictures(folder, MEMORY_PICTURES))
    centre, half = BOX_CENTRE + MARGIN, BOX_SIDE / 2
    # A picture of another side than the canvas has its face where it was, in proportion.
    side = max(picture.shape[0] for picture in some)
    boxes = [np.r_[centre - half, centre + half] * picture.shape[0] / side for picture in some]
    stream = fitting.fit_stream(
        islice(cycle(some), total), (boxes[i % len(boxes)] for i in count()), device="cpu", keep_crops=0
    )
    done, fitted, samples = 0, 0, []
    start = time.perf_counter()
    for result in stream:
        done += len(result)
        fitted += int(result.fitted.sum())
        del result
        samples.append((done, resident() / MIB))
    seconds = time.perf_counter() - start
    seen, mib = np.array(samples).T
    settled = seen >= 0.1 * total
    slope = np.polyfit(seen[settled], mib[settled], 1)[0] if settled.sum() > 1 else float("nan")
    return dict(
        faces=done,
        fitted=fitted,
        seconds=seconds,
        peak_mib=float(mib.max()),
        mib_after_a_tenth=float(mib[settled][0]),
        mib_at_the_end=float(mib[-1]),
        mib_per_1000_faces_after_a_tenth=float(1000 * slope),
        samples_faces=[int(n) for n in seen],
        samples_mib=[round(float(m), 1) for m in mib],
    )


def resident() -> int:
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


# --- the command ----------------------------------------------------------------------------------


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    option = parser.add_argument
    option("--data", type=Path, required=True, help="folder of photographs or of renders")
    option("--photos", type=int, default=1000, help="photographs in all (default: %(default)s)")
    option(
        "--runs",
        type=int,
        default=3,
        help="runs to share them, the result is the median (default: %(default)s)",
    )
    option("--memory-faces", type=int, help="measure memory over so many faces instead")
    option("--out", type=Path, help="JSON file to write")
    option("--plot", type=Path, help="picture of the profile to write")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    options = arguments(argv)
    processors = pin_threads(1)
    result: dict[str, Any] = dict(
        schema=SCHEMA, benchmark="path", machine=machine(), threads=1, processors=processors
    )
    if options.memory_faces:
        result |= dict(benchmark="path-memory", memory=memory(options.data, options.memory_faces))
        held = result["memory"]
        print(
            f"{held['faces']} faces in {held['seconds']:.0f} s: {held['mib_after_a_tenth']:.0f} MiB after a "
            f"tenth, {held['mib_at_the_end']:.0f} at the end, peak {held['peak_mib']:.0f}"
        )
    else:
        torch.set_grad_enabled(False)
        with tempfile.TemporaryDirectory() as work:
            files = photographs(options.data, options.photos, Path(work))
            rows = profile(files, options.runs)
            result |= dict(photographs=len(files), runs=options.runs, results=rows)
        if options.plot:
            plot(result["results"], options.plot)
    write_result(options.out, result)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
