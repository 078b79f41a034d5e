PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin

.PHONY: fit test lint package docs bench clean

fit: $(VENV)/.base
	$(BIN)/p2fit fit examples/chinchilla/chinchilla.csv --where "kept == 1"

test: $(VENV)/.test
	$(BIN)/python -m pytest -n auto

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The wheel, in an environment that has nothing else.
package: $(VENV)/.dev
	rm -rf dist $(VENV)-wheel
	$(BIN)/python -m build --outdir dist
	$(PYTHON) -m venv $(VENV)-wheel
	$(VENV)-wheel/bin/pip install --quiet dist/*.whl
	cd / && $(abspath $(VENV)-wheel)/bin/p2fit fit --json $(CURDIR)/examples/chinchilla/chinchilla.csv > /dev/null

docs: $(VENV)/.base
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[docs]'
	$(BIN)/python -m sphinx -q -W -b html docs docs/_build

bench: $(VENV)/.base
	$(BIN)/python benchmarks/run.py

$(VENV)/.base: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable .
	$(BIN)/python -m compileall -q p2fit
	touch $@

$(VENV)/.test: $(VENV)/.base
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[test]'
	touch $@

$(VENV)/.dev: $(VENV)/.test
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@

clean:
	rm -rf .venv* .cache build dist docs/_build
