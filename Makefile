# make demo    reduce a simulated observation of Saturn from raw ramps to navigated cubes, in demo/
# make demo-nirspec   the same with NIRSpec and Neptune, in demo-nirspec/
# make test    run the tests
# make bench   print how fast each step is
# make lint    check style and format
# make images  make the README's pictures anew, from the demo and a brighter one
# Each makes its own virtual environment in .venv; PYTHON names the interpreter to make it with (3.11 or newer).

PYTHON ?= python3
BIN := .venv/bin
JOBS ?= $(shell nproc 2>/dev/null || sysctl -n hw.ncpu)

.PHONY: demo demo-nirspec test bench lint images clean

demo: .venv/installed
	$(BIN)/python -m simulate miri demo --if-needed
	. demo/environment.sh && $(BIN)/python miri_pipeline.py demo --parallel

demo-nirspec: .venv/installed
	$(BIN)/python -m simulate nirspec demo-nirspec --if-needed
	. demo-nirspec/environment.sh && $(BIN)/python nirspec_pipeline.py demo-nirspec --parallel

test: .venv/installed-dev .venv/browser
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile

bench: .venv/installed
	$(BIN)/python -m benchmarks

lint: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

images: demo .venv/installed-dev
	$(BIN)/python -m simulate miri demo/bright --scale 3.6 --if-needed
	. demo/bright/environment.sh && $(BIN)/python miri_pipeline.py demo/bright --parallel \
		--desaturate --groups_to_use 1,2 --construct_flats --no_defringe_1d --skip_steps plot animate
	$(BIN)/python images/make_images.py

clean:
	rm -rf demo demo-nirspec

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/installed: requirements.txt | .venv/bin/python
	$(BIN)/python -m pip install --quiet --requirement requirements.txt
	touch $@

.venv/installed-dev: requirements-dev.txt requirements-cluster.txt .venv/installed
	$(BIN)/python -m pip install --quiet --requirement requirements-dev.txt
	touch $@

# The report is tested in a browser. Root of a Debian machine without one gets Chromium; elsewhere those tests are
# skipped, saying so.
.venv/browser: | .venv/bin/python
	@if ! command -v chromium google-chrome >/dev/null && command -v apt-get >/dev/null && [ "$$(id -u)" = 0 ]; then \
		echo "installing Chromium for the tests of the report"; \
		(timeout 120 apt-get update -qq && DEBIAN_FRONTEND=noninteractive timeout 300 apt-get install -y -qq chromium) \
			>/dev/null 2>&1 || echo "Chromium could not be installed"; \
	fi
	@touch $@
