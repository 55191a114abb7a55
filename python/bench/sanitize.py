"""Small runs of every operator on CUDA, for compute-sanitizer: odd batches, partial warps, every distance.

compute-sanitizer --tool memcheck python -m python.bench.sanitize

The results are compared with the reference operators', so that a run in which no kernel ran does not pass.
"""

from __future__ import annotations

import torch

from genet_ext import ops, reference
from python.bench.bench_fit import Search, Sizes, make_problem, operator_method

BATCHES = (1, 5, 33)


def main() -> int:
    device = torch.device("cuda")
    checks = 0
    for sizes in (Sizes(), Sizes(parameters=7, hidden1=20, hidden2=12, features=33)):
        for batch in BATCHES:
            problem = make_problem(batch, sizes, device)
            for kind in reference.DISTANCE_KINDS:
                search = Search(iterations=3, kind=kind)
                prepare, run = operator_method(reference.fit_mlp_, problem, search)
                expected = run(prepare())
                # An early Adam step is about lr whatever the gradient's size: where that is near 0, rounding
                # may turn it round.
                allowances = {"full": 0.001}
                if sizes.parameters % 8 == 0 and sizes.features % 8 == 0:  # as the tensor kernel asks
                    allowances["tensor"] = 0.02
                for precision, allowed in allowances.items():
                    prepare, run = operator_method(ops.fit_mlp_, problem, search, precision)
                    difference = (run(prepare()) - expected).abs()
                    assert difference.quantile(0.95) <= allowed, (precision, kind, difference.quantile(0.95))
                features = reference.mlp_features(problem.start, problem.mlp)
                for dtype in (torch.float32, torch.float64):
                    case = [t.to(dtype) for t in (features, problem.target, problem.feature_weight)]
                    for ours, theirs in zip(
                        ops.feature_distance(*case, kind),
                        reference.feature_distance(*case, kind),
                        strict=True,
                    ):
                        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
                checks += 4
            for dtype in (torch.float32, torch.float64):
                results = []
                for module in (ops, reference):
                    params = problem.start.to(dtype)
                    step = torch.zeros(batch, dtype=torch.int32, device=device)
                    module.adam_step_(
                        params,
                        torch.ones_like(params),
                        torch.zeros_like(params),
                        torch.zeros_like(params),
                        step,
                        torch.arange(batch, device=device) % 3 != 1,
                        problem.lower.to(dtype),
                        problem.upper.to(dtype),
                        lr=0.05,
                        prior_mean=problem.prior_mean.to(dtype),
                        prior_precision=problem.prior_precision.to(dtype),
                        prior_rate=problem.prior_rate.to(dtype),
                    )
                    results.append(params)
                torch.testing.assert_close(*results, rtol=1e-5, atol=1e-5)
                checks += 1
    torch.cuda.synchronize()
    print(f"{checks} runs agree with the reference operators")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
