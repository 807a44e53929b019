# The list of commands. On a new machine only Python >= 3.11 and make are needed: the rest is installed here.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
PYTEST_ARGS ?=

.PHONY: demo test check format bench soak breaks lock image clean

demo: .venv/runtime  ## see the whole product work on a simulated account
	$(BIN)/rankr-sync demo

test: .venv/dev  ## all tests, on SQLite and PostgreSQL
	$(BIN)/python -m pytest -n auto --dist worksteal $(PYTEST_ARGS)

check: .venv/dev  ## format, lint, types, arrows between modules, Dockerfile, dependencies
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/hadolint Dockerfile
	.ci/audit $(BIN)/pip-audit

format: .venv/dev  ## bring the code into form
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: .venv/dev  ## the figures of docs/performance.md and docs/freshness.md
	$(BIN)/python benchmarks/backfill.py
	$(BIN)/python benchmarks/planner.py
	$(BIN)/python benchmarks/idle.py
	$(BIN)/python benchmarks/freshness --jobs 2 --plot docs/freshness.svg
	$(BIN)/python benchmarks/freshness/daemon.py

soak: .venv/dev  ## the property tests, for long
	HYPOTHESIS_PROFILE=soak $(BIN)/python -m pytest -n auto -m "not process" --timeout 3600 $(PYTEST_ARGS)

breaks: .venv/dev  ## break the product on purpose, one break at a time, and see the tests notice
	$(BIN)/python tests/breaks.py

lock:  ## write the lock files anew (needs uv)
	uv pip compile -q --generate-hashes --universal --no-header --no-emit-index-url --no-emit-find-links --python-version 3.11 pyproject.toml -o requirements.lock
	uv pip compile -q --generate-hashes --universal --no-header --no-emit-index-url --no-emit-find-links --python-version 3.11 pyproject.toml --group build -o requirements-build.lock
	uv pip compile -q --generate-hashes --universal --no-header --no-emit-index-url --no-emit-find-links --python-version 3.11 pyproject.toml --group dev -o requirements-dev.lock

clean:
	rm -rf .venv dist rankr-demo.db*

.venv/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "rankr-sync needs Python 3.11 or newer: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv .venv
	touch $@

.venv/runtime: .venv/python requirements-build.lock pyproject.toml
	$(PIP) install --require-hashes -r requirements-build.lock
	$(PIP) install --no-deps --no-build-isolation --editable .
	touch $@

.venv/dev: .venv/python requirements-dev.lock pyproject.toml
	$(PIP) install --require-hashes -r requirements-dev.lock
	$(PIP) install --no-deps --no-build-isolation --editable .
	touch $@ .venv/runtime
