# make quickstart   install, train a small model from raw text, and open a page that talks to it
# make test         everything CI checks       make test-long   what needs more time than CI has
# make check        lint, types, imports       make bench       the numbers in the documentation
#
# Each makes its own virtual environment in .venv when needed. Variables:
#   ARGS="..."      more arguments, for example  make quickstart ARGS=--no-serve
#   PYTHON=...      the interpreter to use       VENV=...         another place for the environment

SHELL := /bin/sh
VENV ?= .venv
BIN := $(VENV)/bin
PYTHON ?=
ARGS ?=
WORKERS ?= 2
TEST_ENV := OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false
# pip compiles nothing here (see PIP): what is imported is compiled once and kept, or each process would do it
export PYTHONDONTWRITEBYTECODE :=

.PHONY: quickstart test test-long check bench
.DELETE_ON_ERROR:

quickstart: $(VENV)/.quickstart
	@$(BIN)/plait quickstart $(ARGS)

test: check
	$(TEST_ENV) $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile -m "not long" $(ARGS)

test-long: $(VENV)/.dev
	$(BIN)/python -m pytest -m long --timeout 3600 $(ARGS)

check: $(VENV)/.dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports

bench: $(VENV)/.dev
	@set -e; for file in benchmarks/*.py; do echo "== $$file"; $(BIN)/python "$$file" $(ARGS); done

$(VENV)/.quickstart: $(VENV)/.made pyproject.toml constraints.txt
	$(call install,quickstart)
	@touch $@

$(VENV)/.dev: $(VENV)/.made pyproject.toml constraints.txt
	$(call install,dev)
	@touch $(VENV)/.quickstart $@

# torch first and alone: plain pip then takes a CPU build from wherever one is configured. Without compiling
# every file ahead, half a minute is saved; Python compiles the few that are used when they are.
PIP := $(BIN)/python -m pip install --disable-pip-version-check --no-compile -q
define install
	@echo "plait: installing [$(1)] into $(VENV); the first time this downloads a few hundred MB" >&2
	@$(PIP) "$$(grep '^torch==' constraints.txt)" && $(PIP) -c constraints.txt -e '.[$(1)]' \
	  || { echo "plait: installing failed (pip's reason is above). Is the package index reachable? A proxy" \
	       "is set with https_proxy=..., a mirror with PIP_INDEX_URL=...; then run make again." >&2; exit 1; }
endef

$(VENV)/.made:
	@for python in $(PYTHON) python3 python3.13 python3.12 python3.11 python; do \
	  if "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then found=$$python; break; fi; \
	done; \
	if [ -z "$$found" ]; then \
	  echo "plait: no Python 3.11 or newer was found. Install one (Debian, Ubuntu: apt install python3" \
	       "python3-venv; elsewhere: https://www.python.org/downloads) or name it: PYTHON=/path/to/python3" >&2; \
	  exit 1; \
	fi; \
	if ! "$$found" -c 'import venv, ensurepip' 2>/dev/null; then \
	  echo "plait: $$found has no venv module. Install it (Debian, Ubuntu: apt install python3-venv)" \
	       "and run make again, or name another interpreter: PYTHON=/path/to/python3" >&2; \
	  exit 1; \
	fi; \
	$(BIN)/python -m pip --version >/dev/null 2>&1 || "$$found" -m venv --clear $(VENV)
	@touch $@
