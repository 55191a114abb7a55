"""The CUDA search, kernel by kernel: is it right, and how fast is it? Needs a GPU and a minute.

python -m python.bench.gpu_probe --out bench-results/fit-kernels.json

Right: each precision and tile against the float64 search on the CPU; the same bits for every tile and batch.
Fast: milliseconds of a 100-step search, faces per second and TFLOP/s over batch sizes, beside a large bf16
matrix product timed in the same run.
"""

from __future__ import annotations

import argparse
import os
import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from genet_ext import ops, reference
from python.bench.common import machine, write_result

WIDTH, HIDDEN, FEATURES = 96, 128, 256
STEPS = 100
FLOP_PER_STEP = 2 * (2 * (WIDTH * HIDDEN + HIDDEN * HIDDEN + HIDDEN * FEATURES) + WIDTH * WIDTH)
BATCHES = (1, 16, 132, 1024, 4096, 16384, 65536, 262144)
VARIANTS: dict[str, tuple[str, dict[str, str]]] = {
    "full": ("full", {}),
    "full, tile 16": ("full", {"GENET_FIT_TILE": "16"}),
    "full, tile 4": ("full", {"GENET_FIT_TILE": "4"}),
    "full, tile 1": ("full", {"GENET_FIT_TILE": "1"}),
    "tensor": ("tensor", {}),
    "tensor, 4 warps": ("tensor", {"GENET_FIT_WARPS": "4"}),
}


def problem(batch: int, seed: int = 0) -> dict[str, Any]:
    """A random feature generator and targets that it nearly reaches, float64 on the CPU."""
    random = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=random, dtype=torch.float64)

    mlp = (
        normal(HIDDEN, WIDTH) * 1.5 / WIDTH**0.5,
        normal(HIDDEN) * 0.3,
        normal(HIDDEN, HIDDEN) * 1.5 / HIDDEN**0.5,
        normal(HIDDEN) * 0.3,
        normal(FEATURES, HIDDEN) / HIDDEN**0.5,
        normal(FEATURES) * 0.1,
    )
    true = normal(batch, WIDTH) * 0.5
    root = normal(WIDTH, WIDTH) / WIDTH**0.5
    zeros = torch.zeros(batch, WIDTH, dtype=torch.float64)
    return dict(
        params=zeros.clone(),
        exp_avg=zeros.clone(),
        exp_avg_sq=zeros.clone(),
        step=torch.zeros(batch, dtype=torch.int32),
        active=torch.ones(batch, dtype=torch.bool),
        target=reference.mlp_features(true, mlp) + 0.05 * normal(batch, FEATURES),
        mlp=mlp,
        feature_weight=0.05 + 0.1 * normal(FEATURES).abs(),
        prior_mean=true + 0.3 * normal(batch, WIDTH),
        prior_precision=root @ root.T + 0.5 * torch.eye(WIDTH, dtype=torch.float64),
        prior_rate=torch.where(torch.arange(WIDTH) % 3 == 0, 0.1, 0.0).double(),
        lower=torch.full((WIDTH,), -2.0, dtype=torch.float64),
        upper=torch.full((WIDTH,), 2.0, dtype=torch.float64),
    )


def moved(case: dict[str, Any], device: str, dtype: torch.dtype) -> dict[str, Any]:
    def one(tensor: Tensor) -> Tensor:
        return tensor.to(device, dtype if tensor.is_floating_point() else tensor.dtype, copy=True)

    return {name: tuple(map(one, v)) if isinstance(v, tuple) else one(v) for name, v in case.items()}


@contextmanager
def environment(values: dict[str, str]) -> Iterator[None]:
    os.environ.update(values)
    try:
        yield
    finally:
        for name in values:
            del os.environ[name]


def milliseconds(run: Callable[[], object], repeats: int) -> float:
    run()
    times = []
    for _ in range(repeats):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        run()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end))
    return statistics.median(times)


def matrix_rate() -> float:
    """TFLOP/s of a bf16 product of 8192 x 8192 matrices."""
    a = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
    return 2 * 8192**3 / milliseconds(lambda: a @ a, 10) / 1e9


def accuracy(kind: str) -> list[dict[str, Any]]:
    """Each variant after 200 steps, beside the float64 search."""
    case = problem(133)
    options = dict(kind=kind, n_iter=200, lr=0.05, lr_decay=0.98)
    truth = moved(case, "cpu", torch.float64)
    true_loss = ops.fit_mlp_(**truth, **options)
    on_cpu = moved(case, "cpu", torch.float32)
    ops.fit_mlp_(**on_cpu, **options)
    rows = []
    for name, (precision, values) in VARIANTS.items():
        ours = moved(case, "cuda", torch.float32)
        with environment(values):
            loss = ops.fit_mlp_(**ours, **options, precision=precision)
        error = (ours["params"].cpu().double() - truth["params"]).abs()
        alone = {
            key: value[5:6].clone() if isinstance(value, Tensor) and len(value) == 133 else value
            for key, value in moved(case, "cuda", torch.float32).items()
        }
        with environment(values):
            ops.fit_mlp_(**alone, **options, precision=precision)
        row = dict(
            kind=kind,
            variant=name,
            max_error=error.max().item(),
            mean_error=error.mean().item(),
            loss_error=((loss.cpu().double() - true_loss).abs() / true_loss).max().item(),
            equals_cpu=torch.equal(ours["params"].cpu(), on_cpu["params"]),
            equals_alone=torch.equal(ours["params"][5:6], alone["params"]),
        )
        print(
            f"{kind:8} {name:26} max {row['max_error']:.2e} mean {row['mean_error']:.2e} "
            f"loss {row['loss_error']:.2e} bits as on CPU: {row['equals_cpu']} alone: {row['equals_alone']}",
            flush=True,
        )
        rows.append(row)
    return rows


def speed(name: str, batch: int, peak: float) -> dict[str, Any]:
    precision, values = VARIANTS[name]
    small = moved(problem(min(batch, 4096)), "cuda", torch.float32)
    repeat = -(-batch // 4096)
    case = {
        key: torch.cat([v] * repeat)[:batch] if isinstance(v, Tensor) and v.shape[:1] == (4096,) else v
        for key, v in small.items()
    }
    options = dict(kind="squared", n_iter=STEPS, lr=0.05, lr_decay=0.98, precision=precision)
    with environment(values):
        ms = milliseconds(lambda: ops.fit_mlp_(**case, **options), 3 if batch > 20000 else 5)
    if batch % 4096 == 0:  # the same 4096 faces over and over: wherever they lie, they get the same bits
        found = case["params"].view(-1, 4096, WIDTH)
        assert (found == found[0]).all(), f"{name}: copies of a face differ at B {batch}"
    tflops = FLOP_PER_STEP * STEPS * batch / ms / 1e9
    row = dict(
        variant=name, batch=batch, ms=ms, faces_per_s=batch / ms * 1e3, tflops=tflops, share=tflops / peak
    )
    print(
        f"{name:26} B {batch:6} {ms:9.2f} ms {ms / STEPS * 1e3:8.2f} us/step {row['faces_per_s']:9.0f}/s"
        f" {tflops:7.2f} TFLOP/s {100 * row['share']:5.1f} % of bf16",
        flush=True,
    )
    return row


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, help="JSON file to write")
    options = parser.parse_args()
    torch.set_grad_enabled(False)
    result: dict[str, Any] = dict(schema=1, benchmark="fit-kernels", machine=machine())
    result["accuracy"] = [row for kind in ("squared", "huber", "cosine") for row in accuracy(kind)]
    peak = matrix_rate()
    print(f"bf16 product: {peak:.0f} TFLOP/s", flush=True)
    result["matrix_tflops"] = peak
    result["speed"] = []
    for batch in BATCHES:
        for name in VARIANTS:
            tile = int(VARIANTS[name][1].get("GENET_FIT_TILE", 0))
            if tile and (batch < tile or batch > 2048 * tile):
                continue
            result["speed"].append(speed(name, batch, peak))
    write_result(options.out, result)


if __name__ == "__main__":
    main()
