# `make demo`, `make test` and `make docs` set everything up; they only need Python >= 3.11, git and make.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)
# Idle threads must not spin, which would take cores from other processes.
export OMP_WAIT_POLICY ?= passive
# Disable all telemetry.
export DO_NOT_TRACK := true
export MLFLOW_DISABLE_TELEMETRY := true
export DVC_NO_ANALYTICS := true
export PREFECT_SERVER_ANALYTICS_ENABLED := false

.PHONY: help demo ui serve check test tests campaign mutants audit lint docs setup clean
help: ## Show this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/'

setup: $(VENV)/.ready ## Create the environment

$(VENV)/.ready: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "error: Python >= 3.11 is needed; set PYTHON=...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	@# Compile bytecode now: every stage is a process that imports everything. Takes half a minute, halves import time.
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python -r requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --editable .
	@touch $@

demo: setup ## Adapt the embedded example, from source training to the registered model
	dvc repro
	atp report

ui: setup ## Run Prefect's and MLflow's servers on this machine, until Ctrl-C
	@python -m flows.ui

serve: setup ## Serve the pipeline to Prefect: started from its UI, its API, or by CRON="0 3 * * *"
	@python -m flows.serve $(if $(CRON),--cron "$(CRON)")

lint: setup ## Check style and types
	ruff check .
	ruff format --check .
	mypy

check: lint ## Check style, types and the tests without servers and stages, in about a minute
	OMP_NUM_THREADS=1 pytest --numprocesses 2 --quiet -m "not processes"

test: setup ## Check style and types, and run all tests
	@# At the same time: mypy uses one core.
	@+$(MAKE) --no-print-directory --jobs 2 lint tests

# Three processes for two cores, since many tests wait for servers; each uses one core.
tests: setup
	OMP_NUM_THREADS=1 pytest --numprocesses 3 --no-loadscope-reorder

campaign: setup ## Kills, damaged and hostile files, requests and disks for five minutes: MINUTES=60 SEED=7 ONLY=kills,bytes
	OMP_NUM_THREADS=1 python -m tests.campaign --minutes $(or $(MINUTES),5) --seed $(or $(SEED),0) $(if $(ONLY),--only $(ONLY))

docs: $(VENV)/.docs-ready ## Build the documentation: site/index.html
	NO_MKDOCS_2_WARNING=1 mkdocs build --strict

$(VENV)/.docs-ready: $(VENV)/.ready pyproject.toml
	$(BIN)/uv pip install --quiet --python $(BIN)/python --group docs
	@touch $@

# Each tool in an environment of its own. pip-audit fails where it finds something, and where no service answers.
audit: setup ## List all dependencies in audit/sbom.json (CycloneDX), and their known vulnerabilities
	@mkdir -p audit && rm -f audit/*.json
	uvx --quiet --from cyclonedx-bom==7.5.0 cyclonedx-py requirements --output-reproducible \
		--output-file audit/sbom.json requirements.lock
	-@uvx --quiet pip-audit==2.10.1 --requirement requirements.lock --no-deps --disable-pip --progress-spinner off \
		--timeout 10 --vulnerability-service $(or $(SERVICE),pypi) --format json --output audit/vulnerabilities.json 2> audit/log
	@python docs/audit.py audit/vulnerabilities.json

# Not in CI: slow. Resumes after an interruption; docs/mutants.md explains the survivors.
mutants: setup ## Run mutation tests on the method, losses and pseudo labels, and list the survivors
	$(BIN)/uv pip install --quiet --python $(BIN)/python --constraint requirements.lock --group mutants
	OMP_NUM_THREADS=1 mutmut run --max-children 2
	mutmut results

clean: ## Delete results, states and tracking; keep the environment and DVC's cache
	rm -rf runs .atp mlflow.db* mlruns mlartifacts mutants
