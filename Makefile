# setup: the .venv from the lock file.  demo: the main job on scikit-learn's
# digits.  test: the fast suite.  test-all: every test.  check: lint, format
# and types.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.stamp
WORKERS ?= 2
# Neighbours share fixtures and programs, so a worker gets a stretch of tests.
SPLIT = -n $(WORKERS) --dist worksteal
export JAX_PLATFORMS ?= cpu

.PHONY: setup demo test test-all check format build clean

setup: $(STAMP)

$(STAMP): requirements.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=24"
	$(BIN)/python -m pip install --quiet --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -e .
	touch $(STAMP)

demo: setup
	$(BIN)/python -m experiments.forget --preset quick --out out/demo

test: setup
	$(BIN)/python -m pytest -q $(SPLIT) -m "not slow"

test-all: setup
	$(BIN)/python -m pytest -q $(SPLIT)

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

build: setup
	$(BIN)/python -m build --no-isolation

clean:
	rm -rf $(VENV) .cache build dist out
