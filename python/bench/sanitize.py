"""Small runs of every operator on CUDA, for compute-sanitizer: odd batches, partial warps, every distance.

compute-sanitizer --tool memcheck python -m python.bench.sanitize
compute-sanitizer --tool racecheck python -m python.bench.sanitize --batches 33 --kinds squared cosine

The results are compared with the reference operators' on the CPU (there no sanitizer slows torch's own
kernels), so that a run in which no kernel ran does not pass.
"""

from __future__ import annotations

import argparse
from dataclasses import fields

import torch
from torch import Tensor

from genet_ext import ops, reference
from python.bench.bench_fit import Problem, Search, Sizes, make_problem, operator_method


def on_gpu(problem: Problem) -> Problem:
    def moved(value: Tensor | tuple[Tensor, ...]) -> Tensor | tuple[Tensor, ...]:
        return tuple(tensor.cuda() for tensor in value) if isinstance(value, tuple) else value.cuda()

    return Problem(**{field.name: moved(getattr(problem, field.name)) for field in fields(problem)})


def check_searches(problem: Problem, kind: reference.DistanceKind, with_tensor: bool) -> None:
    search = Search(iterations=3, kind=kind)
    prepare, run = operator_method(reference.fit_mlp_, problem, search)
    expected = run(prepare())
    # An early Adam step is about lr whatever the gradient's size: where that is near 0, rounding may turn it
    # round.
    allowances: dict[reference.Precision, float] = {"full": 0.001} | ({"tensor": 0.02} if with_tensor else {})
    for precision, allowed in allowances.items():
        prepare, run = operator_method(ops.fit_mlp_, on_gpu(problem), search, precision)
        difference = (run(prepare()).cpu() - expected).abs().quantile(0.95)
        assert difference <= allowed, (precision, kind, difference)


def check_distances(problem: Problem, kind: reference.DistanceKind) -> None:
    features = reference.mlp_features(problem.start, problem.mlp)
    for dtype in (torch.float32, torch.float64):
        case = [t.to(dtype) for t in (features, problem.target, problem.feature_weight)]
        ours = ops.feature_distance(*[t.cuda() for t in case], kind)
        for mine, theirs in zip(ours, reference.feature_distance(*case, kind), strict=True):
            torch.testing.assert_close(mine.cpu(), theirs, rtol=1e-4, atol=1e-4)


def check_steps(problem: Problem) -> None:
    for dtype in (torch.float32, torch.float64):
        results = []
        for module, place in ((ops, on_gpu(problem)), (reference, problem)):
            params = place.start.to(dtype)
            faces = torch.arange(len(params), device=params.device)
            module.adam_step_(
                params,
                torch.ones_like(params),
                torch.zeros_like(params),
                torch.zeros_like(params),
                torch.zeros_like(faces, dtype=torch.int32),
                faces % 3 != 1,
                place.lower.to(dtype),
                place.upper.to(dtype),
                lr=0.05,
                prior_mean=place.prior_mean.to(dtype),
                prior_precision=place.prior_precision.to(dtype),
                prior_rate=place.prior_rate.to(dtype),
            )
            results.append(params.cpu())
        torch.testing.assert_close(*results, rtol=1e-5, atol=1e-5)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 5, 33])
    parser.add_argument("--kinds", nargs="+", default=reference.DISTANCE_KINDS)
    options = parser.parse_args()
    checks = 0
    for sizes in (Sizes(), Sizes(parameters=7, hidden1=20, hidden2=12, features=33)):
        for batch in options.batches:
            problem = make_problem(batch, sizes, torch.device("cpu"))
            for kind in options.kinds:
                # as the tensor kernel asks
                check_searches(problem, kind, with_tensor=sizes.parameters % 8 == sizes.features % 8 == 0)
                check_distances(problem, kind)
                checks += 2
            check_steps(problem)
            checks += 1
    torch.cuda.synchronize()
    print(f"{checks} groups of runs agree with the reference operators")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
