# Every target sets itself up: Python 3.11 or newer and make are all that a machine needs.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: demo demo-short test test-all lint types docs gpu ci clean

demo: .venv/demo  ## race AdamW and Muon on the Python sources, at most 5 minutes
	$(BIN)/stiefel bench

demo-short: .venv/demo  ## the same in its short form, well under a minute
	$(BIN)/stiefel bench --quick

test: .venv/dev  ## everything that takes seconds
	$(BIN)/python -m pytest -m "not slow"

test-all: .venv/dev  ## the slow checks too
	$(BIN)/python -m pytest

lint: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/dev
	$(BIN)/mypy

docs: .venv/dev  ## the site, in site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

gpu:  ## tests and times on a GPU, by a $(PYTHON) that has torch, Triton and pytest: installs nothing
	PYTHONPATH=src $(PYTHON) benchmarks/gpu.py

ci:
	bash .ci/run

.venv/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "stiefel needs Python 3.11 or newer: make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv
	@touch $@

.venv/demo: .venv/python pyproject.toml constraints.txt
	@echo "Setting up .venv (once) ..."
	$(PIP) --editable '.[bench]'
	@touch $@

.venv/dev: .venv/demo
	@echo "Setting up the development tools (once) ..."
	$(PIP) --editable '.[dev]'
	@touch $@

clean:
	rm -rf .venv runs site dist build .mypy_cache .pytest_cache .ruff_cache .hypothesis
