PY ?= python3
BIN := .venv/bin
# two threads on shared cores are 10-20 times slower when they spin while they wait
export OMP_WAIT_POLICY ?= PASSIVE
export GOMP_SPINCOUNT ?= 0
export WANDB_MODE ?= offline
export WANDB_ERROR_REPORTING ?= false

.DEFAULT_GOAL := help
.PHONY: help quickstart test test-slow test-trust check format bench notebooks docs clean

help: ## this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

.venv/.installed: setup.cfg pyproject.toml
	$(PY) -m venv .venv
	$(BIN)/python -m pip install -q --disable-pip-version-check -e ".[dev]"
	touch $@

quickstart: .venv/.installed ## install, then VPNs on digits: warm-up, mask finding, tuning
	$(BIN)/vpns fit --config configs/quickstart.yaml

test: .venv/.installed ## the tests (minutes; no network, no GPU)
	$(BIN)/python -m pytest -m "not slow and not trust and not gpu and not network"

test-slow: .venv/.installed ## the slow tests: real kills, two processes, benchmarks' equality
	$(BIN)/python -m pytest -m "slow and not trust and not gpu and not network"

test-trust: .venv/.installed ## count what docs/trust.md promises: kills, payloads, bad input, flipped bytes
	$(BIN)/python -m pytest -m trust tests/trust

check: .venv/.installed ## ruff (lint and format), mypy, import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest tests/test_imports.py

format: .venv/.installed ## format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: .venv/.installed ## measure what docs/performance.md states, ratios in one interleaved run
	$(BIN)/python benchmarks/run_all.py

notebooks: .venv/.installed ## execute the notebooks and keep their outputs (minutes)
	$(BIN)/python scripts/site/execute_notebooks.py

docs: .venv/.installed ## the documentation as a site, in site/; a broken link fails
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

clean: ## remove the environment and caches
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache
