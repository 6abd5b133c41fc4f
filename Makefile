# Two commands do all: `make demo` runs the main job, `make test` passes the tests.
# Needs Debian (or alike) with Python >= 3.11, its venv module, and make.

PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
INSTALLED = $(VENV)/.installed

.PHONY: demo serve test lint types contracts wheel bench check clean help

help: ## Say what can be made
	@grep -E '^[a-z]+:.*## ' Makefile | sed -E 's/:[^#]*## /\t/' | expand -t 12

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[test]"
	touch $@

demo: $(INSTALLED) ## Build an exchange on real histories, margin it, show the result
	$(BIN)/gpu-margin demo --out gpu-margin-demo

serve: $(INSTALLED) ## Serve the demo exchange on http://127.0.0.1:8080
	test -e gpu-margin-demo/config.toml || $(BIN)/gpu-margin demo --out gpu-margin-demo
	$(BIN)/gpu-margin serve gpu-margin-demo/config.toml

# Two at a time, each file in one process: most of the time is spent waiting for servers.
test: $(INSTALLED) ## Run the tests
	$(BIN)/python -m pytest -m "not gpu" --numprocesses=2 --dist=loadfile

lint: $(INSTALLED) ## Check style and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/hadolint docker/*.Dockerfile

types: $(INSTALLED) ## Check types
	$(BIN)/mypy

contracts: $(INSTALLED) ## Check which floor imports which
	$(BIN)/lint-imports

wheel: $(INSTALLED) ## Build the wheel
	rm -rf dist build
	$(BIN)/python -m build --quiet --wheel --no-isolation

bench: $(INSTALLED) ## Run the benchmarks
	$(BIN)/python -m pytest benchmarks --benchmark-only --benchmark-columns=min,median,rounds --benchmark-group-by=group

check: lint types contracts test wheel ## All of CI but the fresh clone

clean: ## Remove what was built
	rm -rf $(VENV) build dist gpu-margin-demo *.egg-info .mypy_cache .pytest_cache .ruff_cache
