# make demo | test | test-all | test-versions | coverage | mutation | fuzz | docs | format | lint | type | clean
# Each creates .venv with the pinned requirements and the package; PYTHON=python3.12 picks the interpreter.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
PACKAGES := amc_tf device models
VERSIONS ?= 3.10 3.13
SEED ?= 0
FUZZ_VENV ?= .venv-fuzz
FUZZ_SECONDS ?= 60
FUZZ_READERS ?= plan table bundle store tflite benchmark_output benchmark_result benchmark_profile \
	phone_info phone_conditions adb_packets adb_server
TYPING := build/typing
MUTATION := build/mutation

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test test-all test-versions coverage mutation fuzz docs format lint type unit unit-all clean

help:
	@echo "make demo      compress the shipped network to under half its latency; results in runs/demo"
	@echo "make test      lint, types and the quick tests; make test-all adds the slow ones"
	@echo "make test-versions  the quick tests on the oldest and the newest Python, in .venv-VERSION"
	@echo "make coverage  the lines that no quick test runs; make mutation the changes that none notices"
	@echo "make fuzz      foreign bytes for every reader, FUZZ_SECONDS each; one line of JSON for each"
	@echo "make docs      the documentation, in build/docs; a broken link stops it"
	@echo "make format    format the code; make lint and make type only check"

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
		|| { echo "Python 3.10 or newer is needed: make PYTHON=python3.11 ..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: requirements.txt setup.py pyproject.toml | $(BIN)/python
	@echo "Installing the pinned requirements into $(VENV) (a few minutes the first time)"
	$(PIP) -r requirements.txt
	$(PIP) --no-deps --editable .
	@touch $@

$(VENV)/installed-dev: requirements-dev.txt $(VENV)/installed
	$(PIP) -r requirements-dev.txt
	@touch $@

demo: $(VENV)/installed
	$(BIN)/amc-tf demo --out runs/demo --overwrite

test: lint type unit

test-all: lint type unit-all

# In a random order, the same one each time; `make test SEED=7` takes another.
unit: $(VENV)/installed-dev
	$(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder --random-order --random-order-seed=$(SEED)

unit-all: $(VENV)/installed-dev
	$(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder --random-order --random-order-seed=$(SEED) -m ""

# Pythons that are not there are left out. pyenv shows one of its versions only, unless it is told.
test-versions: export PYENV_VERSION = $(shell pyenv versions --bare 2>/dev/null | paste -sd:)
test-versions:
	@for version in $(VERSIONS); do \
		if python$$version --version; then \
			$(MAKE) --no-print-directory unit PYTHON=python$$version VENV=.venv-$$version || exit 1; \
		else \
			echo "No python$$version here: not tested on it."; \
		fi; \
	done

coverage: $(VENV)/installed-dev
	$(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder --cov --cov-report=term-missing:skip-covered

# The tests of five modules against each small change of these; device/ and models/ lie where they are installed.
mutation: $(VENV)/installed-dev
	@rm -rf $(MUTATION) && mkdir -p $(MUTATION)
	@cp -r amc_tf tests pyproject.toml $(MUTATION) && cp -r device models $(MUTATION)/amc_tf
	cd $(MUTATION) && $(CURDIR)/$(BIN)/mutmut run --max-children 2
	cd $(MUTATION) && $(CURDIR)/$(BIN)/mutmut results

$(FUZZ_VENV)/installed: requirements-fuzz.txt requirements-dev.txt requirements.txt
	$(PYTHON) -m venv $(FUZZ_VENV)
	$(FUZZ_VENV)/bin/python -m pip install --quiet --disable-pip-version-check -r requirements-fuzz.txt
	@touch $@

fuzz: $(FUZZ_VENV)/installed
	@status=0; for reader in $(FUZZ_READERS); do \
		$(FUZZ_VENV)/bin/python -m tests.fuzz.run $$reader --seconds $(FUZZ_SECONDS) || status=1; \
	done; exit $$status

# The theme advertises a fork on every build unless it is told not to.
docs: $(VENV)/installed-dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build
	@echo "Open build/docs/index.html"

format: $(VENV)/installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lint: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# mypy sees the package as it is installed, with device/ and models/ inside it, through a tree of links.
type: $(VENV)/installed-dev
	@rm -rf $(TYPING) && mkdir -p $(TYPING)/amc_tf
	@ln -s $(CURDIR)/amc_tf/* $(CURDIR)/device $(CURDIR)/models $(TYPING)/amc_tf/
	cd $(TYPING) && $(CURDIR)/$(BIN)/mypy --config-file $(CURDIR)/pyproject.toml \
		--cache-dir $(CURDIR)/.mypy_cache -p amc_tf

clean:
	rm -rf build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
