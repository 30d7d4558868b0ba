# `make demo` and `make test` work from a clean clone: each makes .venv and installs what it needs.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.NOTPARALLEL:

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Options for pytest or for the demo: make test ARGS="tests/unit -k release"
ARGS ?=
# Tests at the same time. Most of them wait for something, so it may be more than there are processors.
WORKERS ?= 3

export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help demo test check lint format bench clean system-packages

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(VENV)/.installed ## Run tierd on an embedded example; needs no root and no server (ARGS=--once ends it by itself)
	@$(BIN)/tierd demo $(ARGS)

test: check ## Run every check and every test (as root also those that mount file systems)

check: lint $(if $(filter true,$(CI)),$(VENV)/.installed-integrations) ## The same as test
	$(BIN)/pytest $(or $(ARGS),--numprocesses=$(WORKERS) --dist=loadfile --ignore=tests/benchmarks)

lint: system-packages $(VENV)/.installed-dev ## Only the static checks: style, types, layers
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

format: $(VENV)/.installed-dev ## Format the code and repair what can be repaired mechanically
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: system-packages $(VENV)/.installed-dev ## Measure copying against cp and rsync, and the API (as root; takes minutes)
	$(BIN)/python tests/benchmarks/copying.py --back $(ARGS)
	$(BIN)/python tests/benchmarks/api_latency.py

clean: ## Remove .venv, caches and builds
	rm -rf $(VENV) dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .schemathesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# --- What the targets stand on ---------------------------------------------------------------------------------------

# $(1): what to install. uv is used where it is, as it is many times faster; it can also fetch a Python.
define install
if command -v uv >/dev/null; then uv pip install --quiet --python $(BIN)/python -e '$(1)'; \
	else $(BIN)/python -m pip install --quiet -e '$(1)'; fi
endef

# pyproject.toml is the only thing that can make an installation outdated: the code itself is installed in place.
$(VENV)/.installed: pyproject.toml | $(VENV)/.made
	@echo "installing tierd into $(VENV)"
	@$(call install,.[demo]) 2>$(VENV)/.demo-error || { \
		echo "the demo's S3 server cannot be installed (see $(VENV)/.demo-error): the demo runs without the S3 tier" >&2; \
		$(call install,.); }
	@touch $@

$(VENV)/.installed-dev: pyproject.toml | $(VENV)/.made
	@echo "installing tierd and its development tools into $(VENV)"
	@$(call install,.[dev])
	@touch $@ $(VENV)/.installed

# What the examples for training code run on: 1 GB on disk, so elsewhere than in an unattended run their tests are
# skipped, unless `make .venv/.installed-integrations` brought it. The version names a build for the CPU: without "+cpu"
# an index that has none would give the one for CUDA, which is many times larger.
TORCH ?= torch==2.13.0+cpu

$(VENV)/.installed-integrations: $(VENV)/.installed-dev
	@echo "installing what the examples for training code run on"
	@$(BIN)/python -m pip install --quiet '$(TORCH)' || \
		echo "there is no $(TORCH) here: the tests that need it are skipped (make TORCH=… names another build)" >&2
	@$(call install,.[integrations])
	@touch $@

IS_NEW_ENOUGH := import sys; sys.exit(sys.version_info < (3, 11))

$(VENV)/.made:
	@if $(BIN)/python -c 'import pip; $(IS_NEW_ENOUGH)' 2>/dev/null; then :; \
	elif command -v uv >/dev/null; then uv venv --quiet --seed --clear --python '>=3.11' $(VENV); \
	elif ! $(PYTHON) -c '$(IS_NEW_ENOUGH)' 2>/dev/null; then \
		found=$$($(PYTHON) --version 2>/dev/null || echo "not installed"); \
		echo "tierd needs Python 3.11 or newer, and $(PYTHON) is $$found." >&2; \
		echo "Install one and name it: make PYTHON=/usr/bin/python3.11 …; or install uv, which brings its own." >&2; \
		exit 1; \
	elif ! $(PYTHON) -c 'import ensurepip' 2>/dev/null; then \
		echo "$(PYTHON) cannot make virtual environments: on Debian and Ubuntu, apt-get install python3-venv." >&2; \
		exit 1; \
	else $(PYTHON) -m venv --clear $(VENV); fi
	@touch $@

# Root tests make ext4 and xfs images and compare trees down to the last attribute. Only an unattended run (CI=true)
# as root installs packages by itself; elsewhere the tests that miss a tool are skipped and say so.
# command:package
NEEDED := mkfs.xfs:xfsprogs mkfs.ext4:e2fsprogs mkfs.btrfs:btrfs-progs setfacl:acl setfattr:attr rsync:rsync setcap:libcap2-bin \
	losetup:mount unshare:util-linux promtool:prometheus prometheus-alertmanager:prometheus-alertmanager \
	systemd-analyze:systemd systemd-nspawn:systemd-container dbus-daemon:dbus \
	groff:groff openssl:openssl rpm:rpm dnf:dnf createrepo_c:createrepo-c \
	slurmctld:slurmctld slurmd:slurmd sbatch:slurm-client munged:munge

system-packages:
ifeq ($(CI),true)
	@if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		missing=(); \
		for entry in $(NEEDED); do command -v "$${entry%%:*}" >/dev/null || missing+=("$${entry#*:}"); done; \
		command -v uv >/dev/null || $(PYTHON) -c 'import ensurepip' 2>/dev/null || missing+=(python3 python3-venv); \
		if [ $${#missing[@]} -gt 0 ]; then \
			echo "installing $${missing[*]}"; \
			apt-get update -qq; \
			DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "$${missing[@]}" >/dev/null; \
		fi; \
	fi
endif
