# Every target sets itself up: a virtual environment in .venv, its packages, the extension built in place.
# On a fresh Debian or Ubuntu: Python 3.11+ with its venv and headers (apt install python3-venv python3-dev), g++.

PYTHON ?= python3
VENV ?= .venv
# The demo needs no more than this torch; a torch already in the environment is kept.
TORCH ?= torch==2.13.0
RESULTS ?= bench-results
BIN := $(VENV)/bin
NATIVE := $(wildcard csrc/*.h csrc/*.cpp csrc/*.cu) setup.py pyproject.toml

.NOTPARALLEL:
.PHONY: demo test lint types format cuda-compile gpu-check clean

demo: $(VENV)/.installed  ## fit two photographs that come with scikit-image and matplotlib
	$(BIN)/genet-ext demo

test: $(VENV)/.test-packages $(VENV)/.installed  ## all tests
	$(BIN)/python -m pytest

lint: $(VENV)/.test-packages  ## ruff and clang-format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run -Werror csrc/*.h csrc/*.cpp csrc/*.cu

types: $(VENV)/.test-packages  ## mypy --strict on the package
	$(BIN)/mypy

format: $(VENV)/.test-packages  ## put the formatting right
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i csrc/*.h csrc/*.cpp csrc/*.cu

cuda-compile:  ## every kernel for every architecture, warnings as errors, no spills; needs nvcc, no GPU
	$(PYTHON) csrc/check_cuda.py --report build/cuda-report.txt

gpu-check:  ## build, CUDA tests, compute-sanitizer, benchmark; uses PYTHON's own packages, no network
	$(PYTHON) -m python.gpu_check --results $(RESULTS)

clean:
	rm -rf build dist *.egg-info $(VENV) genet_ext/*.so

$(VENV)/.created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "genet-ext needs Python 3.11 or newer; name one: make PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -c 'import ensurepip' || { echo "no venv module: apt install python3-venv"; exit 1; }
	@$(PYTHON) -c 'import os, sysconfig; assert os.path.exists(sysconfig.get_path("include") + "/Python.h")' || \
	  { echo "no Python headers: apt install python3-dev"; exit 1; }
	@command -v c++ > /dev/null || { echo "no C++ compiler: apt install g++"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	touch $@

# torch and the build's own tools: without them pip would build against another torch in an environment of its own.
$(VENV)/.build-packages: $(VENV)/.created
	$(BIN)/python -c 'import torch' 2> /dev/null || $(BIN)/pip install --quiet "$(TORCH)"
	$(BIN)/pip install --quiet 'setuptools>=77' 'pybind11>=2.13' ninja
	touch $@

$(VENV)/.test-packages: tests/requirements.txt $(VENV)/.created
	$(BIN)/pip install --quiet -r tests/requirements.txt
	touch $@

$(VENV)/.installed: $(NATIVE) $(VENV)/.build-packages
	$(BIN)/pip install --quiet --no-build-isolation --editable '.[demo]'
	$(BIN)/genet-ext info
	touch $@
