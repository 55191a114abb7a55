"""The one timer of all benchmarks, and what a result must say of the machine it came from."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from python.provenance import command, commit, processor


def pin_threads(count: int) -> list[int]:
    """Run on the first `count` processors this process may use, with as many torch threads; returns them."""
    processors = sorted(os.sched_getaffinity(0))[:count]
    if len(processors) < count:
        raise ValueError(f"threads: expected at most {len(processors)}, got {count}")
    os.sched_setaffinity(0, processors)
    torch.set_num_threads(count)
    return processors


def measure(
    prepare: Callable[[], Any],
    run: Callable[[Any], Any],
    device: torch.device,
    *,
    seconds: float,
    warm_up: int = 3,
    least: int = 5,
    most: int = 200,
) -> dict[str, Any]:
    """Wall time of `run(prepare())`, the preparation not counted, the device's work finished within it.

    Repeats for about `seconds`, at least `least` and at most `most` times, after `warm_up` calls (two, where
    more would take longer than `seconds`).

    Returns:
        median, q1, q3, minimum in seconds; repeats; first: seconds of the first call (compilation included).
    """

    def once() -> float:
        state = prepare()
        _synchronize(device)
        start = time.perf_counter()
        run(state)
        _synchronize(device)
        return time.perf_counter() - start

    first = once()
    end = time.perf_counter() + seconds
    for call in range(1, warm_up):
        if call == 1 or time.perf_counter() < end:
            once()
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < least or (time.perf_counter() < end and len(times) < most):
        times.append(once())
    quartiles = torch.tensor(times, dtype=torch.float64).quantile(torch.tensor([0.25, 0.5, 0.75]).double())
    q1, median, q3 = quartiles.tolist()
    return dict(median=median, q1=q1, q3=q3, minimum=min(times), repeats=len(times), first=first)


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def matmul_flops(device: torch.device, dtype: torch.dtype, size: int) -> float:
    """FLOP/s of torch's own size x size x size matrix product: the ceiling to hold a kernel against."""
    left, right = torch.randn(2, size, size, device=device).to(dtype)
    result = measure(lambda: None, lambda _: left @ right, device, seconds=0.5)
    return 2 * size**3 / result["median"]


def write_result(path: Path | None, result: dict[str, Any]) -> None:
    """Write a benchmark's JSON file, its folder too; nothing where no path was given."""
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(result, indent=1) + "\n")


def machine() -> dict[str, Any]:
    """Where and with what a benchmark ran, without the host's name."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return dict(
        cpu=processor(),
        processors=os.cpu_count(),
        load_average=os.getloadavg()[0],
        gpu=gpu,
        gpu_driver=command("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"),
        torch=torch.__version__,
        cuda=torch.version.cuda,
        python=platform.python_version(),
        system=platform.system(),
        commit=commit(),
        time=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    )
