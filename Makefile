# Everything runs in .venv, made here on first use; only python3 (3.11 or newer) and make are needed.
#   make quickstart   train SPO on Hopper, run a stress test, write a report
#   make test         install what the checks need, then make check
#   make check        ruff, pyright, import-linter, pytest: what CI runs
#   make lint | bench | claims | docs | clean

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# --no-compile: Python compiles modules on import, which is less than half of what the checks install.
PIP := $(BIN)/python -m pip install --quiet --no-compile -c constraints.txt
RUN := runs/quickstart
JOBS ?= 2

.DEFAULT_GOAL := help
.PHONY: help quickstart test check lint bench claims docs clean venv-works

help:
	@sed -n 's/^# \{0,1\}//p;/^$$/q' Makefile

# Checked every time without forcing a rebuild: a broken .venv is reported before anything else fails.
venv-works:
	@if [ -e $(VENV) ]; then \
	  $(BIN)/python -c 'import sys, pip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	    echo "$(VENV) is broken, has no pip, or is older than Python 3.11. Remove it (rm -rf $(VENV)) and run make again."; exit 1; }; \
	else \
	  $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	    echo "Python 3.11 or newer is needed. Name one: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }; \
	  $(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
	    echo "$(PYTHON) cannot make a virtual environment (on Debian and Ubuntu: apt-get install python3-venv)."; exit 1; }; \
	fi

# The pip of Python 3.11 takes twice as long as a newer one. torch is installed first and alone, so that the pinned build
# is chosen before another package can require a newer one.
$(VENV)/.torch: constraints.txt | venv-works
	$(PIP) --upgrade pip
	$(PIP) torch
	@touch $@

$(VENV)/.installed: $(VENV)/.torch pyproject.toml
	$(PIP) -e .
	@touch $@

$(VENV)/.installed-%: $(VENV)/.torch pyproject.toml
	$(PIP) -e '.[$*]'
	@touch $@

$(RUN)/agent/agent.json: | $(VENV)/.installed
	rm -rf $(RUN)
	$(BIN)/surefoot train spo --env Hopper-v5 --steps 200000 --seed 0 --run-dir $(RUN)

quickstart: $(RUN)/agent/agent.json
	$(BIN)/surefoot stress $(RUN) --perturb rrls:2d
	$(BIN)/surefoot report $(RUN)
	@echo "The report is $(CURDIR)/$(RUN)/report.html"

test: $(VENV)/.installed-dev
	@$(MAKE) --no-print-directory check

check: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist worksteal

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --threads 2 --pythonpath $(BIN)/python
	$(BIN)/lint-imports

bench: $(VENV)/.installed-dev
	@for script in benchmarks/bench_*.py; do echo "== $$script"; OMP_NUM_THREADS=1 $(BIN)/python $$script || exit 1; done

claims: $(VENV)/.installed
	$(BIN)/surefoot claim --tier mechanism --out src/surefoot/claims/records
	$(BIN)/surefoot claim --tier miniature --out src/surefoot/claims/records
	$(BIN)/python scripts/standing.py

docs: $(VENV)/.installed-docs
	$(BIN)/python docs/make_pages.py
	$(BIN)/python docs/make_reference.py
	$(BIN)/mkdocs build --strict

clean:
	rm -rf $(VENV) build dist site docs/papers docs/reference .pytest_cache .ruff_cache .hypothesis src/*.egg-info
