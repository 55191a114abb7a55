"""Facts of the native build, of the process it runs in, and of the weights that ship with the package."""

from __future__ import annotations

import hashlib
import importlib
from importlib import resources
from pathlib import Path
from typing import Any

import torch

from genet_ext._version import __version__

PACKAGE = Path(__file__).parent
CPU_LIBRARY = PACKAGE / "_ops_cpu.so"
CUDA_LIBRARY = PACKAGE / "_ops_cuda.so"

_loaded: dict[Path, str] = {}
"""Operator library -> "" if it is loaded, else why not."""


def load_operators() -> None:
    """Load the operator libraries into torch, once. :mod:`genet_ext.ops` calls this when it is imported.

    The CUDA library is loaded where torch was built with CUDA, whether or not a GPU is present.

    Raises:
        ImportError: the CPU library, which every build has, is missing or does not load.
    """
    if not _loaded:
        _loaded[CPU_LIBRARY] = _load(CPU_LIBRARY)
        if torch.version.cuda is None:
            _loaded[CUDA_LIBRARY] = f"torch {torch.__version__} has no CUDA"
        elif _loaded[CPU_LIBRARY]:
            _loaded[CUDA_LIBRARY] = "the CPU library did not load"
        else:
            _loaded[CUDA_LIBRARY] = _load(CUDA_LIBRARY)
    if _loaded[CPU_LIBRARY]:
        raise ImportError(
            f"genet_ext's native operators did not load: {_loaded[CPU_LIBRARY]}. Build them with "
            "`pip install .` or `python setup.py build_ext --inplace`, "
            "or use genet_ext.reference: the same in plain PyTorch."
        )


def cuda_problem() -> str:
    """Why the CUDA operators cannot be used in this process; empty if they can (given a GPU)."""
    return _loaded.get(CUDA_LIBRARY, "genet_ext.ops is not imported")


def _load(library: Path) -> str:
    if not library.exists():
        return f"{library.name} was not built"
    try:
        torch.ops.load_library(str(library))  # type: ignore[no-untyped-call]
    except OSError as error:
        return str(error)
    return ""


def build_info() -> dict[str, Any]:
    """What was built and what runs: plain values, ready for JSON.

    Returns:
        ``version``; ``torch`` running, ``torch_built`` with, ``torch_target`` (oldest that the libraries load
        into); ``compiler``; ``cuda_built`` (toolkit release or None), ``cuda_architectures``, ``cuda_torch``
        (torch's CUDA or None), ``cuda_operators`` ("loaded" or why not), ``devices`` (names of the GPUs torch
        sees); ``simd`` (the level of the CPU kernels in use), ``threads`` (torch's intra-op threads);
        ``weights`` (see :func:`weight_files`). Facts of the build are None where :mod:`genet_ext._C` was not
        built.
    """
    try:
        native = importlib.import_module("genet_ext._C")
        config, simd = dict(native.build_config()), str(native.simd_level())
    except ImportError:
        config, simd = {}, None
    try:
        load_operators()
        operators = "loaded"
    except ImportError as error:
        operators = str(error)
    return {
        "version": __version__,
        "torch": torch.__version__,
        "torch_built": config.get("torch_built"),
        "torch_target": config.get("torch_target"),
        "compiler": config.get("compiler"),
        "operators": operators,
        "cuda_built": config.get("cuda_built") or None,
        "cuda_architectures": config.get("cuda_architectures") or None,
        "cuda_torch": torch.version.cuda,
        "cuda_operators": cuda_problem() or "loaded",
        "devices": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "simd": simd,
        "threads": torch.get_num_threads(),
        "weights": weight_files(),
    }


def weight_files() -> dict[str, dict[str, Any]]:
    """The weights that ship with the package: file name -> ``bytes`` and ``sha256`` (hex)."""
    folder = resources.files("genet_ext") / "weights"
    files = sorted((f for f in folder.iterdir() if f.name.endswith(".safetensors")), key=lambda f: f.name)
    contents = {f.name: f.read_bytes() for f in files}
    return {
        name: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        for name, data in contents.items()
    }
