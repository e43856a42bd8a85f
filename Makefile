# make demo   a fresh machine: environment, then `snakemake --cores all`
# make check  lint, types and the fast tests: what to run before a commit
# make test   the same environment, then all tests but the long ones
# make long   whole workflows beyond one data set and one network
# make ablations  ten networks by three seeds on the made-up task `motion`; goes on where it was stopped
# make gpu    this machine's GPU, proven and measured: a table and gpu.json; without the environment, too
# make lint   style and types
# make schema workflow/schemas/config.schema.yaml anew from v4d/config
# make docs   docs/config.md and docs/pipeline.svg anew from v4d/config and docs/pipeline.py
# make lock   envs/requirements.lock and envs/v4d.yaml anew from pyproject.toml

VENV ?= .venv
# The first interpreter that is new enough; override with `make PYTHON=...`.
PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3; do \
	command -v $$p >/dev/null && $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' && echo $$p && break; done)
# For another CUDA version: TORCH_INDEX=<the address that PyTorch's install page gives for it>; its files are
# not in the lock file, so no hash checks them
TORCH_INDEX ?=
BIN := $(VENV)/bin
PYTEST := $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

.PHONY: demo ablations gpu check test long lint schema docs lock environment clean

demo: environment
	$(BIN)/snakemake --cores all

ablations: environment
	$(BIN)/python benchmarks/ablations.py

gpu:
	PYTHONPATH=$(CURDIR) $(or $(wildcard $(BIN)/python),python3) benchmarks/gpu.py

check: lint
	$(PYTEST) -m "not slow and not long"

test: environment
	$(PYTEST)

long: environment
	$(PYTEST) -m long

lint: environment
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/snakefmt --check Snakefile workflow
	$(BIN)/snakemake --lint

schema: environment
	$(BIN)/python -m v4d.config.schema

docs: environment
	$(BIN)/python docs/config_reference.py
	$(BIN)/python docs/pipeline.py

lock: environment
	$(BIN)/python envs/lock.py

environment: $(VENV)/.complete

$(VENV)/.complete: envs/requirements.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo "error: Python 3.11 or newer is needed; see docs/install.md" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV) || { echo "error: $(PYTHON) -m venv failed; on Debian: apt install python3-venv" >&2; exit 1; }
	$(if $(TORCH_INDEX),$(BIN)/pip install --index-url $(TORCH_INDEX) $$(grep -E '^(torch|torchvision)==' envs/requirements.lock | cut -d' ' -f1))
	$(BIN)/pip install --require-hashes -r envs/requirements.lock
	$(BIN)/pip install --no-deps --no-build-isolation -e .
	@touch $@

clean:
	rm -rf $(VENV)
