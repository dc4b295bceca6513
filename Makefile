# `make demo`: a first campaign. `make test`: everything that must hold. Both need Python >= 3.11, make and a network.

PYTHON ?= python3
VENV := .venv
ifeq ($(OS),Windows_NT)
BIN := $(VENV)/Scripts
else
BIN := $(VENV)/bin
endif
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check

.PHONY: demo test lint types clean

demo: $(VENV)/core
	$(BIN)/bitswap-onnx inject models/digits_cnn.onnx fault_lists/digits_cnn.csv

test: lint types
	$(BIN)/python -m pytest --numprocesses=2 --dist=loadfile --cov --cov-report=term:skip-covered

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
