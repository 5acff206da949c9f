# `make demo` and `make test` need Python 3.11 or newer, git and make, and nothing else.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet install --constraint constraints.txt
PACKAGES := agent orchestrator models results
CODE := $(PACKAGES) tests benchmarks

.PHONY: help demo test test-all check docs bench clean

help:
	@echo "make demo      install into $(VENV) (no torch) and measure the shipped detector here"
	@echo "make test      install what tests need (no torch) and run all that this machine can"
	@echo "make test-all  the same with torch and, as root on Debian, with OpenSSH's sshd"
	@echo "make check     lint, types, import contracts, generated documents"
	@echo "make docs      write the generated documents again"
	@echo "make bench     the benchmarks behind the figures in docs/benchmarks.md"

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "$(PYTHON) is older than 3.11: make PYTHON=/path/to/python3.11 ..."; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
	  echo "no virtual environment: on Debian, apt-get install python3-venv"; exit 1; }

$(VENV)/.base: $(BIN)/python pyproject.toml constraints.txt
	@echo "installing into $(VENV) (about a minute, no torch)"
	@$(PIP) --editable .
	@touch $@

$(VENV)/.dev: $(VENV)/.base
	@$(PIP) --editable '.[dev]'
	@touch $@

$(VENV)/.models: $(VENV)/.dev
	@echo "adding torch and ultralytics (some gigabytes)"
	@$(PIP) --editable '.[dev,models]'
	@touch $@

demo: $(VENV)/.base
	$(BIN)/orchestrator run --boards local

test: $(VENV)/.dev
	$(BIN)/python -m pytest

test-all: $(VENV)/.models
	@command -v sshd >/dev/null || test -x /usr/sbin/sshd || \
	  { test "$$(id -u)" = 0 && command -v apt-get >/dev/null && \
	    apt-get install -y -qq --no-install-recommends openssh-server >/dev/null; } || \
	  echo "sshd is missing and cannot be installed here: tests over ssh are left out"
	$(BIN)/python -m pytest

check: $(VENV)/.dev
	$(BIN)/ruff check $(CODE)
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m results.schema_doc --check
	$(BIN)/python -m orchestrator.readme --check

docs: $(VENV)/.base
	$(BIN)/python -m results.schema_doc
	$(BIN)/python -m orchestrator.readme

bench: $(VENV)/.dev
	$(BIN)/python benchmarks/timing_overhead.py
	$(BIN)/python benchmarks/agent_vs_bare.py
	$(BIN)/python benchmarks/store_samples.py
	$(BIN)/python benchmarks/cli_startup.py
	$(BIN)/python benchmarks/push_vs_scp.py

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
