# Two commands: `make demo` and `make test`. Each sets up what it needs in .venv.

PORT ?= 8000
VENV ?= .venv
BIN := $(VENV)/bin
# The first Python >= 3.10 on this machine; name another with PYTHON=...
PYTHON ?= $(shell for python in python3 python3.14 python3.13 python3.12 python3.11 python3.10; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null && echo $$python && break; done)
# In CI also the slow tests, and every line and branch of the package.
PYTEST_ARGS ?= $(if $(CI),-m "" --cov --cov-report=term --cov-fail-under=100)

.DEFAULT_GOAL := help
.PHONY: help demo test lint types clean

help: ## Say what there is
	@sed -n 's/^\([a-z]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST)

demo: $(VENV)/.demo ## Open a page that talks to /ws (PORT=8000)
	@echo "Open http://127.0.0.1:$(PORT)/ in a browser."
	@exec $(BIN)/python manage.py runserver 127.0.0.1:$(PORT)

test: $(VENV)/.dev ## Run the tests
	$(BIN)/python -m pytest -n 2 $(PYTEST_ARGS)

lint: $(VENV)/.dev ## Check style and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev ## Check types
	$(BIN)/mypy

clean: ## Remove what the other commands made
	rm -rf $(VENV) .venv-* build dist htmlcov .coverage .coverage.* .hypothesis .mypy_cache .pytest_cache .ruff_cache

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "Python 3.10 or newer is missing: install it, or name it with PYTHON=..."; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); echo "$(PYTHON) cannot make a virtual environment: install its venv module (Debian: python3-venv)"; exit 1; }
	@# Older ones know no dependency groups.
	@$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'

$(VENV)/.demo: pyproject.toml | $(BIN)/python
	@echo "Installing into $(VENV), once ..."
	@$(BIN)/python -m pip install --quiet --editable .
	@touch $@

$(VENV)/.dev: pyproject.toml | $(BIN)/python
	@echo "Installing into $(VENV), once ..."
	@$(BIN)/python -m pip install --quiet --editable . --group dev
	@touch $@ $(VENV)/.demo
