"""What the evaluation scripts share: where figures come from, how they are written, tables of others."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

import genet_ext
from python.provenance import commit, processor

PICTURE, SCORE = ("input", "file"), "FaceScore"


def provenance(device: str | torch.device, weights: Path | None = None, **settings: Any) -> dict[str, Any]:
    """Machine, versions, commit, weights and settings of a run, for its JSON file."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "genet_ext": genet_ext.__version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "machine": processor(),
        "device": torch.cuda.get_device_name(device)
        if torch.device(device).type == "cuda"
        else f"cpu, {torch.get_num_threads()} threads of {os.cpu_count()}",
        "weights": "shipped" if weights is None else weights.name,
        **settings,
    }


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write with four significant digits; NaN becomes null, as JSON has none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(_plain(content), indent=1, ensure_ascii=False) + "\n")


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    if isinstance(value, (int, np.integer)):
        return int(value)
    if isinstance(value, (float, np.floating)):
        return float(f"{value:.4g}") if np.isfinite(value) else None
    return value


def read_detections(path: Path, names: Sequence[str]) -> pd.DataFrame:
    """AUs that any detector wrote: a row per face, by the name of its picture's file, the surest face first.

    The picture is the column input, as py-feat calls it, or file; which face is surer says FaceScore, where
    there is one. Of the AUs ``names`` those are returned that have a value.

    Raises:
        ValueError: there is no column with the picture, or none of the AUs.
    """
    table = pd.read_csv(path)
    picture = next((name for name in PICTURE if name in table), None)
    aus = [name for name in names if name in table and table[name].notna().any()]
    if picture is None or not aus:
        raise ValueError(
            f"{path}: expected a column {' or '.join(PICTURE)}, and AUs as {names[0]}; "
            f"got {', '.join(table.columns[:8])}, ..."
        )
    table.index = pd.Index(table[picture].astype(str).map(lambda name: Path(name).name))
    if SCORE in table:
        table = table.sort_values(SCORE, ascending=False, kind="stable")
    return table[aus]


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A Markdown table; numbers with up to three decimals, NaN as a dash."""
    lines = ["| " + " | ".join(header) + " |", "|" + " --- |" * len(header)]
    lines += ["| " + " | ".join(_cell(value) for value in row) + " |" for row in rows]
    return "\n".join(lines)


def _cell(value: Any) -> str:
    if isinstance(value, (float, np.floating)):
        if not np.isfinite(value):
            return "-"
        return f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"
    return str(value)


class Stopwatch:
    """Seconds a block took; waits for the device before and after.

    >>> with Stopwatch("cpu") as watch: ...
    >>> watch.seconds
    """

    def __init__(self, device: str | torch.device) -> None:
        self.device = torch.device(device)
        self.seconds = float("nan")

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def __enter__(self) -> Stopwatch:
        self._wait()
        self._start = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self._wait()
        self.seconds = time.perf_counter() - self._start
