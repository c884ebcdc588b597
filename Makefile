# The two commands: `make certify` and `make test`. Each sets up a virtual environment the first time it is needed.
VENV ?= .venv
PYTHON ?= python3
# Where torch comes from, if not from the usual index. The CPU build on Linux, instead of gigabytes of CUDA packages:
#   make certify TORCH_INDEX=https://download.pytorch.org/whl/cpu
TORCH_INDEX ?=
PROMPT ?= a photo of a red circle
CONCEPT ?= circle

READY := $(VENV)/.ready

.PHONY: help certify app test test-slow trust lint circles golden docs notebooks benchmarks tables world-gates clean
.DEFAULT_GOAL := help

help: ## what there is
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

certify: $(READY) ## set up if need be, then certify one prompt of the embedded model
	$(VENV)/bin/certify prompt "$(PROMPT)" --concept "$(CONCEPT)"

app: $(VENV)/.app ## set up if need be, then open the interactive page
	$(VENV)/bin/certify app

test: $(READY) ## set up if need be, then run the tests
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -n auto -m "not slow"

test-slow: $(READY) ## the tests that train models end to end (ten minutes)
	$(VENV)/bin/python -m pytest -m slow

trust: $(READY) ## every law on 300 examples, every statistical test 2 000 times; prints claim, nominal, measured (half an hour)
	HYPOTHESIS_PROFILE=thorough OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -n auto tests/laws
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -n auto -p tests.statistical.trust -m statistical --trust-page docs/trust.md tests

lint: $(READY) ## style, types, and who imports whom
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports --no-cache --no-logo

circles: $(READY) ## modules that import each other, lazily or not
	$(VENV)/bin/python -m tests.circles

golden: $(READY) ## write tests/golden/ anew where results differ; read the diff before you commit it
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m tests.golden

docs: $(READY) ## build the documentation site into site/; a broken link or label is an error (ten seconds)
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --strict

notebooks: $(READY) ## run the notebooks of docs/notebooks/ and keep what they show (a minute)
	$(VENV)/bin/python docs/_site/notebooks.py

benchmarks: $(READY) ## measure what certificates cost (half an hour)
	mkdir -p runs
	$(VENV)/bin/python -m benchmarks --out runs/benchmarks.md

tables: $(READY) ## measure the papers' tables on the embedded model (two hours the first time)
	$(VENV)/bin/python -m experiments table all --pages docs/tables

world-gates: $(READY) ## measure the embedded model (a minute)
	$(VENV)/bin/python -m experiments.world gates

clean: ## remove the virtual environment and caches
	rm -rf $(VENV) site .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) "$$(grep '^torch==' constraints.txt)"
	$(VENV)/bin/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@

$(VENV)/.app: $(READY)
	$(VENV)/bin/python -m pip install --quiet --constraint constraints.txt --editable ".[app]"
	touch $@
