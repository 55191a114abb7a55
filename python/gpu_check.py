"""Everything that needs a GPU, in one go: build, CUDA tests, compute-sanitizer, benchmark.

python -m python.gpu_check --results bench-results

For a machine with a GPU, a CUDA toolkit and no network. Parts run one after another within one time limit; a
part that fails does not stop the next (only a failed build does), and is reported at the end. Writes
gpu-check.json (each part's command, outcome, seconds and last lines), each part's log, and fit-cuda.json, the
benchmark.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from python.bench.common import machine

ROOT = Path(__file__).resolve().parents[1]
KEPT_LINES = 40
# The folders of an absolute path, also behind a compiler's -I or -L.
_FOLDERS = re.compile(r"((?<![\w./-])|(?<=-[IL]))/([\w.+-]+/)+")


@dataclass(frozen=True)
class Part:
    """One check: a command, and the seconds it may take at most."""

    name: str
    command: list[str]
    limit: float


def parts(results: Path, skipped: list[str]) -> list[Part]:
    python = sys.executable
    sanitizer = ["compute-sanitizer", "--error-exitcode", "1", "--tool"]
    run = [python, "-m", "python.bench.sanitize"]
    tests = [python, "-m", "pytest", "-q", "-m", "cuda", "tests", "--continue-on-collection-errors"]
    benchmark = [python, "-m", "python.bench.bench_fit", "--device", "cuda", "--seconds", "1"]
    everything = [
        Part("build", [python, "setup.py", "build_ext", "--inplace"], 180),
        Part("tests", [*tests, f"--junitxml={results / 'gpu-tests.xml'}"], 150),
        Part("memcheck", [*sanitizer, "memcheck", *run], 80),
        Part(
            "racecheck",
            [*sanitizer, "racecheck", *run, "--batches", "33", "--kinds", "squared", "cosine"],
            80,
        ),
        Part("benchmark", [*benchmark, "--out", str(results / "fit-cuda.json")], 180),
    ]
    unknown = set(skipped) - {part.name for part in everything}
    if unknown:
        sys.exit(f"--skip: expected {', '.join(part.name for part in everything)}, got {', '.join(unknown)}")
    return [part for part in everything if part.name not in skipped]


def environment() -> dict[str, str]:
    """CUDA must be built and its tests must run; only this GPU's architecture is compiled, to save time."""
    major, minor = torch.cuda.get_device_capability()
    own_instructions = "a" if major == 9 else ""  # Hopper's wgmma
    return {
        "TORCH_CUDA_ARCH_LIST": f"{major}.{minor}{own_instructions}",
        **os.environ,
        "GENET_CUDA": "1",
        "GENET_REQUIRE_CUDA": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
        "PYTHONUNBUFFERED": "1",
    }


def run(part: Part, seconds: float, log: Path) -> dict[str, Any]:
    """Runs a part with its output in `log`; says how it went."""
    if shutil.which(part.command[0]) is None:
        return dict(ok=False, reason=f"{part.command[0]} is not installed", seconds=0.0)
    start = time.monotonic()
    with log.open("w") as output:
        process = subprocess.Popen(
            part.command,
            cwd=ROOT,
            env=environment(),
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            code = process.wait(timeout=seconds)
            reason = "" if code == 0 else f"exit status {code}"
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            reason = f"not finished after {seconds:.0f} s"
    lines = log.read_text(errors="replace").splitlines()[-KEPT_LINES:]
    return dict(ok=not reason, reason=reason, seconds=round(time.monotonic() - start, 1), last_lines=lines)


def portable(text: str) -> str:
    """``text`` with names in place of absolute paths: a record does not tell where its machine keeps them."""
    return _FOLDERS.sub("", text)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--results", type=Path, default=Path("bench-results"), help="folder (default: %(default)s)"
    )
    parser.add_argument(
        "--limit", type=float, default=350, help="seconds for all parts (default: %(default)s)"
    )
    parser.add_argument("--skip", nargs="+", default=[], metavar="PART", help="parts to leave out")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit(f"gpu_check: torch {torch.__version__} sees no GPU")
    results = options.results.resolve()
    results.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + options.limit
    summary: dict[str, Any] = dict(schema=1, benchmark="gpu-check", machine=machine(), parts=[])
    for part in parts(results, options.skip):
        print(f"== {part.name}: {' '.join(part.command)}", flush=True)
        left = deadline - time.monotonic()
        log = results / f"gpu-{part.name}.log"
        outcome = run(part, min(part.limit, left), log) if left > 0 else dict(ok=False, reason="no time left")
        record = asdict(part) | outcome
        for key in ("command", "last_lines"):
            record[key] = [portable(text) for text in record.get(key, [])]
        summary["parts"].append(record)
        (results / "gpu-check.json").write_text(json.dumps(summary, indent=1) + "\n")
        print("\n".join(outcome.get("last_lines", [])), flush=True)
        if part.name == "build" and not outcome["ok"]:
            break
    print("\n== summary")
    for part_summary in summary["parts"]:
        verdict = "ok" if part_summary["ok"] else f"FAILED: {part_summary['reason']}"
        print(f"{part_summary['name']:<10} {part_summary.get('seconds', 0):>6.1f} s  {verdict}")
    return 0 if all(part_summary["ok"] for part_summary in summary["parts"]) else 1


if __name__ == "__main__":
    raise SystemExit(main())
