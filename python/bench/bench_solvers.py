"""Ways to the optimum, error against time: the fused search, Levenberg-Marquardt, and no search at all.

python -m python.bench.bench_solvers --data data/test --out bench-results/solvers-cpu.json \\
    --plot docs/solvers-cpu.png

Methods, on held-out renders, extracted once by the path that genet_ext.fit takes, on one CPU thread:
  adam                 genet_ext.solver.search as shipped, up to so many iterations
  levenberg-marquardt  python.bench.newton, plain PyTorch, up to so many steps
  regressor            the extractor's own estimate: no search, no time

For each: microseconds a face, the objective above the lowest that any method reached, AUs against those at
the optimum, and AUs against the truth. Faces do not influence each other, so the errors are the same for
every batch size; this is checked.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from genet_ext.action_units import load_action_units
from genet_ext.models import Models, load_models
from genet_ext.objective import Target
from genet_ext.solver import SearchSettings, search
from python.bench.common import machine, measure, pin_threads, write_result
from python.bench.newton import levenberg_marquardt
from python.evaluate.methods import extract_all
from python.evaluate.metrics import Array
from python.evaluate.pictures import load_test_set

SCHEMA = 1
STEPS = {"regressor": (0,), "adam": (5, 10, 20, 40, 70, 100, 200), "levenberg-marquardt": (1, 2, 3, 4, 6)}
TO_THE_OPTIMUM = 60  # steps of Levenberg-Marquardt that stand for infinitely many
FACES_ONE_BY_ONE = 32

Solver = Callable[[Target, int], tuple[Tensor, Tensor]]
"""(faces, steps) -> theta [B, P] and loss [B]."""


def solvers(models: Models, tol: float) -> dict[str, Solver]:
    """The methods. A face is done where a step moves no parameter by ``tol``."""

    def adam(target: Target, steps: int) -> tuple[Tensor, Tensor]:
        outcome = search(models, target, target.regressed, SearchSettings(iterations=steps, tol=tol))
        return outcome.theta, outcome.loss

    def newton(target: Target, steps: int) -> tuple[Tensor, Tensor]:
        outcome = levenberg_marquardt(models, target, target.regressed, steps, tol)
        return outcome.theta, outcome.loss

    return {"regressor": adam, "adam": adam, "levenberg-marquardt": newton}


def take(target: Target, rows: slice) -> Target:
    """Some of the faces."""
    return Target(**{name: tensor[rows] for name, tensor in vars(target).items()})


def errors(theta: Tensor, loss: Tensor, best: tuple[Tensor, Tensor], truth: Array) -> dict[str, float]:
    """Means over faces and AUs, and the largest difference."""
    table = load_action_units()
    known = table.expressible
    aus = table.values(theta.double().numpy())[:, known]
    optimal = table.values(best[0].double().numpy())[:, known]
    above = (loss - best[1]).double()
    return dict(
        loss=loss.double().mean().item(),
        loss_above_best=above.mean().item(),
        loss_above_best_worst=above.max().item(),
        au_from_optimum=float(np.abs(aus - optimal).mean()),
        au_from_optimum_worst=float(np.abs(aus - optimal).max()),
        au_error=float(np.abs(aus - truth[:, known]).mean()),
    )


def bench(
    models: Models, target: Target, truth: Array, batches: list[int], seconds: float
) -> list[dict[str, Any]]:
    """A row for each method, number of steps and batch size."""
    tol = SearchSettings.tol
    best = levenberg_marquardt(models, target, target.regressed, TO_THE_OPTIMUM)
    long = search(models, target, target.regressed, SearchSettings(iterations=1000, lr_decay=0.995, tol=0.0))
    lower = long.loss < best.loss
    optimum = torch.where(lower[:, None], long.theta, best.theta), torch.minimum(long.loss, best.loss)
    rows = []
    columns = ("steps", 5), ("faces", 6), ("us/face", 9), ("above min", 11), ("AU off", 8), ("AU error", 9)
    print(f"{'method':<20} " + " ".join(f"{name:>{width}}" for name, width in columns))
    for name, solve in solvers(models, tol).items():
        for steps in STEPS[name]:
            theta, loss = solve(target, steps)
            judged = errors(theta, loss, optimum, truth)
            for batch in batches:
                count = min(FACES_ONE_BY_ONE, len(target.valid)) if batch == 1 else batch
                parts = [take(target, slice(k, k + batch)) for k in range(0, count, batch)]
                found = torch.cat([solve(part, steps)[0] for part in parts])
                if not torch.equal(found, theta[:count]):
                    raise RuntimeError(f"{name}: {batch} faces at a time give other results than all at once")

                def run(_: None, parts: list[Target] = parts, solve: Solver = solve, n: int = steps) -> None:
                    for part in parts:
                        solve(part, n)

                time = measure(lambda: None, run, torch.device("cpu"), seconds=seconds, warm_up=1, least=3)
                each = 1e6 / count
                row = dict(method=name, steps=steps, batch=batch, us_per_face=time["median"] * each)
                row |= dict(us_q1=time["q1"] * each, us_q3=time["q3"] * each, **judged)
                rows.append(row)
                figures = (judged[key] for key in ("loss_above_best", "au_from_optimum", "au_error"))
                cells = zip((steps, batch, round(row["us_per_face"]), *figures), columns, strict=True)
                print(f"{name:<20} " + " ".join(f"{x:>{w}.4g}" for x, (_, w) in cells), flush=True)
    return rows


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """Objective and AUs above the optimum against time, a column for each batch size."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    batches = sorted({row["batch"] for row in rows})
    figures = (
        ("loss_above_best", "objective above its minimum", "log"),
        ("au_from_optimum", "AUs from those at the minimum", "log"),
        ("au_error", "AU error against the truth", "linear"),
    )
    figure, axes = plt.subplots(
        3, len(batches), figsize=(3.6 * len(batches), 8.4), sharey="row", sharex=True, squeeze=False,
        layout="constrained",
    )  # fmt: skip
    for column, batch in enumerate(batches):
        for axis, (key, label, scale) in zip(axes[:, column], figures, strict=True):
            for method in STEPS:
                points = [r for r in rows if r["method"] == method and r["batch"] == batch]
                if method == "regressor":
                    axis.axhline(points[0][key], color="0.5", ls="--", label="regressor alone")
                else:
                    x, y = [p["us_per_face"] for p in points], [max(p[key], 1e-6) for p in points]
                    axis.plot(x, y, "o-", ms=4, label=method)
                    for p, at_x, at_y in zip(points, x, y, strict=True):
                        axis.annotate(
                            f"{p['steps']}", (at_x, at_y), (0, 4), textcoords="offset points", fontsize=7
                        )
            axis.set(xscale="log", yscale=scale)
            axis.grid(alpha=0.3)
            axis.set_ylabel(label if column == 0 else "")
        axes[0, column].set_title(f"{batch} face{'s' * (batch > 1)} at a time")
        axes[2, column].set_xlabel("us a face, one CPU thread")
    axes[0, 0].legend(fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)
    plt.close(figure)


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    option = parser.add_argument
    option("--data", type=Path, required=True, help="folder of renders, see python.evaluate.pictures")
    option("--faces", type=int, default=1024, help="faces the errors are of (default: %(default)s)")
    option("--batch", type=int, nargs="+", default=[1, 64, 1024], help="faces at a time (default: 1 64 1024)")
    option("--seconds", type=float, default=1.0, help="time for each measurement (default: %(default)s)")
    option("--out", type=Path, help="JSON file to write")
    option("--plot", type=Path, help="picture to write")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    options = arguments(argv)
    if max(options.batch) > options.faces:
        raise SystemExit(f"batch: expected at most --faces ({options.faces}), got {max(options.batch)}")
    processors = pin_threads(1)
    models, test = load_models(), load_test_set(options.data, limit=options.faces)
    target = extract_all(models, test.pictures(), test.box).target
    result: dict[str, Any] = dict(
        schema=SCHEMA,
        benchmark="solvers",
        machine=machine(),
        threads=1,
        processors=processors,
        data=options.data.name,
        faces=len(test),
        results=bench(models, target, test.aus, options.batch, options.seconds),
    )
    if options.plot:
        plot(result["results"], options.plot)
    write_result(options.out, result)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
