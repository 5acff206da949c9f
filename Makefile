# `make demo` and `make test` need Python 3.11 or newer, git and make, and nothing else.
PYTHON ?= python3
VENV := .venv
VENV313 := .venv313
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet install --constraint constraints.txt
PACKAGES := agent orchestrator models results
CODE := $(PACKAGES) tests benchmarks docs
SYSTEM_PACKAGES := openssh-client openssh-server
VIRTUAL_PACKAGES := qemu-system-arm qemu-utils mmdebstrap fakeroot e2fsprogs kmod cpio \
  openssh-client debian-archive-keyring

.PHONY: help demo test test-all test-long test-virtual test-virtual-long virtual-packages test-313 test-convert check study docs bench clean system-packages

help:
	@echo "make demo      install into $(VENV) (no torch) and measure the shipped detector here"
	@echo "make test      install what tests need (no torch) and run all that this machine can"
	@echo "make test-all  the same and more, with torch and, as root on Debian, with an sshd"
	@echo "make test-virtual  tests over emulated boards (root on Debian installs what is missing)"
	@echo "make test-313  the agent's tests under Python 3.13, where there is one"
	@echo "make test-convert  the conversion to TensorFlow Lite (its own environment, 6 GB)"
	@echo "make study     one of the published studies at reduced size (torch; about ten minutes)"
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
	@echo "adding torch and ultralytics (some gigabytes), and LiteRT (15 MB)"
	@$(PIP) --editable '.[dev,models,litert]'
	@touch $@

# Run the tests that $(1) selects, with the options $(2), and say how long they took; pytest itself
# says what is left out. JOBS files of tests are run at a time.
JOBS ?= 2
PARALLEL := -n $(JOBS) --dist loadfile
define tested
started=$$(date +%s); $(BIN)/python -m pytest -m "$(1)" $(2); code=$$?; \
  echo "$@: $$(( $$(date +%s) - started )) s"; exit $$code
endef

demo: $(VENV)/.base
	$(BIN)/orchestrator run --boards local

# A published study at reduced size, every row of it; fails where one was not measured.
study: $(VENV)/.models
	@started=$$(date +%s); set -e; page=$$(mktemp); \
	$(BIN)/orchestrator run yolov3-voc-quantization --boards local; \
	$(BIN)/orchestrator report >$$page; cat $$page; \
	if grep -n "not measured" $$page; then exit 1; fi; rm $$page; \
	echo "$@: $$(( $$(date +%s) - started )) s"

test: $(VENV)/.dev
	@echo "left out here: tests that need torch (make test-all) or an emulator (make test-virtual)"
	@$(call tested,not torch and not virtual,$(PARALLEL))

# What `test` cannot run without torch and system packages; where they cannot be installed, pytest
# says which tests are left out and why. One thread for each of the files that run side by side.
test-all: system-packages test $(VENV)/.models
	@echo "left out here: an emulator (make test-virtual), conversions (make test-convert), full-size"
	@echo "networks and weights from the net (make test-long)"
	@export OMP_NUM_THREADS=1; \
	$(call tested,(torch or litert) and not (virtual or convert or long),$(PARALLEL))

test-long: $(VENV)/.models
	@$(call tested,long and not virtual)

system-packages:
	@if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
	    $(SYSTEM_PACKAGES) >/dev/null || echo "system packages could not be installed"; \
	else echo "not root on Debian: install $(SYSTEM_PACKAGES) yourself"; fi

# The conversion to TensorFlow Lite, in an environment of its own: about 6 GB, and its packages do not
# agree with constraints.txt. Two of them bring pytest plugins that pytest 9 warns of.
test-convert:
	@$(PYTHON) -m venv .venv-convert
	@.venv-convert/bin/python -m pip --disable-pip-version-check --quiet install \
	  --editable '.[dev,models,litert-convert]'
	.venv-convert/bin/python -m pytest -p no:anyio -p no:jaxtyping -m convert

# Emulated boards: minutes of soft-float, and packages that only Debian has. The `long` ones are more
# of the same kind: other faults, and the provisioning of a bare board.
test-virtual: virtual-packages $(VENV)/.dev
	@echo "left out here: the longer ones (make test-virtual-long)"
	@$(call tested,virtual and not long)

test-virtual-long: virtual-packages $(VENV)/.dev
	@$(call tested,virtual and long)

virtual-packages:
	@if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
	    $(VIRTUAL_PACKAGES) >/dev/null || echo "system packages could not be installed"; fi

# Raspberry Pi OS trixie has Python 3.13: the agent's tests with a board's own packages under it.
test-313:
	@python=$$(PYTHON313="$(PYTHON313)" .ci/python313) || { echo "$@: left out"; exit 0; }; \
	started=$$(date +%s); set -e; \
	if ! cmp -s agent/requirements.lock $(VENV313)/.lock; then \
	  rm -rf $(VENV313); $$python -m venv $(VENV313); \
	  $(VENV313)/bin/python -m pip --disable-pip-version-check --quiet install \
	    --only-binary :all: -r agent/requirements.lock; \
	  $(VENV313)/bin/python -m pip --disable-pip-version-check --quiet install \
	    --constraint constraints.txt hypothesis onnx pytest pytest-timeout; \
	  cp agent/requirements.lock $(VENV313)/.lock; \
	fi; \
	$(VENV313)/bin/python -m pytest --noconftest tests/agent; \
	echo "$@: $$(( $$(date +%s) - started )) s"

check: $(VENV)/.dev
	@started=$$(date +%s); set -e; \
	$(BIN)/ruff check $(CODE); \
	$(BIN)/ruff format --check $(CODE); \
	$(BIN)/mypy; \
	$(BIN)/lint-imports; \
	$(BIN)/python -m results.schema_doc --check; \
	$(BIN)/python -m orchestrator.readme --check; \
	echo "$@: $$(( $$(date +%s) - started )) s"

docs: $(VENV)/.base
	$(BIN)/python -m results.schema_doc
	$(BIN)/python -m orchestrator.readme

bench: $(VENV)/.dev
	$(BIN)/python benchmarks/timing_overhead.py
	$(BIN)/python benchmarks/keeping.py
	$(BIN)/python benchmarks/agent_vs_bare.py
	$(BIN)/python benchmarks/store_samples.py
	$(BIN)/python benchmarks/cli_startup.py
	$(BIN)/python benchmarks/push_vs_scp.py
	$(BIN)/python benchmarks/scale.py

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
