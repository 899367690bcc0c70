# The commands of the README, nothing else. Each makes the environment first, if it is not there.
# The first of these that there is; another one: make demo PYTHON=/path/to/python
PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3.13 || echo python3)
VENV ?= .venv
DATA ?= shop
BIN := $(VENV)/bin

.PHONY: demo test lint bench clean

demo: $(VENV)/installed
	$(BIN)/recsys demo --data $(DATA) $(if $(SOURCE),--source $(SOURCE))

test: $(VENV)/installed
	./tests/system-packages
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/installed
	$(BIN)/python -m benchmarks.hm --task next_day
	$(BIN)/python -m benchmarks.encode

# torch first and alone: a range that another package asks for would otherwise bring the newest build with CUDA.
$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -c constraints.txt torch
	$(BIN)/pip install -c constraints.txt -e '.[dev]'
	touch $@

# Not var/: it may hold a shop's database.
clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
