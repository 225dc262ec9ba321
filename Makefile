# The common tasks. `make` alone lists them.

# Any Python from 3.11 on: `make PYTHON=python3.12 demo`.
PYTHON ?= $(or $(shell command -v python3.11),python3)
VENV ?= .venv
# For example PIP_ARGS="--extra-index-url https://download.pytorch.org/whl/cpu" to get torch
# without its CUDA libraries.
PIP_ARGS ?=
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt $(PIP_ARGS)

# Small models train fastest on one thread, and far slower on more threads than there are free cores.
export OMP_NUM_THREADS ?= 1
export TOKENIZERS_PARALLELISM ?= false

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test check lint types format docs tests lab clean

help: ## list these targets
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 18

# An inconclusive demo (exit code 3) is an honest result and no failure of the demo: it is printed as
# such, and only a failed audit (1), an input error (2) or a crash stops make.
demo: $(VENV)/.installed ## run everything on the bundled lab, no network: request to report
	@$(BIN)/unlearn demo $(DEMO_ARGS) || { code=$$?; [ $$code -eq 3 ] || exit $$code; }

test: check tests ## what CI runs: every check, then every test

check: lint types ## lint, formatting and types

lint: $(VENV)/.developing ## ruff: rules and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.developing ## mypy, strict
	$(BIN)/mypy

tests: $(VENV)/.developing ## pytest alone, on at most four cores
	$(BIN)/pytest -n logical --maxprocesses 4 --dist loadfile $(PYTEST_ARGS)

format: $(VENV)/.developing ## let ruff rewrite the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/.developing ## write docs/cli.md and docs/audit-schema.json from the code
	$(BIN)/python docs/make_cli.py
	$(BIN)/python docs/make_schema.py

lab: $(VENV)/.installed ## train the bundled models again into build/lab (hours)
	$(BIN)/unlearn lab train -o build/lab

clean: ## remove everything that is made
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamps make a second call instant; a change of what is installed makes them stale.
$(VENV)/bin/python:
	@echo "making $(VENV) with $(PYTHON)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "unlearn needs Python 3.11 or newer")'
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "installing unlearn into $(VENV); the first time this takes some minutes"
	@$(PIP) -e .
	@touch $@

$(VENV)/.developing: $(VENV)/.installed
	@echo "installing the development tools into $(VENV)"
	@$(PIP) -e '.[dev]'
	@touch $@
