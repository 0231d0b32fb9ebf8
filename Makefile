# make train   sets everything up, simulates the reference data if needed, trains, and shows what came out
# make test    sets everything up and runs the tests
# make check   ruff, mypy strict, and the order of the layers
# make docs    the documentation as a site in site/, and how to open it
# make bench-quick   what each stage takes in units of a fixed computation, against the kept baseline; a report, no test
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Made with: adaloc bench speed --quick --out benchmarks/results/speed_quick.json
BASELINE := benchmarks/results/speed_quick.json

.PHONY: train test check docs bench-quick setup setup-test clean

train: setup
	$(BIN)/python start_adaptive_training.py

test: setup-test
	$(BIN)/python -m pytest

check: setup-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest tests/test_architecture.py

docs: setup-test
	$(BIN)/mkdocs build --strict
	@echo "Open site/index.html; the search needs a server: $(PYTHON) -m http.server -d site -b 127.0.0.1"

bench-quick: setup
	$(BIN)/adaloc bench speed --quick $(if $(wildcard $(BASELINE)),--baseline $(BASELINE))

setup: $(VENV)/.installed

setup-test: $(VENV)/.installed-test

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; assert (3, 11) <= sys.version_info < (3, 13), "adaloc needs Python 3.11 or 3.12; name it with: make PYTHON=python3.12"'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e . -c constraints.txt
	touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[test,dev,docs,napari]' -c constraints.txt
	touch $@

clean:
	rm -rf $(VENV) build dist site .pytest_cache .mypy_cache .ruff_cache
