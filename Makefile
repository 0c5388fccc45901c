# Everything a developer runs. `make` alone lists the targets.
.DEFAULT_GOAL := help
SHELL := /bin/bash
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# The first Python that runs and is new enough; `make PYTHON=/path/to/python` overrides.
CANDIDATES := python3.12 python3.13 python3.11 python3 python
SUPPORTED := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))
PYTHON ?= $(shell for p in $(CANDIDATES); do $$p -c "$(SUPPORTED)" 2>/dev/null && echo $$p && break; done)

# Tests of functions of arrays and options.
PURE := tests/core tests/methods tests/test_architecture.py tests/test_config.py tests/test_locations.py

.PHONY: help install demo demos test check-fast pure lint format types imports docs check lock audit fuzz device clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

install: $(READY) ## create .venv with everything at the versions of constraints.txt

$(READY): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "no Python 3.11 to 3.13 found; install one, or pass make PYTHON=/path/to/python" >&2; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[test,docs,dev]'
	@touch $@

demo: $(READY) ## run the whole pipeline on 1,797 real images (a minute or two)
	@$(BIN)/elfs-ray demo

demos: demo ## run the same pipeline on a local Ray, too (five minutes)
	@$(BIN)/elfs-ray demo --ray

test: $(READY) ## run the tests, in two processes
	@$(BIN)/python -m pytest -q --numprocesses=2 --dist=loadgroup --no-loadscope-reorder

check-fast: $(READY) ## what finds most mistakes in about a minute: style, types, and the tests of numerics
	@$(MAKE) --no-print-directory --jobs=4 lint types imports pure

pure: $(READY)
	@$(BIN)/python -m pytest -q --numprocesses=2 --dist=worksteal -m 'not slow and not ray' $(PURE)

lint: $(READY) ## check style and formatting
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

format: $(READY) ## format the code and fix what can be fixed
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

types: $(READY) ## check types
	@$(BIN)/mypy

imports: $(READY) ## check which layer imports which
	@$(BIN)/lint-imports --no-logo

# (--quiet would hide the warnings from --strict, too.)
docs: $(READY) ## build the documentation into site/, every warning an error
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --config-file docs/mkdocs/mkdocs.yml

check: lint types imports docs test demos ## all that CI runs

fuzz: $(READY) ## pass some ten thousand damaged files and options to the readers (minutes; EXAMPLES=N for each test)
	@ELFS_RAY_FUZZ=$(or $(EXAMPLES),1200) $(BIN)/python -m pytest -q --hypothesis-show-statistics tests/test_fuzz*.py

device: $(READY) ## test and measure on this machine's GPU (eight minutes; benchmarks/device.md)
	@PYTHON=$(BIN)/python bash benchmarks/device.sh

audit: $(READY) ## look up known vulnerabilities of the pinned versions (needs a network)
	@$(BIN)/uv tool run pip-audit --requirement constraints.txt --no-deps --disable-pip

lock: $(READY) ## resolve constraints.txt again
	@$(BIN)/uv pip compile pyproject.toml --all-extras --universal --python-version 3.11 --no-header --no-annotate \
		--no-emit-index-url --no-emit-find-links --quiet --output-file constraints.txt

clean: ## remove what the other targets made
	rm -rf $(VENV) demo-run* site .pytest_cache .ruff_cache .mypy_cache .hypothesis .import_linter_cache build dist *.egg-info
