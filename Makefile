# Set up, test, demonstrate. Everything happens in .venv; nothing is installed outside it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: setup demo test kernels test-fast test-lowest lint wheel site clean

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[cpu,ray,demo,dev]'
	touch $(STAMP)

demo: setup
	$(BIN)/python jobs/demo.py --out demo-output

test: setup
	$(MAKE) --jobs 2 lint kernels
	$(BIN)/python -m pytest --numprocesses 3

# Compiled once beside lint, not in each test process.
kernels: setup
	$(BIN)/python -m tests.support.kernels

# While working: lint, and the tests of single packages that start no Ray and take no seconds each.
test-fast: setup lint
	$(BIN)/python -m pytest --numprocesses 2 -m 'not slow and not ray' tests/unit

# The tests of all that reads what others made, with the lowest versions that pyproject.toml allows.
LOWEST := .venv-lowest
LOWEST_TESTS := $(addprefix tests/,contracts/test_damage.py unit/storage unit/steps/test_ingest.py unit/runs/test_runner.py \
	unit/methods/test_models.py unit/test_api.py unit/test_conversion.py unit/test_packaging.py)
$(LOWEST)/.installed: pyproject.toml constraints-lowest.txt
	$(PYTHON) -m venv $(LOWEST)
	$(LOWEST)/bin/python -m pip install --quiet --upgrade pip
	$(LOWEST)/bin/python -m pip install --quiet --constraint constraints-lowest.txt --editable '.[cpu,s3,baselines,test]' numcodecs build
	touch $(LOWEST)/.installed

test-lowest: $(LOWEST)/.installed
	$(LOWEST)/bin/python -m pytest --numprocesses 2 $(LOWEST_TESTS)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

wheel: setup
	$(BIN)/python -m build --wheel

# The pages of docs/ as a site in build/site; the tool is installed for this alone.
site: setup
	$(BIN)/python -m pip install --quiet 'mkdocs-material>=9.5'
	$(BIN)/python -m mkdocs build --strict

clean:
	rm -rf $(VENV) $(LOWEST) build dist *.egg-info demo-output
