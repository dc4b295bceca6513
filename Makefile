# `make demo`: a first campaign. `make check`: a quick look while working. `make test`: everything that must hold.
# All need Python >= 3.11, make and a network.

PYTHON ?= python3
VENV := .venv
ifeq ($(OS),Windows_NT)
BIN := $(VENV)/Scripts
else
BIN := $(VENV)/bin
endif
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check

.PHONY: demo check test coverage lint types clean

demo: $(VENV)/core
	$(BIN)/bitswap-onnx inject models/digits_cnn.onnx fault_lists/digits_cnn.csv

# Whole files in their order: tests that share a run or an export share a process, and no long file comes last.
PYTEST := $(BIN)/python -m pytest --numprocesses=2 --dist=loadfile --no-loadscope-reorder
check: lint types
	$(PYTEST) -m "not torch and not keras and not slow"

# All other tests: together with those of `check`, every test.
test: check
	$(PYTEST) -m "torch or keras or slow"

coverage: $(VENV)/dev
	$(PYTEST) --cov --cov-report=term:skip-covered

lint: $(VENV)/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# Type checkers cannot follow an editable install with a package-dir mapping: they get a folder of links laid out like it.
TYPED := $(VENV)/typecheck/bitswap_onnx
types: $(VENV)/dev
	rm -rf $(VENV)/typecheck
	mkdir -p $(TYPED)
	ln -s $(CURDIR)/bitswap_onnx/* $(CURDIR)/converters $(CURDIR)/models $(TYPED)
	MYPYPATH=$(VENV)/typecheck $(BIN)/mypy -p bitswap_onnx
	MYPYPATH=$(VENV)/typecheck $(BIN)/mypy tests

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed: make PYTHON=python3.12" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)

$(VENV)/core: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) install --constraint constraints.txt --editable .
	touch $@

$(VENV)/dev: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) install --constraint constraints.txt --editable '.[dev]'
	touch $@ $(VENV)/core

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage
