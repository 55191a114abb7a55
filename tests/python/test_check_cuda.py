"""The CUDA compile check reads ptxas's words; no nvcc needed here."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "csrc" / "check_cuda.py"

PTXAS = """\
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function '_ZN5genet6kernelIfEEvPT_' for 'sm_90'
ptxas info    : Function properties for _ZN5genet6kernelIfEEvPT_
    16 bytes stack frame, {stores} bytes spill stores, {loads} bytes spill loads
ptxas info    : Used 40 registers, used 1 barriers, 48 bytes smem, 488 bytes cmem[0]
ptxas info    : Function properties for __internal_accurate_pow
    0 bytes stack frame, 99 bytes spill stores, 0 bytes spill loads
"""


@pytest.fixture
def check_cuda(monkeypatch):
    import sys

    spec = importlib.util.spec_from_file_location("check_cuda", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "check_cuda", module)  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_reads_what_a_kernel_uses(check_cuda):
    (kernel,) = check_cuda.parse(PTXAS.format(stores=8, loads=12), "kernel.cu", "90")
    assert (kernel.registers, kernel.shared_bytes, kernel.stack_bytes, kernel.spill_bytes) == (40, 48, 16, 20)
    assert kernel.name in {"kernel<float>", "_ZN5genet6kernelIfEEvPT_"}


@pytest.mark.parametrize(("stores", "code"), [(0, 0), (8, 1)])
def test_fails_on_spills(check_cuda, monkeypatch, tmp_path, capsys, stores, code):
    kernels = check_cuda.parse(PTXAS.format(stores=stores, loads=0), "kernel.cu", "90")
    monkeypatch.setattr(check_cuda, "find_nvcc", lambda: Path("nvcc"))
    monkeypatch.setattr(check_cuda, "supported", lambda nvcc, architecture: True)
    monkeypatch.setattr(check_cuda, "compile_kernels", lambda *_: ("", kernels))
    report = tmp_path / "build" / "report.txt"
    monkeypatch.setattr("sys.argv", ["check_cuda", "--report", str(report), "--arch", "90"])
    assert check_cuda.main() == code
    assert "kernel.cu" in report.read_text()
    assert ("spills" in capsys.readouterr().err) == bool(code)


def test_fails_where_a_file_does_not_compile(check_cuda, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(check_cuda, "find_nvcc", lambda: Path("nvcc"))
    monkeypatch.setattr(check_cuda, "supported", lambda nvcc, architecture: True)
    monkeypatch.setattr(check_cuda, "compile_kernels", lambda *_: ("error: no", []))
    monkeypatch.setattr("sys.argv", ["check_cuda", "--report", str(tmp_path / "r.txt"), "--arch", "90"])
    assert check_cuda.main() == 1
    assert "error: no" in capsys.readouterr().err


SASS = """
\t\tFunction : _ZN5genet13search_tensorEv
        /*0100*/  {instruction}.16816.F32 R4, R8, R12, R4 ;
        /*0110*/  {instruction}.16816.F32 R4, R8, R12, R4 ;
\t\tFunction : _ZN5genet5otherEv
        /*0100*/  FADD R4, R8, R12 ;
"""


@pytest.mark.parametrize(
    ("architecture", "instruction", "count"), [("80", "HMMA", 2), ("90a", "HGMMA", 2), ("90a", "HMMA", 0)]
)
def test_counts_the_tensor_instructions(check_cuda, tmp_path, architecture, instruction, count):
    dump = tmp_path / "cuobjdump"
    dump.write_text(f"#!/bin/sh\ncat <<'E'\n{SASS.format(instruction=instruction)}E\n")
    dump.chmod(0o755)
    counts = check_cuda.tensor_instructions(dump, "object.o", architecture)
    assert counts == {"_ZN5genet13search_tensorEv": count, "_ZN5genet5otherEv": 0}


def test_fails_where_the_tensor_kernel_has_no_tensor_instruction(check_cuda, monkeypatch, tmp_path, capsys):
    kernel = check_cuda.Kernel("90a", "fit_mlp_cuda.cu", "search_tensor", tensor_instructions=0)
    monkeypatch.setattr(check_cuda, "find_nvcc", lambda: Path("nvcc"))
    monkeypatch.setattr(check_cuda, "supported", lambda *_: True)
    monkeypatch.setattr(check_cuda, "compile_kernels", lambda *_: ("", [kernel]))
    monkeypatch.setattr("sys.argv", ["check_cuda", "--report", str(tmp_path / "report.txt")])
    assert check_cuda.main() == 1
    assert "search_tensor has no tensor-core instruction on sm_90a" in capsys.readouterr().err
