# `make demo` and `make test` do everything on a fresh machine; `make help` lists the rest.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO_OUT ?= runs/demo

.PHONY: help setup demo test check lock clean

help:
	@echo "make setup   make .venv, install the locked versions and the package"
	@echo "make demo    overread demo: search, ensemble, confidence and report on the built-in phantom"
	@echo "make test    all tests"
	@echo "make check   ruff, mypy, import-linter, dead links of the README"
	@echo "make lock    write requirements.lock from the installed versions"

setup: $(VENV)/.installed

# The stamp is newer than the lock and pyproject when the environment is right: a second call costs nothing.
$(VENV)/.installed: requirements.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --requirement requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --editable .
	@touch $@

demo: setup
	$(BIN)/overread demo --out $(DEMO_OUT) --overwrite

# Tests without Ray run side by side, one thread each; of those with Ray clusters two files at a time.
test: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile -m "not ray"
	$(BIN)/python -m pytest -n 2 --dist loadfile -m ray

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python tests/check_links.py README.md CONTRIBUTING.md CHANGELOG.md

# The CPU and CUDA builds of torch share a version; a local tag such as +cpu would bind the lock to one of them.
lock:
	$(BIN)/python -m pip freeze --exclude-editable | sed -e 's/+cpu$$//' > requirements.lock

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache
