# capkit: every target sets up .venv by itself; a second run installs nothing.
#   make demo PYTHON=/path/to/python3.12    takes another Python
#   make demo PIP_FLAGS="--extra-index-url ..."    passes options to pip

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-slow check lint types doctest docs docs-pictures benchmark \
    benchmark-quick coverage dist clean
.SUFFIXES:

VENV := .venv
BIN := $(VENV)/bin
PIP_FLAGS ?=
QUICK := -m "not slow and not gpu"

help:
	@echo "make demo       adapt the embedded model to handwriting and draw what changed"
	@echo "make test       the quick tests, with coverage"
	@echo "make test-slow  the slow tests"
	@echo "make check      lint, format, imports, types, spelling, doctests, documentation"
	@echo "make docs       the documentation alone, in docs/_build/html"
	@echo "make docs-pictures   pictures of its pages, in docs/_build/screenshots; needs Chromium"
	@echo "make benchmark  the tables and pictures that compare methods, in docs/; an hour or two."
	@echo "                REAL=folder adds real features; make benchmark-quick takes minutes and"
	@echo "                writes to build/benchmark"
	@echo "make dist       wheel and sdist in dist/"
	@echo "make clean      remove what was built; .venv stays"

# The first Python that is new enough, unless PYTHON names one.
$(BIN)/python:
	@for python in $(or $(PYTHON),python3 python3.13 python3.12 python3.11 python3.10); do \
	    if "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then \
	        echo "creating $(VENV) with $$("$$python" --version)"; \
	        "$$python" -m venv $(VENV) && exit 0; \
	        rm -rf $(VENV); \
	        echo "error: $$python cannot create virtual environments." \
	            "On Debian or Ubuntu: apt install python3-venv" >&2; \
	        exit 1; \
	    fi; \
	done; \
	echo "error: capkit needs Python 3.10 or newer;" \
	    "found $$($(or $(PYTHON),python3) --version 2>&1 || true)." \
	    "Install one, or name it: make demo PYTHON=/path/to/python3" >&2; \
	exit 1

# The stamps make a second run install nothing. pip 21.3 is the first with editable installs
# from pyproject.toml.
$(VENV)/.demo-installed: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet $(PIP_FLAGS) "pip>=21.3"
	$(BIN)/python -m pip install $(PIP_FLAGS) --editable ".[plot]"
	@touch $@

$(VENV)/.dev-installed: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet $(PIP_FLAGS) "pip>=21.3"
	$(BIN)/python -m pip install $(PIP_FLAGS) --editable ".[dev]"
	@touch $(VENV)/.demo-installed $@

setup: $(VENV)/.dev-installed

demo: $(VENV)/.demo-installed
	$(BIN)/python examples/quickstart.py

# As many processes as cores, each with one thread.
test: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(QUICK) -n logical --dist worksteal \
	    --cov --cov-report=term

test-slow: setup
	$(BIN)/python -m pytest -m "slow and not gpu"

check: lint types doctest docs

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell
	$(BIN)/lint-imports

types: setup
	$(BIN)/mypy

doctest: setup
	$(BIN)/python -m pytest -q --doctest-modules capkit

docs: setup
	$(BIN)/sphinx-build -W --keep-going -b html docs docs/_build/html
	$(BIN)/python docs/check_pages.py docs/_build/html
	@echo "open docs/_build/html/index.html"

# Of the pages that `make docs` built.
docs-pictures: setup
	$(BIN)/python docs/take_pictures.py docs/_build/html docs/_build/screenshots

REAL_FEATURES = $(if $(REAL),--real "$(REAL)")

benchmark: setup
	$(BIN)/python benchmarks/compare.py $(REAL_FEATURES) --results docs/results --plots docs/images

benchmark-quick: setup
	$(BIN)/python benchmarks/compare.py $(REAL_FEATURES) --quick

dist: setup
	$(BIN)/python -m build

clean:
	rm -rf build dist *.egg-info .coverage docs/_build docs/auto_examples docs/generated
