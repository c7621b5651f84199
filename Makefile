# Two commands do everything on a machine with Python 3.11+ and make: `make paper` and `make test`. `make help` lists the rest.
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

# What to run. Any of these may be given on the command line: make paper DATA=challenge2012 ROOT=path PROFILE=demo SEED=1
DATA ?= simulated
ROOT ?=
PROFILE ?= demo
OVERRIDES ?=
SEED ?= 0
RUN ?=
RUNS ?=
# Several runs side by side: make sweep SEEDS='0 1 2' SWEEP=path.yaml (see `python -m synkmimic.paper sweep --help`)
SEEDS ?=
SWEEP ?=
CORES ?= $(shell nproc 2>/dev/null || sysctl -n hw.ncpu 2>/dev/null || echo 2)

# The torch build, handed to pip as it stands. With a GPU, name your own: make paper TORCH='torch==2.13.0 --index-url URL-of-the-build'
TORCH ?= torch==2.13.0
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do $$p -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
ENV := .venv
PY := $(ENV)/bin/python
LOCK := $(shell { cat requirements.lock; echo '$(TORCH)'; } 2>/dev/null | { sha256sum 2>/dev/null || shasum -a 256; } | cut -c1-16)
READY := $(ENV)/ready-$(LOCK)

export PYTHONHASHSEED := 0
export SOURCE_DATE_EPOCH := 0
export PIP_DISABLE_PIP_VERSION_CHECK := 1

SETTINGS = --data '$(DATA)' --root '$(ROOT)' --profile '$(PROFILE)' --overrides "$(OVERRIDES)" --seed $(SEED) --name '$(RUN)' --runs '$(RUNS)'

ifeq ($(MAKECMDGOALS)$(NAME),stage)
$(error make stage NAME=...: one of $(basename $(notdir $(wildcard nbs/paper/*.ipynb))))
endif

.PHONY: paper sweep stage test check export outputs docs lab clean help

paper: $(READY) ## make every table and figure that is stale (DATA ROOT PROFILE OVERRIDES SEED RUN CORES ITEMS)
	@$(PY) -m synkmimic.paper run $(SETTINGS) --cores $(CORES) $(ITEMS)

sweep: $(READY) ## several seeds and settings side by side, compared: SEEDS='0 1 2' [SWEEP=file.yaml] and paper's settings
	@$(PY) -m synkmimic.paper sweep $(SETTINGS) --seeds '$(SEEDS)' --spec '$(SWEEP)' --cores $(CORES)

stage: $(READY) ## run one notebook by itself: NAME=a3_latent_gan [COHORT= HOLDOUT= TRANSFORM= STATIC= TEMPORAL= SAMPLER= SYNTHETIC=] and paper's settings
	@$(PY) -m synkmimic.paper one $(NAME) $(SETTINGS) $(if $(COHORT),-p cohort='$(COHORT)') $(if $(HOLDOUT),-p holdout='$(HOLDOUT)') \
	  $(if $(TRANSFORM),-p transform='$(TRANSFORM)') $(if $(STATIC),-p static_vae='$(STATIC)') $(if $(TEMPORAL),-p temporal_vae='$(TEMPORAL)') \
	  $(if $(SAMPLER),-p latent_sampler='$(SAMPLER)') $(if $(SYNTHETIC),-p synthetic='$(SYNTHETIC)')

test: $(READY) ## ruff, the library notebooks, pytest with a smoke paper run
	@echo 'ruff: real errors in the exported package' && $(PY) -m ruff check synkmimic tests
	@echo 'notebooks: each library notebook runs top to bottom' && $(PY) tests/run_notebooks.py
	@echo 'pytest: guards, units, a smoke paper run' && $(PY) -m pytest $(PYTEST)

check: $(READY) ## what the commit hooks check: export in sync, notebooks clean and small, ruff
	@$(PY) -m ruff check synkmimic tests && $(PY) -m pytest tests/test_notebooks.py tests/test_project.py

export: $(READY) ## write synkmimic/*.py from the notebooks
	@env -u IN_TEST $(ENV)/bin/nbdev-export && echo 'exported nbs/ to synkmimic/'

outputs: $(READY) ## run the library notebooks again and keep their outputs: NBS='nbs/05_config.ipynb ...'
	@$(PY) tests/run_notebooks.py --keep $(NBS)

docs: $(READY) ## the site in docs/_build/html, from the notebooks as they are, every link checked
	@$(PY) docs/build.py

lab: $(READY) ## JupyterLab
	@$(ENV)/bin/jupyter lab --notebook-dir nbs

clean: ## remove what is made by the build (runs/ and figures/ stay)
	@rm -rf _scratch _docs docs/_build .pytest_cache .ruff_cache build *.egg-info; find synkmimic tests -name __pycache__ -type d -exec rm -rf {} +
	@echo 'removed scratch files; runs/, figures/ and .venv are kept'

help: ## this list
	@awk -F':.*## ' '/^[a-z]+:.*## / {printf "make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(READY):
	@test -n '$(PYTHON)' || { echo 'Python 3.11 or newer with venv is needed (make ... PYTHON=path)'; exit 1; }
	@echo "environment: .venv with $$($(PYTHON) -V) (once, some minutes)"
	@test -x $(PY) || $(PYTHON) -m venv $(ENV)
	@rm -f $(ENV)/ready-*
	@echo "environment: $(TORCH)" && $(PY) -m pip install -q $(TORCH)
	@echo 'environment: requirements.lock' && grep -v '^torch==' requirements.lock | $(PY) -m pip install -q -r /dev/stdin
	@echo 'environment: synkmimic itself' && $(PY) -m pip install -q -e . --no-deps
	@touch $@ && echo 'environment: ready'
