"""bench_fit on a tiny problem: its JSON keeps its schema, and every method solves the same problem."""

from __future__ import annotations

import dataclasses
import json
import os

import pytest
import torch

from python.bench import bench_fit, common

TINY = [
    "--parameters",
    "5",
    "--hidden",
    "8",
    "8",
    "--features",
    "7",
    "--iterations",
    "20",
    "--seconds",
    "0.01",
]
ROW = {
    "method": str,
    "batch": int,
    "iterations": int,
    "seconds": dict,
    "microseconds_per_face_iteration": float,
    "faces_per_second": float,
    "flop_per_second": float,
    "start_loss": float,
    "final_loss": float,
}
TOP = {
    "schema": int,
    "benchmark": str,
    "machine": dict,
    "device": str,
    "threads": int,
    "processors": list,
    "sizes": dict,
    "search": dict,
    "matmul_flop_per_second": dict,
    "results": list,
}


@pytest.fixture(autouse=True)
def _restore_process():
    processors, threads = os.sched_getaffinity(0), torch.get_num_threads()
    yield
    os.sched_setaffinity(0, processors)
    torch.set_num_threads(threads)


@pytest.fixture
def result(tmp_path):
    out = tmp_path / "new folder" / "fit.json"
    code = bench_fit.main(
        [*TINY, "--batch", "1", "3", "--methods", "fused", "eager", "plain", "--out", str(out)]
    )
    assert code == 0
    return json.loads(out.read_text())


def test_json_schema(result):
    assert {name: type(value) for name, value in result.items()} == TOP
    assert result["schema"] == bench_fit.SCHEMA
    assert {"cpu", "gpu", "torch", "cuda", "commit", "python"} <= set(result["machine"])
    assert [(row["batch"], row["method"]) for row in result["results"]] == [
        (batch, method) for batch in (1, 3) for method in ("fused", "eager", "plain")
    ]
    for row in result["results"]:
        assert {name: type(value) for name, value in row.items()} == ROW
        time = row["seconds"]
        assert 0 < time["minimum"] <= time["q1"] <= time["median"] <= time["q3"]
        assert time["repeats"] >= 5


def test_methods_reach_the_same_loss(result):
    for batch in (1, 3):
        losses = [row["final_loss"] for row in result["results"] if row["batch"] == batch]
        # Not closer: at a parameter of exactly 0 autograd takes another subgradient of |x| than we do.
        assert losses == pytest.approx([losses[0]] * 3, rel=5e-3)
        assert losses[0] < 0.8 * next(row["start_loss"] for row in result["results"] if row["batch"] == batch)


@pytest.mark.parametrize("method", ["eager", "compile"])
def test_a_baseline_takes_the_reference_s_steps(method, monkeypatch):
    """Parameter by parameter, not only in the loss; the compiled step runs uncompiled here.

    Without the sparsity rate: at a parameter of exactly 0 autograd takes another subgradient of |x|.
    """
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    search = bench_fit.Search(iterations=10)
    problem = bench_fit.make_problem(4, bench_fit.Sizes(5, 8, 8, 7), torch.device("cpu"))
    problem = dataclasses.replace(problem, prior_rate=torch.zeros_like(problem.prior_rate))
    found = {}
    for name in (method, "plain"):
        prepare, run = bench_fit.METHODS[name](problem, search)
        found[name] = run(prepare())
    torch.testing.assert_close(found[method], found["plain"], rtol=0, atol=1e-4)


def test_a_method_that_fails_is_reported(monkeypatch, capsys):
    def broken(problem, search):
        raise RuntimeError("no such thing")

    monkeypatch.setitem(bench_fit.METHODS, "plain", broken)
    assert bench_fit.main([*TINY, "--batch", "1", "--methods", "plain", "eager"]) == 1
    assert "failed: RuntimeError: no such thing" in capsys.readouterr().out


def test_more_threads_than_processors():
    with pytest.raises(ValueError, match="threads: expected at most"):
        common.pin_threads(4096)
