# The one door. Needs git, make and python3 (3.11 or newer, with venv); everything else goes into .venv.
.DEFAULT_GOAL := help
SHELL := /bin/bash
.ONESHELL:
.SHELLFLAGS := -eu -o pipefail -c
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
INSTALL := $(PY) -m pip install --quiet --quiet --disable-pip-version-check --constraint constraints.txt
# The drivers of MongoDB and of the Docker engine, where the gateway is to use them.
SERVERS := $(if $(MONGO_URL),$(VENV)/.servers)
STARTED_AT := $(shell date +%s)

.PHONY: help up doctor demo test test-slow test-docker check format docs bench lock clean image base-image chaos test-mongo-image compose-up compose-down

help: ## Show what can be asked for
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /make \1\t/' | expand -t 18

up: $(VENV)/.run $(SERVERS) ## Start the gateway in the foreground; Ctrl-C ends it and its nodes
	@exec $(PY) -m kato_gateway --started-at $(STARTED_AT)

doctor: $(VENV)/.run $(SERVERS) ## Say what is wrong with the installation, and what to do
	@exec $(PY) -m kato_gateway doctor $(DOCTOR_ARGS)

demo: $(VENV)/.examples ## Two isolated users, then learn 300 Bach chorales and predict the next chord of 68 others
	@exec $(PY) -m examples.demo

test: $(VENV)/.dev ## Run every test that needs no Docker, but for those that wait for real deadlines
	@exec $(PY) -m pytest -m 'not docker and not slow' $(PYTEST_ARGS)

test-slow: $(VENV)/.dev ## Run those that wait for real deadlines
	@exec $(PY) -m pytest -m 'slow and not docker' $(PYTEST_ARGS)

test-docker: $(VENV)/.dev ## Run the others; they need an engine, and: make image test-mongo-image
	@KATO_TEST_DOCKER=required exec $(PY) -m pytest -m docker $(PYTEST_ARGS)

chaos: $(VENV)/.dev ## Try to break it: CHAOS_RUNS=n CHAOS_SEED=s [CHAOS_GROUND=sim|real|docker] [SCENARIO=stream-kills] [CHAOS_PLANT=name]
	@PYTHONHASHSEED=0 exec $(PY) -m tests.chaos

check: $(VENV)/.dev ## Lint, formatting, types
	@$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

format: $(VENV)/.dev ## Apply the formatter and the linter's safe fixes
	@$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

docs: $(VENV)/.dev ## Renew what the pages in docs/ say of routes, settings, limits, errors and log events
	@exec $(PY) docs/generate.py

bench: $(VENV)/.dev ## Measure against the targets (BENCH="name name" for some)
	@exec $(PY) -m benchmarks $(BENCH)

image: $(VENV)/bin/python ## Build the Docker image kato-platform:<version> (BASE_IMAGE=… on another base)
	@exec .ci/image platform

base-image: ## Build the base image kato-base:bookworm from Debian's packages, for where no registry can be reached
	@exec .ci/base-image

compose-up: ## Start everything with Docker: MongoDB, the gateway on 127.0.0.1:8000, the node kato-primary on 8001
	@exec .ci/compose up

compose-down: ## Stop all of that, nodes included; MongoDB's volume stays
	@exec .ci/compose down

# The tests' stand-in for MongoDB, where its own image cannot be had.
test-mongo-image: $(VENV)/bin/python
	@exec .ci/image mongo

lock: ## Renew constraints.txt from what pyproject.toml admits today
	@rm -rf $(VENV)-lock
	$(PYTHON) -m venv $(VENV)-lock
	$(VENV)-lock/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	{ sed -n '/^#/p' constraints.txt; $(VENV)-lock/bin/python -m pip freeze --exclude-editable; } > constraints.new
	mv constraints.new constraints.txt
	rm -rf $(VENV)-lock

clean: ## Remove the virtual environment and caches
	@rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis

# Stamps: what each door needs, and no more, so that the first `make up` is quick.
$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "KATO needs Python 3.11 or newer: make PYTHON=/path/to/python3.11 …")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.run: $(VENV)/bin/python pyproject.toml constraints.txt
	@echo "Installing KATO into $(VENV) …"
	$(INSTALL) --editable .
	touch $@

$(VENV)/.servers: $(VENV)/.run
	@$(INSTALL) --editable '.[mongo,docker]'
	touch $@

$(VENV)/.examples: $(VENV)/.run
	@$(INSTALL) --editable '.[examples]'
	touch $@

$(VENV)/.dev: $(VENV)/.examples
	@echo "Installing the development tools into $(VENV) …"
	$(INSTALL) --editable '.[dev]'
	touch $@
