"""Which code on which machine a figure comes from: said by every benchmark, evaluation and training log."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def commit() -> str:
    """Short hash of the working tree's commit, with a plus where there are changes on top of it.

    ``GENET_COMMIT`` says it for a copy of the files that came without their repository, or with a stale one;
    where there is neither, "unknown".
    """
    given = os.environ.get("GENET_COMMIT")
    if given:
        return given
    head = command("git", "rev-parse", "--short", "HEAD")
    if not head:
        return "unknown"
    return head + ("+" if command("git", "status", "--porcelain", "-uno") else "")


def processor() -> str:
    """Model name of the processor."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def command(*words: str) -> str:
    """A command's output, run in the repository; empty where it is missing or fails."""
    try:
        result = subprocess.run(words, capture_output=True, text=True, check=True, cwd=ROOT)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return result.stdout.strip()
