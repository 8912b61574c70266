# Two commands are all a newcomer needs: `make run` and `make test`. Both install what they need into .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PYTEST_ARGS ?=
STAMP := $(VENV)/.installed
APT := DEBIAN_FRONTEND=noninteractive apt-get -y -o DPkg::Lock::Timeout=300

# Some machines forbid Python to keep compiled modules: every start would compile all libraries anew.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help install run services test browser lint bench campaign docs screenshots clean constraints

help:  ## Show these lines
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 12

install: $(STAMP)  ## Install Tickhouse and its tools into .venv

$(STAMP): pyproject.toml constraints.txt
	@echo "installing into $(VENV) (first time: about a minute)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt uv
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --constraint constraints.txt --editable '.[dev]'
	@echo "compiling the kernel (once: up to a minute)"
	@$(BIN)/tickhouse replay examples/trades.ndjson --house $$(mktemp -d)/house --json > /dev/null
	@touch $@

run: install  ## Run the house: live trades -> bars, indicators, anomalies in ./house
	@$(BIN)/tickhouse run

services: install  ## Fetch the servers that tests start (Kafka, schema registry), and check each
	@$(BIN)/python -m tests.services

test: install browser services lint  ## Lint, then every test (PYTEST_ARGS='tests/rules -q' for a part)
	@$(BIN)/python -m pytest -n 2 --dist loadgroup $(PYTEST_ARGS)

browser:
	@command -v chromium > /dev/null || if [ "$$(id -u)" = 0 ] && command -v apt-get > /dev/null; \
	  then echo "installing chromium for the browser tests"; $(APT) update -qq && $(APT) install -qq --no-install-recommends chromium fonts-dejavu-core > /dev/null; \
	  else echo "no chromium here: the browser tests are skipped (on Debian: apt-get install chromium)"; fi

lint: install  ## ruff, strict types, import directions, spelling
	@$(BIN)/ruff check src tests bench
	@$(BIN)/ruff format --check src tests bench
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/codespell src tests bench docs README.md CONTRIBUTING.md CHANGELOG.md

bench: install services  ## How fast, against hand-written Python, Polars, DuckDB, Bytewax and Spark, as ratios
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --constraint constraints.txt --editable '.[dev,bench]' || echo "some peers cannot be installed here; they are left out"
	@$(BIN)/python bench/run.py
	@$(BIN)/python bench/engines.py
	@$(BIN)/python bench/latency.py
	@$(BIN)/python bench/serve_latency.py

campaign: install  ## The long randomized campaigns (kills, model search); an hour
	@$(BIN)/python -m pytest -m campaign -n 2 --timeout 3600 $(PYTEST_ARGS)

docs: install  ## Refresh the generated parts of the documentation
	@$(BIN)/python docs/generate.py

screenshots: install browser  ## Take the pictures of the dashboard from a real run; eight minutes
	@$(BIN)/python docs/screenshots.py

constraints: $(STAMP)  ## Pin the newest versions that fit
	@$(BIN)/uv pip compile --quiet --python $(BIN)/python --universal --no-header --no-annotate --no-emit-index-url --extra dev --extra serve --extra dashboard --extra kafka --extra spark --extra bench pyproject.toml -o constraints.txt

clean:  ## Remove caches and the virtual environment
	@rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis .bench
