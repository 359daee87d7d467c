# Setting up, testing, showing. "make" alone says what there is.

PYTHON ?= python3
export PYTHON
VENV := .venv
BIN := $(VENV)/bin
NODE_CLIENT := tests/clients/node
# What the installed package depends on, beyond the modules that an editable installation finds itself.
BUILD := pyproject.toml setup.py $(wildcard drivers/*/*.[ch] drivers/*/build_*.py)

# Client programs of other machines and releases, as tests/integration/test_foreign.py wants them.
FOREIGN := i386:bookworm arm64:bookworm s390x:bookworm s390x:trixie arm64:forky s390x:forky

# The package as it is installed: with the modules compiled that an APDU passes through.
COMPILED := build/compiled
SOURCES := $(shell find src drivers -type f -not -name '*.so' -not -path '*/__pycache__/*')

.PHONY: help setup compiled test test-system bench bench-docs bench-smoke lint demo clean packages venv node foreign

help:
	@echo "make demo    two virtual readers and a greeting from a card; needs python3 with venv only"
	@echo "make setup   install what the tests need: Debian packages and a virtual environment in $(VENV)"
	@echo "make compiled  the package as it is installed, compiled, in build/compiled; takes a minute"
	@echo "make lint    ruff and mypy"
	@echo "make test    setup, lint and all tests"
	@echo "make test-system  of these, the tests in a VM with simulated USB readers"
	@echo "make bench   measure beside pcscd, 10 to 15 minutes; make bench-docs writes docs/performance.md from that"
	@echo "make bench-smoke  the same in a minute; fails if something became much slower"
	@echo "make clean   remove what was built, and the virtual environment"

setup: packages venv node foreign

# What the tests need from Debian; quick when everything is there. See the script for the list.
packages:
	@tests/packages.sh test

venv: $(VENV)/.dev-installed

# Two levels, because the demo shall not need what the tests need.
$(VENV)/.installed: $(BUILD)
	@tests/packages.sh demo
	@echo "== virtual environment with pypcscd in $(VENV)"
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@# Without the build's own environment, for which mypy would be downloaded: nothing is compiled here.
	$(BIN)/pip install --quiet --disable-pip-version-check --upgrade setuptools cffi
	$(BIN)/pip install --quiet --disable-pip-version-check --no-build-isolation --editable .
	@touch $@

$(VENV)/.dev-installed: $(BUILD) | packages
	@echo "== virtual environment with pypcscd and the development tools in $(VENV)"
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $(VENV)/.installed $@

node: $(NODE_CLIENT)/node_modules/.built

# Building takes the headers beside the node in use, so that nothing else is downloaded.
$(NODE_CLIENT)/node_modules/.built: $(NODE_CLIENT)/package.json $(NODE_CLIENT)/package-lock.json | packages
	@if command -v node npm c++ >/dev/null; then tests/build-node-client.sh && touch $@; \
	else echo "== no node, npm and c++: the test of the Node client will not run"; fi

# Into the user's cache; quick when everything is there.
foreign: | packages
	@tests/foreign.sh $(FOREIGN)

lint: venv
	$(BIN)/ruff check .
	$(BIN)/mypy

# Beside the environment, where nothing is compiled: what is edited is what runs.
compiled: $(COMPILED)/.installed

$(COMPILED)/.installed: $(SOURCES) pyproject.toml setup.py | venv
	@echo "== compiled package in $(COMPILED), about a minute"
	@rm -rf $(COMPILED) build/lib* build/temp* build/bdist*
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --target $(COMPILED) .
	@touch $@

# Once as it is edited, and what matters once more as it is installed.
test: setup lint compiled
	@rm -rf build/tests
	$(BIN)/pytest --numprocesses 2 --dist loadgroup --junit-xml=build/tests/all.xml
	PYTHONPATH=$(COMPILED) $(BIN)/pytest --compiled --junit-xml=build/tests/compiled.xml

# A part of "make test"; the first run downloads a kernel.
test-system: setup
	$(BIN)/pytest tests/system

# Measures beside pcscd; see tests/bench/README.md. What is found is kept in build/bench.
bench: setup compiled
	PYTHONPATH=tests $(BIN)/python -m bench run

bench-docs: venv
	PYTHONPATH=tests $(BIN)/python -m bench docs

bench-smoke: setup compiled
	PYTHONPATH=tests $(BIN)/python -m bench smoke

demo: $(VENV)/.installed
	@PATH="$(CURDIR)/$(BIN):$$PATH" docs/demo.sh

clean:
	rm -rf $(VENV) .programs build dist *.egg-info $(NODE_CLIENT)/node_modules
	rm -rf .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find src drivers tests -name __pycache__ -prune -exec rm -rf {} +
	find src drivers -name '*.so' -delete
