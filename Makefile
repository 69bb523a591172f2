# All that a clone needs is make, Python 3.11 or newer (with venv) and a package registry.

PYTHON ?= python3
BIN := .venv/bin

# Which vLLM to install: `gpu` where nvidia-smi lists one, else `cpu`. `make setup HARDWARE=cpu` decides otherwise.
HARDWARE ?= $(if $(findstring GPU,$(shell nvidia-smi -L 2>/dev/null)),gpu,cpu)

# One more extra of pyproject.toml, as in `make setup EXTRAS=reasoning_gym`, which needs a C compiler.
EXTRAS ?=

# Without .pyc files importing vLLM and torch takes three times as long, in every process of a run.
unexport PYTHONDONTWRITEBYTECODE
export PYTHONUNBUFFERED := 1

# uv does not read pip's settings: pass on where packages are and whom to trust.
ifndef UV_FIND_LINKS
ifdef PIP_FIND_LINKS
export UV_FIND_LINKS := $(PIP_FIND_LINKS)
endif
endif
ifndef UV_DEFAULT_INDEX
ifdef PIP_INDEX_URL
export UV_DEFAULT_INDEX := $(PIP_INDEX_URL)
endif
endif
ifndef SSL_CERT_FILE
ifdef PIP_CERT
export SSL_CERT_FILE := $(PIP_CERT)
endif
endif

# The CPU build of torch: from the given links, or else from the index that uv knows of.
ifeq ($(HARDWARE)$(UV_FIND_LINKS),cpu)
TORCH := --torch-backend cpu
endif

# Of `make chaos`: how many faults, and which (any, if it is empty).
N ?= 20
SEED ?=

.PHONY: help setup demo test chaos gpu-proof check format clean

help: ## list the targets
	@echo "Cohort: GRPO with large groups. Targets:"
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/  make \1|\2/p' Makefile | while IFS='|' read -r name text; do \
		printf '%-19s%s\n' "  $$name" "$$text"; done

setup: .venv/.installed ## create .venv and install everything into it; does nothing when that is done
	@echo "==> .venv is ready"

.venv/.installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "Cohort needs Python 3.11 or newer, and '$(PYTHON)' is $$($(PYTHON) --version 2>&1)."; \
		echo "Install one and name it: make PYTHON=python3.12"; exit 1; } >&2
	@echo "==> Installing Cohort and its libraries for $(HARDWARE) into .venv (a few GB; minutes, depending on the network)"
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet 'uv>=0.13,<0.14'
	$(BIN)/uv pip install --python $(BIN)/python $(TORCH) --editable '.[$(HARDWARE),dev,wandb$(EXTRAS:%=,%)]'
	@touch $@

demo: .venv/.installed ## train SmolLM2-135M on the comparison task until every prompt is solved
	@echo "==> Training configs/comparison.yaml"
	$(BIN)/cohort train configs/comparison.yaml

# The tests' models are tiny: threads that wait for each other on busy cores made a test of 2 s last minutes.
test: export OMP_NUM_THREADS := 1
test: .venv/.installed ## run all tests
	@echo "==> Running the tests: whole runs, which mostly wait, and all others beside them on what processors they leave"
	@log=$$(mktemp); nice -n 10 $(BIN)/python -m pytest -m "not end_to_end" > $$log 2>&1 & others=$$!; \
	trap "kill $$others; rm -f $$log" EXIT; \
	$(BIN)/python -m pytest -m end_to_end; runs=$$?; \
	wait $$others; others=$$?; trap - EXIT; \
	echo "==> The others"; cat $$log; rm -f $$log; exit $$((runs > others ? runs : others))

chaos: export OMP_NUM_THREADS := 1
chaos: .venv/.installed ## break a run at random, and see it end as if nothing had happened: make chaos N=100 SEED=1
	@echo "==> Breaking a run $(N) times"
	$(BIN)/python -m tests.chaos --faults $(N) $(SEED:%=--seed %)

gpu-proof: .venv/.installed ## prove on a GPU what no other machine can, in at most eight minutes: runs/gpu-proof/gpu-proof.json
	@echo "==> Tests and benchmarks on the GPU"
	$(BIN)/python -m tests.gpu.proof

check: .venv/.installed ## formatter, linter, types and import directions, changing nothing
	@echo "==> Format"
	$(BIN)/ruff format --check
	@echo "==> Lint"
	$(BIN)/ruff check
	@echo "==> Types"
	$(BIN)/mypy
	@echo "==> Import directions"
	$(BIN)/lint-imports --no-logo

format: .venv/.installed ## format the code and fix what the linter can
	@echo "==> Formatting"
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

clean: ## remove .venv and the caches in this folder; runs/ and ~/.cache/cohort stay
	@echo "==> Removing .venv and caches (runs/ and ~/.cache/cohort stay)"
	rm -rf .venv cohort.egg-info build .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
