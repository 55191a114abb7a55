"""Compile every CUDA kernel for every architecture, warnings as errors, and report what each kernel uses.

python csrc/check_cuda.py --report build/cuda-report.txt

Needs nvcc (CUDA_HOME, the PATH or /usr/local/cuda) and no GPU. Fails if a file does not compile, a kernel
spills registers, or the tensor kernel's machine code has no tensor-core instruction. Architectures that this
nvcc does not know are left out, and said so; so is the look at the machine code where there is no cuobjdump
(it comes with the CUDA toolkit and with Triton, that is, with a CUDA build of torch).
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

CSRC = Path(__file__).resolve().parent
ARCHITECTURES = ("80", "90", "90a", "100")
FLAGS = (
    "-O3",
    "-std=c++17",
    "-fmad=false",
    "-Xptxas=-v",
    "-Werror=all-warnings",
    "-Xcompiler=-fPIC,-Wall,-Wextra,-Werror",
)

TENSOR_KERNEL = "search_tensor"
TENSOR_INSTRUCTION = {"80": "HMMA", "90": "HMMA", "90a": "HGMMA", "100": "HMMA"}

ENTRY = re.compile(r"Compiling entry function '(?P<symbol>\S+)' for 'sm_\S+'")
STACK = re.compile(
    r"(?P<stack>\d+) bytes stack frame, (?P<stores>\d+) bytes spill stores, (?P<loads>\d+) bytes spill loads"
)
USED = re.compile(r"Used (?P<registers>\d+) registers")
SHARED = re.compile(r"(?P<bytes>\d+) bytes smem")


@dataclass
class Kernel:
    """What ptxas says of one kernel on one architecture; shared memory without what a launch adds to it."""

    architecture: str
    source: str
    name: str
    registers: int = 0
    shared_bytes: int = 0
    stack_bytes: int = 0
    spill_bytes: int = 0
    tensor_instructions: int | None = None  # None: not looked for


def find_nvcc() -> Path:
    homes = [Path(home) for home in (os.environ.get("CUDA_HOME"), "/usr/local/cuda") if home]
    candidates = [home / "bin/nvcc" for home in homes] + [
        Path(found) for found in [shutil.which("nvcc")] if found
    ]
    for candidate in candidates:
        if candidate.exists():
            return candidate
    sys.exit("check_cuda: no nvcc in CUDA_HOME, /usr/local/cuda or the PATH")


def supported(nvcc: Path, architecture: str) -> bool:
    """Whether nvcc knows the architecture; 90a counts where 90 does: nvcc lists only the plain numbers."""
    listed = subprocess.run(
        [nvcc, "--list-gpu-code"], capture_output=True, text=True, check=True
    ).stdout.split()
    return f"sm_{architecture.rstrip('af')}" in listed


def find_cuobjdump(nvcc: Path) -> Path | None:
    """The toolkit's, or the one in the Triton of make's virtual environment or of this Python."""
    in_triton = "lib/python*/site-packages/triton/backends/nvidia/bin/cuobjdump"
    places = [
        nvcc.with_name("cuobjdump"),
        *CSRC.parent.glob(f".venv/{in_triton}"),
        *Path(sys.prefix).glob(in_triton),
    ]
    return next((place for place in places if place.exists()), None)


def tensor_instructions(cuobjdump: Path, compiled: str, architecture: str) -> dict[str, int]:
    """Tensor-core instructions in the machine code of each kernel, by symbol."""
    dump = subprocess.run([cuobjdump, "-sass", compiled], capture_output=True, text=True, check=True).stdout
    counts: dict[str, int] = {}
    function = ""
    wanted = re.compile(rf"\b{TENSOR_INSTRUCTION.get(architecture, 'HMMA')}\b")
    for line in dump.splitlines():
        if "Function :" in line:
            function = line.split()[-1]
            counts[function] = 0
        elif function and wanted.search(line):
            counts[function] += 1
    return counts


def compile_kernels(
    nvcc: Path, source: Path, architecture: str, cuobjdump: Path | None = None
) -> tuple[str, list[Kernel]]:
    """nvcc's complaint ("" if it compiled) and the kernels of one file."""
    with tempfile.TemporaryDirectory() as folder:
        target = f"-gencode=arch=compute_{architecture},code=sm_{architecture}"
        command = [str(nvcc), *FLAGS, target, "-c", str(source), "-o", f"{folder}/object.o"]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        output = result.stdout + result.stderr
        if result.returncode:
            return f"{source.name} for sm_{architecture} does not compile:\n{output}", []
        kernels = parse(output, source.name, architecture)
        if cuobjdump:
            counts = tensor_instructions(cuobjdump, f"{folder}/object.o", architecture)
            for symbol, count in counts.items():
                for kernel in kernels:
                    if kernel.name == demangle(symbol):
                        kernel.tensor_instructions = count
    return "", kernels


def parse(output: str, source: str, architecture: str) -> list[Kernel]:
    """The kernels in the output of ptxas -v. Device functions it did not inline are counted to no kernel."""
    kernels: dict[str, Kernel] = {}
    function = ""
    for line in output.splitlines():
        if match := ENTRY.search(line):
            function = match["symbol"]
            kernels[function] = Kernel(architecture, source, function)
        elif "Function properties for" in line:
            function = line.split()[-1]
        elif (match := STACK.search(line)) and function in kernels:
            kernels[function].stack_bytes = int(match["stack"])
            kernels[function].spill_bytes = int(match["stores"]) + int(match["loads"])
        elif (match := USED.search(line)) and function in kernels:
            kernels[function].registers = int(match["registers"])
            if shared := SHARED.search(line):
                kernels[function].shared_bytes = int(shared["bytes"])
    for kernel in kernels.values():
        kernel.name = demangle(kernel.name)
    return list(kernels.values())


def demangle(symbol: str) -> str:
    """The kernel's name with its template arguments, without its namespaces and parameters."""
    if not shutil.which("c++filt"):
        return symbol
    name = subprocess.run(["c++filt", symbol], capture_output=True, text=True, check=True).stdout.strip()
    name = name.removeprefix("void ").replace("(anonymous namespace)::", "")
    # The parameter list is the last bracket that closes the name.
    depth, end = 0, len(name)
    for position in range(len(name) - 1, -1, -1):
        depth += {")": 1, "(": -1}.get(name[position], 0)
        if depth == 0:
            end = position
            break
    return name[:end].replace("genet::", "")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--report", type=Path, default=Path("build/cuda-report.txt"), help="default: %(default)s"
    )
    parser.add_argument(
        "--arch", nargs="+", default=ARCHITECTURES, help=f"default: {' '.join(ARCHITECTURES)}"
    )
    options = parser.parse_args()
    nvcc = find_nvcc()
    wanted = [architecture for architecture in options.arch if supported(nvcc, architecture)]
    for architecture in set(options.arch) - set(wanted):
        print(f"check_cuda: {nvcc} does not know sm_{architecture}; left out")
    jobs = [(source, architecture) for source in sorted(CSRC.glob("*.cu")) for architecture in wanted]
    if not jobs:
        sys.exit("check_cuda: nothing to compile")
    cuobjdump = find_cuobjdump(nvcc)
    if not cuobjdump:
        print("check_cuda: no cuobjdump here; the machine code is not looked at")
    with ThreadPoolExecutor(int(os.environ.get("MAX_JOBS") or os.cpu_count() or 1)) as pool:
        outcomes = list(pool.map(lambda job: compile_kernels(nvcc, *job, cuobjdump), jobs))

    lines = [f"{'arch':<5} {'registers':>9} {'shared':>7} {'stack':>6} {'spill':>6} {'tensor':>6}  kernel"]
    failures = [complaint for complaint, _ in outcomes if complaint]
    for complaint, kernels in outcomes:
        if not complaint and not kernels:
            failures.append("a file has no kernel, or ptxas -v changed its words: nothing was checked")
        for kernel in kernels:
            lines.append(
                f"{kernel.architecture:<5} {kernel.registers:>9} {kernel.shared_bytes:>7} "
                f"{kernel.stack_bytes:>6} {kernel.spill_bytes:>6} "
                f"{'-' if kernel.tensor_instructions is None else kernel.tensor_instructions:>6}  "
                f"{kernel.source}: {kernel.name}"
            )
            if kernel.tensor_instructions == 0 and kernel.name.startswith(TENSOR_KERNEL):
                failures.append(f"{kernel.name} has no tensor-core instruction on sm_{kernel.architecture}")
            if kernel.spill_bytes:
                failures.append(
                    f"{kernel.name} spills {kernel.spill_bytes} bytes on sm_{kernel.architecture}"
                )
    report = "\n".join(lines)
    options.report.parent.mkdir(parents=True, exist_ok=True)
    options.report.write_text(report + "\n")
    print(report)
    for failure in failures:
        print(failure, file=sys.stderr)
    print(
        f"check_cuda: {len(lines) - 1} kernels compiled, {len(failures)} failures; report in {options.report}"
    )
    return 1 if failures else 0


if __name__ == "__main__":
    raise SystemExit(main())
