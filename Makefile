# Two commands: `make demo` and `make test`. Each sets up what it needs in .venv.

PORT ?= 8000
# The benchmarks have one of their own: what they measure does not depend on what tests need.
VENV ?= $(if $(filter bench,$(MAKECMDGOALS)),.venv-bench,.venv)
# The first of these that is 3.10 or newer makes the virtual environment.
PYTHON ?= python3 python3.14 python3.13 python3.12 python3.11 python3.10
# In CI also the slow tests, and every line and branch of the package.
PYTEST_ARGS ?= $(if $(CI),-m "" --cov --cov-report=term --cov-fail-under=100)

BIN := $(VENV)/bin
FOUND = $(shell for python in $(PYTHON); do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null && echo $$python && break; done)

.DEFAULT_GOAL := help
.PHONY: help demo test lint types bench fuzz clean

help: ## Say what there is
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-6s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(VENV)/.demo ## Open the pages of the example project (PORT=8000)
	@echo "Open http://127.0.0.1:$(PORT)/ in a browser. Ctrl-C ends it."
	@$(BIN)/python manage.py runserver 127.0.0.1:$(PORT)

test: $(VENV)/.dev ## Run the tests (PYTEST_ARGS="-k origin")
	@# Python keeps what it has compiled, also where the environment says otherwise. There are more
	@# processes than cores, since many tests wait.
	PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n 6 --dist loadgroup --no-loadscope-reorder \
		$(PYTEST_ARGS)

lint: $(VENV)/.dev ## Check style and formatting
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .

types: $(VENV)/.dev ## Check types
	$(BIN)/python -m mypy

bench: $(VENV)/.bench ## Measure beside Channels and others, half an hour or more (BENCH_ARGS="--quick")
	@$(BIN)/python -m benchmarks $(BENCH_ARGS)

fuzz: $(VENV)/.fuzz ## Look for bytes that break the fast lane, for an hour (FUZZ_ARGS="-max_total_time=60")
	@mkdir -p .fuzz
	$(BIN)/python -m tests.fuzz -max_total_time=3600 -max_len=1500 -artifact_prefix=.fuzz/found- $(FUZZ_ARGS) .fuzz

clean: ## Remove what the others made
	rm -rf .venv .venv-* build dist htmlcov .coverage .coverage.* .hypothesis .mypy_cache .pytest_cache .ruff_cache .fuzz

# What follows sets the virtual environment up. It is complete while $(VENV)/.made is there: an
# interrupted install leaves none, and the next one starts from scratch.

$(VENV)/.demo: pyproject.toml $(VENV)/.made
	$(call install,--editable '.[signalr]',.demo)

$(VENV)/.dev: pyproject.toml tests/client/package-lock.json $(VENV)/.made
	@# Without npm, tests that need what it installs are skipped.
	@if command -v npm >/dev/null; then npm ci --silent --prefix tests/client || \
		echo "npm could not install what is in tests/client: some tests are skipped."; fi
	$(call install,--editable . --group dev,.demo .dev)

$(VENV)/.fuzz: pyproject.toml $(VENV)/.made
	$(call install,--editable . --group dev --group fuzz,.demo .dev .fuzz)

$(VENV)/.bench: pyproject.toml $(VENV)/.made
	@# Node.js is one of those that are measured, where it is installed.
	@if command -v npm >/dev/null; then cd benchmarks/node && npm ci --silent; fi
	$(call install,--editable . --group bench,.demo .bench)

define install
@echo "Installing into $(VENV), once ..."
@mv $(VENV)/.made $(VENV)/.making
@# Older ones know no dependency groups.
@$(BIN)/python -m pip install -qq --disable-pip-version-check 'pip>=25.1'
@$(BIN)/python -m pip install -qq $(1)
@mv $(VENV)/.making $(VENV)/.made
@cd $(VENV) && touch $(2)
endef

# Only an environment of our own is cleared, not whatever VENV=... may name.
$(VENV)/.made: $(BIN)/python
	$(if $(FOUND),,$(error Python 3.10 or newer is missing, looked for: $(PYTHON). Name yours with PYTHON=/path/to/python))
	$(if $(shell $(FOUND) -c 'import ensurepip' 2>&1),$(error The venv module of $(FOUND) is missing. On Debian and Ubuntu: apt install python3-venv))
	@$(FOUND) -m venv $(if $(filter .venv .venv-%,$(VENV)),--clear) $(VENV)
	@echo "$(PYTHON)" > $@

# When its Python has gone or was upgraded since: made anew.
$(BIN)/python: ;

# When another PYTHON is named than it was made with: made anew.
ifneq ($(origin PYTHON),file)
ifneq ($(PYTHON),$(shell cat $(VENV)/.made 2>/dev/null))
.PHONY: $(VENV)/.made
endif
endif
