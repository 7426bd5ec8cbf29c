# `make demo` and `make test` work in a fresh clone: each makes the virtual environment and builds what it needs first.

PYTHON ?= python3
VENV ?= .venv
# Which torch, and from where. PyPI's Linux wheels bring CUDA (gigabytes); for the CPU alone:
#   make venv TORCH_INDEX=https://download.pytorch.org/whl/cpu
TORCH ?= torch==2.13.0
TORCH_INDEX ?=
# Further arguments: make test PYTEST_ARGS="-m gradcheck", make demo DEMO_ARGS="--cell gru"
PYTEST_ARGS ?=
DEMO_ARGS ?=

PY := $(VENV)/bin/python
PIP := $(PY) -m pip --disable-pip-version-check
COMPILER := $(or $(firstword $(if $(filter default undefined,$(origin CXX)),,$(CXX))),g++)
KERNELS := $(shell find csrc -name '*.h' -o -name '*.cpp' -o -name '*.cuh' -o -name '*.cu')
TEST_KERNELS := $(shell find tests -name '*.h' -o -name '*.cpp')
FOLDERS := $(wildcard csrc fastrnn tests benchmarks examples)

.DEFAULT_GOAL := help
.PHONY: help venv build test test-sanitize demo lint format clean distclean FORCE

help:
	@echo "make venv       make $(VENV) with torch, the tools, and this package (editable)"
	@echo "make build      build the extension; only what changed is compiled"
	@echo "make test       run the tests                PYTEST_ARGS=\"-m gradcheck\" for a part of them"
	@echo "make test-sanitize   the kernels under the address, undefined-behaviour and thread sanitizers, on every ISA"
	@echo "make demo       train a character model with torch.nn and with fastrnn   DEMO_ARGS=\"--help\" for options"
	@echo "make lint       ruff, clang-format and mypy"
	@echo "make format     put Python and C++ in their standard form"
	@echo "make clean      remove what was built        make distclean: $(VENV) too"
	@echo
	@echo "PYTHON=$(PYTHON)  TORCH=$(TORCH)  TORCH_INDEX=$(or $(TORCH_INDEX),(pip's own))"

test: venv
	$(PY) -m pytest $(PYTEST_ARGS)

test-sanitize: venv
	$(PY) -m pytest tests/test_kernels_sanitized.py -m "" $(PYTEST_ARGS)

demo: venv
	$(PY) examples/char_rnn.py $(DEMO_ARGS)

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
	rm -rf build dist *.egg-info fastrnn/_C*.so .ninja_deps .ninja_log .pytest_cache .mypy_cache .ruff_cache .benchmarks
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

# Without the extension itself there is nothing to be up to date.
$(VENV)/.extension: $(VENV)/.requirements setup.py $(KERNELS) $(if $(wildcard fastrnn/_C*.so),,FORCE)
	$(PY) setup.py --quiet build_ext --inplace
	@touch $@

$(VENV)/.package: $(VENV)/.requirements pyproject.toml | $(VENV)/.extension
	$(PIP) install --quiet --no-build-isolation --no-deps --editable .
	@touch $@

FORCE:
