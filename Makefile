# make demo   install into .venv and run the whole pipeline on the shipped models: scenes, then photographs
# make test   install with test tools and run the suite
# make slow-tests  the few tests that take a minute each: a C++ compiler, Ray, browser and model
# make browser  the driver of Chromium that the tests of the page use
# make lint   formatting, lint and types
# make sanitize   the C++ kernels under the address and undefined-behaviour sanitizers; needs g++ or clang++
# make arm   the C++ kernels for 64-bit ARM, emulated; needs aarch64-linux-gnu-g++ and qemu-aarch64
#
# Variables: PYTHON (3.11 or newer), VENV, PIP_ARGS (for example an index of CPU-only torch wheels),
# DEMO_ARGS, PYTEST_ARGS, WORKERS (processes that share the suite's files; 0 for a debugger).

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
PIP_ARGS ?=
DEMO_ARGS ?=
PYTEST_ARGS ?=
WORKERS ?= logical

# Tests start many processes; without caches each would compile the package anew.
unexport PYTHONDONTWRITEBYTECODE

BIN := $(VENV)/bin
PINS := pyproject.toml constraints.txt setup.py $(wildcard src/saqsam/native/csrc/*)
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) --constraint constraints.txt

.PHONY: help demo test slow-tests lint format browser sanitize arm clean

help:
	@sed -n '1,/^$$/s/^# \{0,1\}//p' Makefile

demo: $(VENV)/installed
	$(BIN)/saqsam demo --out demo-output --force $(DEMO_ARGS)

test: $(VENV)/installed-dev
	$(BIN)/python -m pytest --numprocesses $(WORKERS) --maxprocesses 4 --dist loadfile $(PYTEST_ARGS)

slow-tests: $(VENV)/installed-dev
	$(BIN)/python -m pytest -m slow $(PYTEST_ARGS)

lint: $(VENV)/installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

sanitize:
	bash tools/sanitize_native.sh

arm:
	bash tools/check_arm.sh

format: $(VENV)/installed-dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

$(BIN)/python:
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "saqsam needs Python 3.11 or newer; name one with: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	"$(PYTHON)" -m venv "$(VENV)"

# A stamp is written only after a whole installation, so that an interrupted one starts again.
$(VENV)/installed: $(PINS) | $(BIN)/python
	$(PIP) --editable '.[demo]'
	@$(BIN)/saqsam --version
	@touch $@

$(VENV)/installed-dev: $(PINS) | $(BIN)/python
	$(PIP) --editable '.[dev]'
	@$(BIN)/saqsam --version
	@touch $(VENV)/installed $@

# Drives the system's own Chromium: no browser is downloaded.
browser: $(VENV)/installed-dev
	$(PIP) --editable '.[browser]'

clean:
	rm -rf "$(VENV)" demo-output build src/saqsam/native/libsaqsam_native.so src/saqsam.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
