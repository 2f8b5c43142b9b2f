# What a checkout can do, on a machine with Python 3.11 or 3.12 and make.
# Everything is installed into .venv, on first use and when setup.py changes.

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input

# The Python that makes .venv: the first of these that runs and is 3.11 or 3.12.
PYTHON ?= $(shell for python in python3.11 python3.12 python3; do \
	$$python -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' \
	2>/dev/null && echo $$python && break; done)

NEEDS_PYTHON = test -n "$(PYTHON)" || { \
	echo >&2 "No Python 3.11 or 3.12 found." \
	"Install one, or name it: make PYTHON=/path/to/python3.11"; exit 1; }

# What `make tpu-check` runs in: TensorFlow for TPUs, and the compiler.
TPU_VENV := .venv-tpu

# What `make test-lowest` runs in: the oldest releases that setup.py allows.
LOWEST_VENV := .venv-lowest

# More arguments of pytest: make test PYTEST_ARGS="-k pgd -x"
PYTEST_ARGS ?=

# TensorFlow prints a line of error for the GPU that is not there; real errors
# come as exceptions.
export TF_CPP_MIN_LOG_LEVEL ?= 3

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help quickstart controls test test-commands test-slow test-lowest \
	tpu-check lint format docs build clean

help: ## List the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1\t\2/p' Makefile | expand -t 16

quickstart: $(VENV)/.stamp-run ## Train a small bottleneck and audit it
	$(BIN)/python -m launch.quickstart

controls: $(VENV)/.stamp-run ## Audit planted models; every verdict must be right
	$(BIN)/python -m launch.controls

test: lint ## Lint, then run the tests that are quick
	$(BIN)/python -m pytest -n 2 --dist loadfile $(PYTEST_ARGS)

test-commands: $(VENV)/.stamp-test ## Run the tests of whole commands and processes
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "commands and not slow" \
	$(PYTEST_ARGS)

test-slow: $(VENV)/.stamp-test ## Run the tests marked slow
	$(BIN)/python -m pytest -m slow $(PYTEST_ARGS)

# Of ranges .venv has the newest releases, this one has the oldest.
test-lowest: $(LOWEST_VENV)/.stamp ## Run the quick tests with the oldest versions
	$(LOWEST_VENV)/bin/python -m pytest -n 2 --dist loadfile $(PYTEST_ARGS)

# TPU_ARGS=--plant puts Python into the training steps, which must fail.
tpu-check: $(TPU_VENV)/.stamp ## Compile everything for TPUs, without a TPU
	$(TPU_VENV)/bin/python -m tpu_check $(TPU_ARGS)

lint: $(VENV)/.stamp-test ## Check style, format and types, changing nothing
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.stamp-test ## Rewrite the code in the one format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Warnings are errors; nothing is fetched.
docs: $(VENV)/.stamp-docs ## Build the manual into site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet
	@echo "Manual: $(CURDIR)/site/index.html"

# The old build folder goes first: a module deleted since would be packed too.
build: $(VENV)/.stamp-venv ## Build the wheel into dist/
	rm -rf build dist
	$(PIP) wheel -qq --no-deps --wheel-dir dist .
	@ls dist/*.whl

clean: ## Remove .venv and everything built or cached
	rm -rf $(VENV) $(TPU_VENV) $(LOWEST_VENV) build dist site *.egg-info
	rm -rf .pytest_cache .ruff_cache .mypy_cache .hypothesis .coverage htmlcov
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.stamp-venv:
	@$(NEEDS_PYTHON)
	$(PYTHON) -m venv --clear $(VENV)
	@touch $@

$(VENV)/.stamp-run: setup.py $(VENV)/.stamp-venv
	@echo "Installing ib_keras and TensorFlow into $(VENV)," \
	  "about a minute and 3 GB"
	$(PIP) install -qq --editable ".[cpu]"
	@touch $@

$(VENV)/.stamp-test: setup.py $(VENV)/.stamp-venv
	@echo "Installing ib_keras, TensorFlow and test tools into $(VENV)," \
	  "about a minute and 3 GB"
	$(PIP) install -qq --editable ".[cpu,test]"
	@touch $@

$(VENV)/.stamp-docs: setup.py $(VENV)/.stamp-venv
	@echo "Installing ib_keras and what builds its manual into $(VENV)"
	$(PIP) install -qq --editable ".[docs]"
	@touch $@

$(LOWEST_VENV)/.stamp: setup.py
	@$(NEEDS_PYTHON)
	@echo "Installing the oldest versions into $(LOWEST_VENV)," \
	  "about a minute and 3 GB"
	$(PYTHON) -m venv --clear $(LOWEST_VENV)
	$(PYTHON) tests/support/lowest.py >$(LOWEST_VENV)/lowest.txt
	$(LOWEST_VENV)/bin/python -m pip install -qq \
	  --constraint $(LOWEST_VENV)/lowest.txt --editable ".[cpu,test]"
	@touch $@

# libtpu 0.0.32 and later abort the import of this TensorFlow, and tf_keras
# would bring the stock TensorFlow over this one.
$(TPU_VENV)/.stamp: setup.py
	@$(NEEDS_PYTHON)
	@echo "Installing TensorFlow for TPUs into $(TPU_VENV), about a minute" \
	  "and 3 GB"
	$(PYTHON) -m venv --clear $(TPU_VENV)
	$(TPU_VENV)/bin/python -m pip install -qq --editable ".[tpu]" \
	  jax==0.10.2 jaxlib==0.10.2 libtpu==0.0.31
	$(TPU_VENV)/bin/python -m pip install -qq --no-deps tf_keras==2.20.1
	@touch $@
