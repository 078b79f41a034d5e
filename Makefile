PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
INSTALL = bin/pip install -qq --disable-pip-version-check

.PHONY: fit test test-adapters fuzz fuzz-adapters post-train study study-large lint package docs bench clean

fit: $(VENV)/.base
	$(BIN)/p2fit fit examples/chinchilla/chinchilla.csv --where "kept == 1"

test: $(VENV)/.test
	$(BIN)/python -m pytest -n auto

# Each door of p2fit under so many inputs that nobody would write; --tb=short names the first.
INPUTS ?= 100000
fuzz: $(VENV)/.test
	P2FIT_FUZZ=$(INPUTS) $(BIN)/python -m pytest -n auto --tb=short tests/fuzz

# The adapters have torch, and so an environment of their own.
ADAPTERS = .venv-adapters
test-adapters: $(ADAPTERS)/.test
	cd adapters && ../$(ADAPTERS)/bin/python -m pytest -n 2

fuzz-adapters: $(ADAPTERS)/.test
	cd adapters && P2FIT_FUZZ=$(INPUTS) ../$(ADAPTERS)/bin/python -m pytest --tb=short tests/test_fuzz.py

# Curves from a tiny model, and the law fitted to them; about a minute on one thread.
post-train: $(ADAPTERS)/.test
	PATH="$(abspath $(ADAPTERS))/bin:$$PATH" adapters/examples/tiny/run.sh

# Every table and picture of examples/p2_study from its curves.
study: $(VENV)/.test
	$(BIN)/python tests/test_examples.py --rewrite examples/p2_study/README.md

# The same of examples/p2_study_large; about a minute.
study-large: $(VENV)/.test
	$(BIN)/python tests/test_examples.py --rewrite examples/p2_study_large/README.md

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The wheel, in an environment that has nothing else.
package: $(VENV)/.dev
	rm -rf dist $(VENV)-wheel
	$(BIN)/python -m build --outdir dist
	$(PYTHON) -m venv $(VENV)-wheel
	$(VENV)-wheel/$(INSTALL) dist/*.whl
	cd / && $(abspath $(VENV)-wheel)/bin/p2fit fit --json $(CURDIR)/examples/chinchilla/chinchilla.csv > /dev/null

docs: $(VENV)/.test
	$(VENV)/$(INSTALL) --editable '.[docs]'
	rm -rf docs/_build
	$(BIN)/python docs/gallery.py
	$(BIN)/python -m sphinx -q -W --keep-going -c docs -b html . docs/_build
	$(BIN)/python docs/links.py docs/_build

bench: $(VENV)/.base
	$(BIN)/python benchmarks/run.py

# Setting up says nothing. A checkout that cannot be written in is compiled anew in each run.
$(VENV)/.base: pyproject.toml
	@$(PYTHON) -m venv $(VENV)
	@$(VENV)/$(INSTALL) --editable .
	@$(BIN)/python -m compileall -qq p2fit || true
	@touch $@

$(VENV)/.test: $(VENV)/.base
	@$(VENV)/$(INSTALL) --editable '.[test]'
	@touch $@

$(VENV)/.dev: $(VENV)/.test
	@$(VENV)/$(INSTALL) --editable '.[dev]'
	@touch $@

$(ADAPTERS)/.test: pyproject.toml adapters/pyproject.toml
	@$(PYTHON) -m venv $(ADAPTERS)
	@$(ADAPTERS)/$(INSTALL) $(TORCH) --editable . --editable './adapters[test]'
	@touch $@

clean:
	rm -rf .venv* .cache build dist docs/_build docs/_gallery
