# make demo    reduce a simulated observation of Saturn from raw ramps to navigated cubes, in demo/
# make test    run the tests
# make bench   print how fast each step is
# make lint    check style and format
# Each makes its own virtual environment in .venv; PYTHON names the interpreter to make it with (3.11 or newer).

PYTHON ?= python3
BIN := .venv/bin
JOBS ?= $(shell nproc 2>/dev/null || sysctl -n hw.ncpu)

.PHONY: demo test bench lint clean

demo: .venv/installed
	$(BIN)/python -m simulate miri demo --if-needed
	. demo/environment.sh && $(BIN)/python miri_pipeline.py demo --parallel

test: .venv/installed-dev
	$(BIN)/python -m pytest

bench: .venv/installed
	$(BIN)/python -m benchmarks; $(BIN)/python -m benchmarks.bench_desaturate; $(BIN)/python -m benchmarks.bench_defringe

lint: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

clean:
	rm -rf demo

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/installed: requirements.txt | .venv/bin/python
	$(BIN)/python -m pip install --quiet --requirement requirements.txt
	touch $@

.venv/installed-dev: requirements-dev.txt .venv/installed
	$(BIN)/python -m pip install --quiet --requirement requirements-dev.txt
	touch $@
