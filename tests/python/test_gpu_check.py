"""gpu_check: every part runs, failures are reported and kept; with stand-ins for the parts."""

from __future__ import annotations

import json
import os
import sys

import pytest
import torch

from python import gpu_check
from python.gpu_check import Part


@pytest.fixture
def check(monkeypatch, tmp_path):
    """Runs gpu_check over some parts; returns its exit code and the JSON it wrote."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(gpu_check, "environment", lambda: dict(os.environ))
    monkeypatch.setattr(gpu_check, "machine", dict)

    def run(*parts, limit="60"):
        monkeypatch.setattr(gpu_check, "parts", lambda results, skipped: list(parts))
        monkeypatch.setattr("sys.argv", ["gpu_check", "--results", str(tmp_path / "out"), "--limit", limit])
        code = gpu_check.main()
        return code, json.loads((tmp_path / "out" / "gpu-check.json").read_text())["parts"]

    return run


def part(name, program, limit=30):
    return Part(name, [sys.executable, "-c", program], limit)


def test_all_well(check):
    code, parts = check(part("build", "print('built')"), part("tests", "print('tested')"))
    assert code == 0
    assert [(p["name"], p["ok"], p["last_lines"]) for p in parts] == [
        ("build", True, ["built"]),
        ("tests", True, ["tested"]),
    ]


def test_a_record_holds_no_path_of_its_machine(check):
    code, parts = check(part("build", "print('/opt/gcc/bin/g++ -I/opt/py/include -c -o build/a/b.o 1/2')"))
    assert code == 0
    assert parts[0]["last_lines"] == ["g++ -Iinclude -c -o build/a/b.o 1/2"]
    assert parts[0]["command"][0] == os.path.basename(sys.executable)


def test_a_failure_does_not_stop_the_next_part(check, capsys):
    code, parts = check(
        part("build", ""),
        part("tests", "print('one failed'); raise SystemExit(3)"),
        Part("memcheck", ["no-such-program"], 5),
        part("racecheck", "import time; time.sleep(60)", limit=0.5),
        part("benchmark", ""),
    )
    assert code == 1
    assert [p["ok"] for p in parts] == [True, False, False, False, True]
    reasons = [p["reason"] for p in parts]
    assert reasons[1:4] == ["exit status 3", "no-such-program is not installed", "not finished after 0 s"]
    assert parts[1]["last_lines"] == ["one failed"]
    summary = capsys.readouterr().out.split("== summary")[1]
    assert summary.count("FAILED") == 3


def test_nothing_runs_after_a_failed_build(check):
    code, parts = check(part("build", "raise SystemExit(1)"), part("tests", ""))
    assert code == 1
    assert [p["name"] for p in parts] == ["build"]


def test_no_time_left(check):
    code, parts = check(part("build", "import time; time.sleep(1.2)"), part("tests", ""), limit="1")
    assert code == 1
    assert not parts[0]["ok"]


def test_refuses_an_unknown_part(tmp_path):
    with pytest.raises(SystemExit, match="--skip: expected build, tests"):
        gpu_check.parts(tmp_path, ["everything"])


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_says_that_there_is_no_gpu(monkeypatch, tmp_path):
    monkeypatch.setattr("sys.argv", ["gpu_check", "--results", str(tmp_path)])
    with pytest.raises(SystemExit, match="sees no GPU"):
        gpu_check.main()
