"""Builds the native code; everything else about the package is in pyproject.toml.

Three libraries come out, beside the Python files:

    genet_ext/_ops_cpu.so    the operators' schemas and CPU kernels (LibTorch stable ABI: any torch >= 2.10)
    genet_ext/_ops_cuda.so   their CUDA kernels, where a CUDA toolkit is found (no GPU or CUDA torch needed)
    genet_ext/_C.*.so        a pybind11 module without torch, for what is not a tensor operator

Environment: GENET_CUDA=auto|1|0 (1: fail without a toolkit), CUDA_HOME, TORCH_CUDA_ARCH_LIST, MAX_JOBS
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from setuptools import Extension, setup
from setuptools.command.sdist import sdist
from torch.utils import cpp_extension

ROOT = Path(__file__).resolve().parent
CSRC = Path("csrc")
# 9.0a has Hopper's own matrix instructions; PTX of 8.0 serves whatever comes later.
DEFAULT_ARCHITECTURES = "8.0+PTX;9.0a"
TORCH_TARGET = (2, 10)  # the oldest torch that the libraries must load into

VERSION = re.search(r'__version__ = "(.+)"', (ROOT / "genet_ext/_version.py").read_text()).group(1)


@dataclass(frozen=True)
class Toolkit:
    """A CUDA toolkit: its folder, its release ("13.0") and the folder of its static runtime library."""

    home: Path
    release: str
    library_dir: Path


def find_toolkit() -> Toolkit | str:
    """The CUDA toolkit, or why there is none. Looks for the toolkit itself: building needs no GPU."""
    nvcc = shutil.which("nvcc")
    homes = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH")]
    homes += [Path(nvcc).resolve().parents[1] if nvcc else None, "/usr/local/cuda"]
    problems = []
    for home in dict.fromkeys(Path(home) for home in homes if home):
        runtimes = sorted(home.glob("lib*/libcudart_static.a")) + sorted(
            home.glob("targets/*/lib/libcudart_static.a")
        )
        missing = [
            part
            for part, found in {
                "bin/nvcc": (home / "bin/nvcc").exists(),
                "include/cuda_runtime.h": (home / "include/cuda_runtime.h").exists(),
                "libcudart_static.a": bool(runtimes),
            }.items()
            if not found
        ]
        if missing:
            problems.append(f"{home} lacks {', '.join(missing)}")
            continue
        text = subprocess.run(
            [home / "bin/nvcc", "--version"], capture_output=True, text=True, check=True
        ).stdout
        return Toolkit(home, re.search(r"release (\S+),", text).group(1), runtimes[0].parent)
    return "no CUDA toolkit found: " + "; ".join(problems)


def wanted_toolkit() -> Toolkit | None:
    """The toolkit to build the CUDA library with, or None, by GENET_CUDA."""
    choice = os.environ.get("GENET_CUDA", "auto").lower()
    if choice not in {"auto", "1", "0"}:
        sys.exit(f"GENET_CUDA: expected auto, 1 or 0, got {choice!r}")
    toolkit = None if choice == "0" else find_toolkit()
    if isinstance(toolkit, str):
        if choice == "1":
            sys.exit(f"GENET_CUDA=1, but {toolkit}")
        print(f"genet-ext: building without CUDA ({toolkit})")
        return None
    return toolkit


def architecture_flags(architectures: str) -> list[str]:
    """nvcc's -gencode flags for a list such as "8.0+PTX;9.0a"."""
    flags = []
    for entry in architectures.replace(" ", ";").split(";"):
        match = re.fullmatch(r"(\d+)\.(\d+[af]?)(\+PTX)?", entry)
        if not match:
            sys.exit(f"TORCH_CUDA_ARCH_LIST: expected entries such as 8.0+PTX or 9.0a, got {entry!r}")
        number = match[1] + match[2]
        flags.append(f"-gencode=arch=compute_{number},code=sm_{number}")
        if match[3]:
            flags.append(f"-gencode=arch=compute_{number},code=compute_{number}")
    return flags


TOOLKIT = wanted_toolkit()
ARCHITECTURES = os.environ.get("TORCH_CUDA_ARCH_LIST") or DEFAULT_ARCHITECTURES
CXX_FLAGS = ["-O3", "-g0", "-fvisibility=hidden", "-Wall", "-Wextra", "-Wno-unused-parameter"]
# Multiply-adds are fused where the source says so and nowhere else: CPU and CUDA round alike. The other two
# let square roots and comparisons be vectorised; they change no result.
CXX_FLAGS += ["-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math"]
NVCC_FLAGS = ["-O3", "-std=c++17", "-fmad=false", "-lineinfo", "-Xcompiler=-fPIC,-fvisibility=hidden"]


class Build(cpp_extension.BuildExtension):
    """torch's build_ext, with plain nvcc for the .cu files.

    torch compiles a .cu only beside a CUDA torch of the toolkit's release, and with its own headers on the
    path; ours include none of them, so the same commands do under every torch.
    """

    def run(self) -> None:
        if not TOOLKIT:  # an earlier build's kernels must not get into a wheel that is to have none
            Path(self.build_lib, self.get_ext_filename("genet_ext._ops_cuda")).unlink(missing_ok=True)
        super().run()

    def build_extension(self, ext: Extension) -> None:
        if ext.name == "genet_ext._ops_cuda":
            ext.extra_objects = self.compile_cuda(sorted(CSRC.glob("*.cu")))
        super().build_extension(ext)

    def compile_cuda(self, sources: list[Path]) -> list[str]:
        """Objects of the .cu files; one of the same architectures newer than all of csrc is kept."""
        folder = Path(self.build_temp) / ("cuda-" + re.sub(r"[^\w.+]+", "-", ARCHITECTURES))
        folder.mkdir(parents=True, exist_ok=True)
        newest = max(path.stat().st_mtime for path in [*CSRC.iterdir(), ROOT / "setup.py"])

        def compile_one(source: Path) -> str:
            target = folder / f"{source.stem}.o"
            if not target.exists() or target.stat().st_mtime < newest:
                command = [str(TOOLKIT.home / "bin/nvcc"), *NVCC_FLAGS, *architecture_flags(ARCHITECTURES)]
                command += ["-c", str(source), "-o", str(target)]
                print(" ".join(command), flush=True)
                subprocess.run(command, check=True)
            return str(target)

        with ThreadPoolExecutor(int(os.environ.get("MAX_JOBS") or os.cpu_count() or 1)) as pool:
            return list(pool.map(compile_one, sources))

    def get_ext_filename(self, ext_name: str) -> str:
        """The operator libraries are no Python modules, so their names carry no Python tag."""
        if "_ops_" in ext_name:
            return os.path.join(*ext_name.split(".")) + ".so"
        return super().get_ext_filename(ext_name)


class SourceDistribution(sdist):
    """setuptools' sdist, with all of the tests and of the tools that they test, not only tests/test*.py."""

    def make_distribution(self) -> None:
        for folder in ("tests", "python"):
            self.filelist.graft(folder)
        self.filelist.global_exclude("*.py[co]")
        self.filelist.remove_duplicates()
        super().make_distribution()


def operator_library(name: str, sources: list[Path], **options: list) -> Extension:
    """A library for torch.ops.load_library, against LibTorch's stable ABI only."""
    major, minor = TORCH_TARGET
    return Extension(
        f"genet_ext.{name}",
        [str(path) for path in sources],
        include_dirs=cpp_extension.include_paths(),
        library_dirs=[*cpp_extension.library_paths(), *options.pop("library_dirs", [])],
        libraries=["torch_cpu", *options.pop("libraries", [])],
        define_macros=[("TORCH_TARGET_VERSION", f"0x{major:02x}{minor:02x}000000000000")],
        extra_compile_args={"cxx": CXX_FLAGS},
        # Files the sources include or that another backend compiles: they belong to the source distribution.
        depends=[str(path) for pattern in ("*.h", "*.cu", "*.cpp") for path in sorted(CSRC.glob(pattern))],
        language="c++",
        **options,
    )


def extensions() -> list[Extension]:
    try:
        import pybind11

        pybind_include = [pybind11.get_include()]
    except ImportError:  # torch carries a copy among its own headers
        pybind_include = cpp_extension.include_paths()
    facts = {
        "GENET_VERSION": VERSION,
        "GENET_TORCH_BUILT": torch.__version__,
        "GENET_TORCH_TARGET": ".".join(map(str, TORCH_TARGET)),
        "GENET_CUDA_BUILT": TOOLKIT.release if TOOLKIT else "",
        "GENET_CUDA_ARCHITECTURES": ARCHITECTURES if TOOLKIT else "",
    }
    module = Extension(
        "genet_ext._C",
        [str(CSRC / "module.cpp"), str(CSRC / "fit_mlp_emulate.cpp")],
        include_dirs=pybind_include,
        define_macros=[(name, f'"{value}"') for name, value in facts.items()],
        extra_compile_args={"cxx": CXX_FLAGS},
        language="c++",
    )
    built = [module, operator_library("_ops_cpu", [CSRC / "ops.cpp", *sorted(CSRC.glob("*_cpu.cpp"))])]
    if TOOLKIT:
        cuda = operator_library(
            "_ops_cuda",
            [CSRC / "ops_cuda.cpp"],
            library_dirs=[str(TOOLKIT.library_dir)],
            # The static runtime, so it does not matter which CUDA release torch brings along.
            libraries=["cudart_static", "rt", "dl", "pthread"],
            # libtorch must be needed though nothing of it is used by name: it leads to libtorch_cuda, which a
            # CPU-only torch cannot link.
            extra_link_args=["-Wl,--no-as-needed", "-ltorch"],
        )
        built.append(cuda)
    return built


def report() -> None:
    cuda = f"{TOOLKIT.release} in {TOOLKIT.home}, architectures {ARCHITECTURES}" if TOOLKIT else "no"
    print(
        f"genet-ext {VERSION}: torch {torch.__version__}, Python {sys.version.split()[0]}, CUDA {cuda}",
        flush=True,
    )


report()
setup(ext_modules=extensions(), cmdclass={"build_ext": Build, "sdist": SourceDistribution})
