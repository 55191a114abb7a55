"""build_info: what a user quotes in a report must be true and complete."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import genet_ext
from genet_ext import _build
from genet_ext._version import __version__

PACKAGE = Path(genet_ext.__file__).parent


def test_facts_of_this_process():
    info = _build.build_info()
    assert info["version"] == __version__
    assert info["torch"] == torch.__version__
    assert info["operators"] == "loaded"
    assert info["cuda_torch"] == torch.version.cuda
    assert info["threads"] == torch.get_num_threads()
    assert info["simd"].startswith(("x86-64", "baseline"))
    assert len(info["devices"]) == torch.cuda.device_count()
    if info["cuda_operators"] != "loaded":
        assert info["cuda_operators"] == _build.cuda_problem()
    assert json.loads(json.dumps(info)) == info


def test_simd_level_is_the_processor_s():
    flags = Path("/proc/cpuinfo").read_text().split() if Path("/proc/cpuinfo").exists() else []
    if "avx2" not in flags:
        pytest.skip("a processor without AVX2")
    expected = "x86-64-v4" if {"avx512f", "avx512bw", "avx512vl", "avx512dq"} <= set(flags) else "x86-64-v3"
    assert _build.build_info()["simd"].startswith(expected)


def test_weights_and_their_hashes():
    weights = _build.build_info()["weights"]
    files = sorted((PACKAGE / "weights").glob("*.safetensors"))
    assert list(weights) == [file.name for file in files]
    for file in files:
        data = file.read_bytes()
        assert weights[file.name] == {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def test_missing_library_says_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setattr(_build, "_loaded", {})
    monkeypatch.setattr(_build, "CPU_LIBRARY", tmp_path / "_ops_cpu.so")
    with pytest.raises(ImportError, match=r"_ops_cpu.so was not built.*pip install .*genet_ext.reference"):
        _build.load_operators()
    assert "was not built" in _build.build_info()["operators"]


def test_broken_cuda_library_does_not_break_the_cpu(tmp_path):
    """In a process of its own: libraries stay loaded."""
    broken = tmp_path / "_ops_cuda.so"
    broken.write_bytes(b"not a library")
    program = f"""
import torch
torch.version.cuda = torch.version.cuda or "13.0"
from pathlib import Path
from genet_ext import _build
_build.CUDA_LIBRARY = Path({str(broken)!r})
from genet_ext import ops
loss, grad = ops.feature_distance(torch.ones(1, 2), torch.zeros(1, 2), torch.ones(2))
assert loss.item() == 1
print(_build.build_info()["cuda_operators"])
"""
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE.parent)}
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment
    )
    assert "_ops_cuda.so" in result.stdout
