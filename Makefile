# `make demo`, `make test` and `make docs` set everything up; nothing but Python >= 3.11, git and make is needed.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)
# A waiting thread that spins takes its core from whoever else works on the machine.
export OMP_WAIT_POLICY ?= passive
# Nothing that we start sends telemetry.
export DO_NOT_TRACK := true
export MLFLOW_DISABLE_TELEMETRY := true
export DVC_NO_ANALYTICS := true
export PREFECT_SERVER_ANALYTICS_ENABLED := false

.PHONY: help demo ui serve check test mutants lint docs setup clean
help: ## Show this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/'

setup: $(VENV)/.ready ## Create the environment

$(VENV)/.ready: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "error: Python >= 3.11 is needed; set PYTHON=...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	@# Compiled now, since every stage is a process that imports it all: half a minute, and half of each import's time.
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python -r requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --editable .
	@touch $@

demo: setup ## Adapt the embedded example, from source training to the registered model
	dvc repro
	atp report

ui: setup ## Prefect and MLflow on this machine, until Ctrl-C
	@python -m flows.ui

serve: setup ## Let Prefect start the pipeline here: from its UI, its API, or by CRON="0 3 * * *"
	@python -m flows.serve $(if $(CRON),--cron "$(CRON)")

lint: setup ## Style and types
	ruff check .
	ruff format --check .
	mypy

check: lint ## Lint, types and the tests that start no server and no stage, in a minute
	OMP_NUM_THREADS=1 pytest --numprocesses 2 --quiet -m "not processes"

# Two at a time: many tests wait for servers and processes. Each keeps to one core.
test: lint ## Lint, types, tests
	OMP_NUM_THREADS=1 pytest --numprocesses 2 --no-loadscope-reorder

docs: $(VENV)/.docs-ready ## Build the documentation: site/index.html
	NO_MKDOCS_2_WARNING=1 mkdocs build --strict

$(VENV)/.docs-ready: $(VENV)/.ready pyproject.toml
	$(BIN)/uv pip install --quiet --python $(BIN)/python --group docs
	@touch $@

# Not in CI: takes long. Continues where it was interrupted; docs/mutants.md explains the survivors.
mutants: setup ## Break the method, losses and pseudo labels line by line, and list what no test notices
	$(BIN)/uv pip install --quiet --python $(BIN)/python --constraint requirements.lock --group mutants
	OMP_NUM_THREADS=1 mutmut run --max-children 2
	mutmut results

clean: ## Delete results, states and tracking, but neither the environment nor DVC's cache
	rm -rf runs .atp mlflow.db* mlruns mlartifacts mutants
