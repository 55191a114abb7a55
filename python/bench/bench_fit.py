"""The fused search against PyTorch: the same problem, as many iterations, the final losses side by side.

python -m python.bench.bench_fit --device cpu --threads 1 --out bench-results/fit-cpu.json

Methods
  fused          genet_ext.ops.fit_mlp_: the whole search in one call, in float32
  fused-tensor   CUDA only: the same with its matrix products on tensor cores (precision="tensor")
  eager          forward and backward in PyTorch, torch.optim.Adam, clamp to the bounds
  compile        the same step under torch.compile
  graph          CUDA only: the eager step with fused Adam, captured in a CUDA graph and replayed
  compile+graph  CUDA only: the compiled step, captured in a CUDA graph and replayed
  plain          genet_ext.reference.fit_mlp_, written to be read; off unless named

A problem has P parameters, two hidden layers, D features, a dense Gaussian prior and a sparsity rate; its
weights are random, its targets are features of random parameters plus noise. One measurement is one whole
search from the same start; the preparation of its state is not timed.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from genet_ext import ops, reference
from python.bench.common import machine, matmul_flops, measure, pin_threads, write_result

SCHEMA = 1


@dataclass(frozen=True)
class Sizes:
    """Widths of the problem."""

    parameters: int = 96
    hidden1: int = 128
    hidden2: int = 128
    features: int = 256

    @property
    def flop_per_face_iteration(self) -> int:
        """Multiplications and additions of forward, backward and the prior's dense matrix."""
        products = self.parameters * self.hidden1 + self.hidden1 * self.hidden2 + self.hidden2 * self.features
        return 4 * products + 2 * self.parameters**2


@dataclass(frozen=True)
class Search:
    """Settings of the search."""

    iterations: int = 100
    lr: float = 0.05
    lr_decay: float = 0.98
    kind: str = "squared"
    delta: float = 1.0
    eps: float = 1e-8
    beta1: float = 0.9
    beta2: float = 0.999


@dataclass(frozen=True)
class Problem:
    """One batch of faces to search for, on one device."""

    start: Tensor  # [B, P]
    target: Tensor  # [B, D]
    mlp: reference.Mlp
    feature_weight: Tensor  # [D]
    prior_mean: Tensor  # [B, P]
    prior_precision: Tensor  # [P, P]
    prior_rate: Tensor  # [P]
    lower: Tensor  # [P]
    upper: Tensor  # [P]

    def loss(self, params: Tensor, search: Search) -> Tensor:
        """The objective of each face: [B, P] -> [B], in plain PyTorch, differentiable by autograd."""
        residual = reference.mlp_features(params, self.mlp) - self.target
        if search.kind == "squared":
            rho = 0.5 * residual.square()
        elif search.kind == "huber":
            rho = torch.nn.functional.huber_loss(
                residual, torch.zeros_like(residual), reduction="none", delta=search.delta
            )
        else:
            rho = residual.abs()
        offset = params - self.prior_mean
        gaussian = 0.5 * ((offset @ self.prior_precision) * offset).sum(dim=1)
        return (self.feature_weight * rho).sum(dim=1) + gaussian + (self.prior_rate * params.abs()).sum(dim=1)


def make_problem(batch: int, sizes: Sizes, device: torch.device, seed: int = 0) -> Problem:
    """Random but reproducible; made on the CPU, so that every device gets the same."""
    random = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=random)

    widths = (sizes.parameters, sizes.hidden1, sizes.hidden2, sizes.features)
    layers: list[Tensor] = []
    for fan_in, fan_out in pairwise(widths):
        layers += [normal(fan_out, fan_in) * (2 / fan_in) ** 0.5, 0.1 * normal(fan_out)]
    truth = torch.rand(batch, sizes.parameters, generator=random)
    mlp = tuple(layers)
    target = reference.mlp_features(truth, mlp) + 0.05 * normal(batch, sizes.features)  # type: ignore[arg-type]
    mean = (truth + 0.2 * normal(batch, sizes.parameters)).clamp(0, 1)
    root = normal(sizes.parameters, sizes.parameters) / sizes.parameters**0.5
    on = lambda tensor: tensor.contiguous().to(device)  # noqa: E731
    return Problem(
        start=on(mean),
        target=on(target),
        mlp=tuple(map(on, layers)),  # type: ignore[arg-type]
        feature_weight=on(0.5 + torch.rand(sizes.features, generator=random)),
        prior_mean=on(mean),
        prior_precision=on(0.1 * (root @ root.T + torch.eye(sizes.parameters))),
        prior_rate=on(0.01 * torch.rand(sizes.parameters, generator=random)),
        lower=on(torch.zeros(sizes.parameters)),
        upper=on(torch.ones(sizes.parameters)),
    )


Method = tuple[Callable[[], Any], Callable[[Any], Tensor]]
"""prepare() -> state, and run(state) -> the parameters found [B, P]."""


def operator_method(
    operator: Callable[..., Tensor], problem: Problem, search: Search, precision: reference.Precision = "full"
) -> Method:
    def prepare() -> tuple[Tensor, ...]:
        batch = len(problem.start)
        moments = (torch.zeros_like(problem.start), torch.zeros_like(problem.start))
        step = torch.zeros(batch, dtype=torch.int32, device=problem.start.device)
        return (problem.start.clone(), *moments, step, torch.ones_like(step, dtype=torch.bool))

    def run(state: tuple[Tensor, ...]) -> Tensor:
        operator(
            *state,
            problem.target,
            problem.mlp,
            problem.feature_weight,
            problem.prior_mean,
            problem.prior_precision,
            problem.prior_rate,
            problem.lower,
            problem.upper,
            kind=search.kind,
            delta=search.delta,
            lr=search.lr,
            lr_decay=search.lr_decay,
            betas=(search.beta1, search.beta2),
            eps=search.eps,
            tol=0.0,
            n_iter=search.iterations,
            precision=precision,
        )
        return state[0]

    return prepare, run


def eager_method(problem: Problem, search: Search) -> Method:
    def prepare() -> tuple[Tensor, torch.optim.Adam]:
        params = problem.start.clone().requires_grad_()
        betas = (search.beta1, search.beta2)
        return params, torch.optim.Adam([params], lr=search.lr, betas=betas, eps=search.eps)

    def run(state: tuple[Tensor, torch.optim.Adam]) -> Tensor:
        params, adam = state
        for iteration in range(search.iterations):
            adam.param_groups[0]["lr"] = search.lr * search.lr_decay**iteration
            adam.zero_grad()
            problem.loss(params, search).sum().backward()
            adam.step()
            with torch.no_grad():
                torch.clamp(params, problem.lower, problem.upper, out=params)
        return params.detach()

    return prepare, run


def compiled_step(problem: Problem, search: Search) -> Callable[..., None]:
    """One step under torch.compile that changes (params, exp_avg, exp_avg_sq, count) in place.

    The step number lives on the device: as a Python number it would be compiled in, and each step anew.
    """

    def step(params: Tensor, exp_avg: Tensor, exp_avg_sq: Tensor, count: Tensor) -> None:
        grad = torch.func.grad(lambda x: problem.loss(x, search).sum())(params)
        count.add_(1)
        exp_avg.lerp_(grad, 1 - search.beta1)
        exp_avg_sq.mul_(search.beta2).addcmul_(grad, grad, value=1 - search.beta2)
        rate = search.lr * search.lr_decay ** (count - 1) / (1 - search.beta1**count)
        denominator = exp_avg_sq.sqrt() / (1 - search.beta2**count).sqrt() + search.eps
        params.copy_(torch.clamp(params - rate * exp_avg / denominator, problem.lower, problem.upper))

    return torch.compile(step, fullgraph=True, dynamic=False)


def fresh_state(problem: Problem) -> tuple[Tensor, ...]:
    """params, exp_avg, exp_avg_sq and the step count before the first step."""
    zero = torch.zeros_like(problem.start)
    return problem.start.clone(), zero, zero.clone(), torch.zeros((), device=zero.device)


def compiled_method(problem: Problem, search: Search) -> Method:
    step = compiled_step(problem, search)

    def run(state: tuple[Tensor, ...]) -> Tensor:
        with torch.no_grad():
            for _ in range(search.iterations):
                step(*state)
        return state[0]

    return lambda: fresh_state(problem), run


def compiled_graph_method(problem: Problem, search: Search) -> Method:
    step, state = compiled_step(problem, search), fresh_state(problem)
    with torch.no_grad():
        graph = capture(lambda: step(*state))

    def prepare() -> None:
        for tensor, start in zip(state, fresh_state(problem), strict=True):
            tensor.copy_(start)

    def run(_: None) -> Tensor:
        for _iteration in range(search.iterations):
            graph.replay()
        return state[0]

    return prepare, run


def capture(step: Callable[[], None]) -> torch.cuda.CUDAGraph:
    """The step as a CUDA graph, after three runs on a side stream that let it compile and allocate."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph


def graph_method(problem: Problem, search: Search) -> Method:
    params = problem.start.clone().requires_grad_()
    rate = torch.tensor(search.lr, device=params.device)
    betas = (search.beta1, search.beta2)
    adam = torch.optim.Adam([params], lr=rate, betas=betas, eps=search.eps, fused=True, capturable=True)

    def step() -> None:
        adam.zero_grad(set_to_none=False)
        problem.loss(params, search).sum().backward()
        adam.step()
        with torch.no_grad():
            params.clamp_(problem.lower, problem.upper)
            rate.mul_(search.lr_decay)

    graph = capture(step)

    def prepare() -> None:
        with torch.no_grad():
            params.copy_(problem.start)
            rate.fill_(search.lr)
            for tensor in adam.state[params].values():
                tensor.zero_()

    def run(_: None) -> Tensor:
        for _iteration in range(search.iterations):
            graph.replay()
        return params.detach()

    return prepare, run


METHODS: dict[str, Callable[[Problem, Search], Method]] = {
    "fused": lambda problem, search: operator_method(ops.fit_mlp_, problem, search),
    "fused-tensor": lambda problem, search: operator_method(ops.fit_mlp_, problem, search, "tensor"),
    "eager": eager_method,
    "compile": compiled_method,
    "graph": graph_method,
    "compile+graph": compiled_graph_method,
    "plain": lambda problem, search: operator_method(reference.fit_mlp_, problem, search),
}


CUDA_METHODS = ["fused-tensor", "graph", "compile+graph"]


def bench(
    name: str, batch: int, sizes: Sizes, search: Search, device: torch.device, seconds: float
) -> dict[str, Any]:
    """One row of the result: a method at a batch size. A failure is a row too, with its message."""
    row: dict[str, Any] = dict(method=name, batch=batch, iterations=search.iterations)
    problem = make_problem(batch, sizes, device)
    try:
        prepare, run = METHODS[name](problem, search)
        result = measure(prepare, run, device, seconds=seconds)
        found = run(prepare())
    except Exception as error:  # one method that this machine cannot run must not lose the others' figures
        return row | dict(error=f"{type(error).__name__}: {error}"[:2000])
    face_iterations = batch * search.iterations
    loss = problem.loss(found, search).double()
    return row | dict(
        seconds=result,
        microseconds_per_face_iteration=1e6 * result["median"] / face_iterations,
        faces_per_second=batch / result["median"],
        flop_per_second=face_iterations * sizes.flop_per_face_iteration / result["median"],
        start_loss=problem.loss(problem.start, search).double().mean().item(),
        final_loss=loss.mean().item(),
    )


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    option = parser.add_argument
    option("--device", default="cpu", choices=("cpu", "cuda"), help="where to run (default: %(default)s)")
    option("--threads", type=int, help="CPU threads, one per processor (default: 1; on CUDA, all)")
    option("--batch", type=int, nargs="+", default=[1, 16, 256, 4096], help="faces (default: 1 16 256 4096)")
    option("--methods", nargs="+", choices=METHODS, help="default: all but plain")
    option("--iterations", type=int, default=100, help="search steps (default: %(default)s)")
    option("--kind", default="squared", choices=("squared", "huber", "l1"), help="default: %(default)s")
    option("--parameters", type=int, default=96, help="P (default: %(default)s)")
    option("--hidden", type=int, nargs=2, default=[128, 128], metavar=("H1", "H2"), help="default: 128 128")
    option("--features", type=int, default=256, help="D (default: %(default)s)")
    option("--seconds", type=float, default=2.0, help="time for each measurement (default: %(default)s)")
    option("--out", type=Path, help="JSON file to write; without it only the table is printed")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    options = arguments(argv)
    device = torch.device(options.device)
    on_cuda = device.type == "cuda"  # there the CPU only launches, and a second thread runs the backward pass
    processors = pin_threads(options.threads or (len(os.sched_getaffinity(0)) if on_cuda else 1))
    torch.backends.cuda.matmul.allow_tf32 = False  # the baselines in full float32, torch's default, said here
    sizes = Sizes(options.parameters, *options.hidden, options.features)
    search = Search(iterations=options.iterations, kind=options.kind)
    methods = options.methods or ["fused", "eager", "compile", *(CUDA_METHODS if on_cuda else [])]
    dtypes = [torch.float32, torch.bfloat16] if on_cuda else [torch.float32]
    ceilings = {str(dtype): matmul_flops(device, dtype, 8192 if on_cuda else 1024) for dtype in dtypes}
    result: dict[str, Any] = dict(
        schema=SCHEMA,
        benchmark="fit",
        machine=machine(),
        device=options.device,
        threads=len(processors),
        processors=processors,
        sizes=asdict(sizes) | dict(flop_per_face_iteration=sizes.flop_per_face_iteration),
        search=asdict(search),
        matmul_flop_per_second=ceilings,
        results=[],
    )
    columns = ("us/face/iter", 12), ("IQR", 7), ("faces/s", 12), ("final loss", 11), ("x eager", 8)
    print(f"{'faces':>7} {'method':<14} " + " ".join(f"{name:>{width}}" for name, width in columns))
    for batch in options.batch:
        rows = [bench(name, batch, sizes, search, device, options.seconds) for name in methods]
        result["results"] += rows
        for row in rows:
            print(table_line(row, rows), flush=True)
        write_result(options.out, result)  # after every batch size: an interrupted run keeps what it has
    return 1 if any("error" in row for row in result["results"]) else 0


def table_line(row: dict[str, Any], rows: list[dict[str, Any]]) -> str:
    head = f"{row['batch']:>7} {row['method']:<14} "
    if "error" in row:
        return head + "failed: " + row["error"].splitlines()[0][:90]
    time = row["seconds"]
    eager = next((other for other in rows if other["method"] == "eager" and "error" not in other), None)
    speed_up = f"{eager['seconds']['median'] / time['median']:8.2f}" if eager else ""
    return head + (
        f"{row['microseconds_per_face_iteration']:12.4f} {(time['q3'] - time['q1']) / time['median']:7.1%} "
        f"{row['faces_per_second']:12.1f} {row['final_loss']:11.5f} {speed_up}"
    )


if __name__ == "__main__":
    raise SystemExit(main())
