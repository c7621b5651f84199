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
# Several runs side by side: make batch SEEDS='0 1 2' SAMPLERS='latent_gan flow_matching' SWEEP=path.yaml (see `python -m synkmimic.paper sweep --help`)
SEEDS ?=
SAMPLERS ?=
SWEEP ?=
# Where jobs run: empty for this machine, slurm or kubernetes for a cluster (profiles/README.md), or the path of a profile of your own
EXECUTOR ?=
CORES ?= $(shell nproc 2>/dev/null || sysctl -n hw.ncpu 2>/dev/null || echo 2)

# The torch build, handed to pip as it stands. With a GPU, name your own: make paper TORCH='torch==2.13.0 --index-url URL-of-the-build'
TORCH ?= torch==2.13.0
# Without a network: make wheelhouse on a machine that has one, copy wheelhouse/, then make install OFFLINE=1
OFFLINE ?=
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do $$p -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
ENV := .venv
PY := $(ENV)/bin/python
LOCK := $(shell { cat requirements.lock; echo '$(TORCH)'; } 2>/dev/null | { sha256sum 2>/dev/null || shasum -a 256; } | cut -c1-16)
READY := $(ENV)/ready-$(LOCK)
# What an executor needs in the environment: the plugin of a cluster, pinned beside its profile
PLUGIN := $(if $(EXECUTOR),$(wildcard $(if $(findstring /,$(EXECUTOR)),$(EXECUTOR),profiles/$(EXECUTOR))/requirements.txt))
PLUGGED := $(if $(PLUGIN),$(ENV)/executor-$(shell { sha256sum '$(PLUGIN)' 2>/dev/null || shasum -a 256 '$(PLUGIN)'; } | cut -c1-16))

export PYTHONHASHSEED := 0
export SOURCE_DATE_EPOCH := 0
export PIP_DISABLE_PIP_VERSION_CHECK := 1
ifneq ($(OFFLINE),)
export PIP_NO_INDEX := 1
export PIP_FIND_LINKS := wheelhouse
endif

EMPTY :=
LIST = $(subst $(EMPTY) $(EMPTY),$(COMMA),$(strip $(1)))
COMMA := ,
SETTINGS = --data '$(DATA)' --root '$(ROOT)' --profile '$(PROFILE)' --overrides "$(OVERRIDES)$(if $(SAMPLERS), paper.samplers=[$(call LIST,$(SAMPLERS))])" --executor '$(EXECUTOR)' --seed $(SEED) --name '$(RUN)' --runs '$(RUNS)'

ifeq ($(MAKECMDGOALS)$(NAME),stage)
$(error make stage NAME=...: one of $(basename $(notdir $(wildcard nbs/paper/*.ipynb))))
endif

.PHONY: paper prose batch sweep verify stage test test-all check export outputs docs lab install wheelhouse clean help

paper: $(READY) $(PLUGGED) ## make every table and figure that is stale (DATA ROOT PROFILE OVERRIDES SEED RUN CORES EXECUTOR ITEMS)
	@$(PY) -m synkmimic.paper run $(SETTINGS) --cores $(CORES) $(ITEMS)
	@$(PY) -m synkmimic.prose

prose: $(READY) ## PAPER.md from nbs/paper/PAPER.md and the numbers of the runs (make paper does it too)
	@$(PY) -m synkmimic.prose

batch: $(READY) $(PLUGGED) ## seeds, samplers and settings side by side, compared: SEEDS='0 1 2' [SAMPLERS='a b'] [SWEEP=file.yaml] and paper's settings
	@$(PY) -m synkmimic.paper sweep $(SETTINGS) --seeds '$(SEEDS)' --spec '$(SWEEP)' --cores $(CORES)

sweep: batch ## another name for batch

verify: $(READY) ## make a committed run again in _scratch and compare every number: [RUN=challenge2012 ROOT=path] [ITEMS=] [STRICT=1] [RESUME=1]
	@$(PY) -m synkmimic.verify --rerun '$(or $(RUN),$(if $(filter simulated,$(DATA)),$(PROFILE),$(DATA)$(if $(filter demo,$(PROFILE)),,-$(PROFILE))))' --root '$(ROOT)' \
	  --cores $(CORES) $(if $(STRICT),--strict) $(if $(RESUME),--resume) --items $(ITEMS)

stage: $(READY) ## run one notebook by itself: NAME=a3_latent_gan [COHORT= HOLDOUT= TRANSFORM= STATIC= TEMPORAL= SAMPLER= SYNTHETIC=] and paper's settings
	@$(PY) -m synkmimic.paper one $(NAME) $(SETTINGS) $(if $(COHORT),-p cohort='$(COHORT)') $(if $(HOLDOUT),-p holdout='$(HOLDOUT)') \
	  $(if $(TRANSFORM),-p transform='$(TRANSFORM)') $(if $(STATIC),-p static_vae='$(STATIC)') $(if $(TEMPORAL),-p temporal_vae='$(TEMPORAL)') \
	  $(if $(SAMPLER),-p latent_sampler='$(SAMPLER)') $(if $(SYNTHETIC),-p synthetic='$(SYNTHETIC)')

# What pytest is given. A file is one piece of work; tests/conftest.py lets the longest ones start first
PYTEST ?= tests

test: $(READY) ## ruff, the library notebooks, pytest with a smoke paper run
	@echo 'ruff: real errors in the exported package' && $(PY) -m ruff check synkmimic tests
	@echo 'notebooks: each library notebook runs top to bottom, two at a time' && $(PY) tests/run_notebooks.py
	@echo 'pytest: guards, units, a smoke paper run; two files at a time' && $(PY) -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(PYTEST)

test-all: test ## make test, then the tests marked `long`: a second whole run, on two tables of one's own
	@echo 'pytest: the long tests' && $(PY) -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m long $(PYTEST)

check: $(READY) ## what the commit hooks check: export in sync, notebooks clean and small, ruff
	@$(PY) -m ruff check synkmimic tests && $(PY) -m pytest tests/test_notebooks.py tests/test_project.py

export: $(READY) ## write synkmimic/*.py from the notebooks
	@env -u IN_TEST $(ENV)/bin/nbdev-export && echo 'exported nbs/ to synkmimic/'

outputs: $(READY) ## run the library notebooks again and keep their outputs: NBS='nbs/05_config.ipynb ...'
	@$(PY) tests/run_notebooks.py --keep $(NBS)

docs: $(READY) ## the site in docs/_build/html, from the notebooks as they are, its links checked
	@$(PY) docs/build.py

lab: $(READY) ## JupyterLab
	@$(ENV)/bin/jupyter lab --notebook-dir nbs

install: $(READY) ## the environment alone; OFFLINE=1 takes it from wheelhouse/ and no network (also for paper, test and the others)
	@echo 'environment: $(ENV), $(READY)'

wheelhouse: ## collect all wheels for this Python and platform in wheelhouse/, for machines without a network
	@test -x $(PY) || $(PYTHON) -m venv $(ENV)
	@mkdir -p wheelhouse && rm -f wheelhouse/SHA256SUMS
	@grep -v '^torch==' requirements.lock > wheelhouse/locked.txt
	@echo 'wheelhouse: requirements.lock' && $(PY) -m pip wheel -q -w wheelhouse --no-deps -r wheelhouse/locked.txt
	@echo 'wheelhouse: the plugin of a cluster' && $(PY) -m pip wheel -q -w wheelhouse -c wheelhouse/locked.txt $(patsubst %,-r %,$(wildcard profiles/slurm/requirements.txt))
	@echo 'wheelhouse: $(TORCH) and what it needs' && $(PY) -m pip wheel -q -w wheelhouse -c wheelhouse/locked.txt $(TORCH)
	@echo 'wheelhouse: what builds synkmimic' && $(PY) -m pip wheel -q -w wheelhouse --no-deps wheel $$($(PY) -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["build-system"]["requires"])')
	@rm wheelhouse/locked.txt && cd wheelhouse && { sha256sum *.whl 2>/dev/null || shasum -a 256 *.whl; } > SHA256SUMS
	@echo "wheelhouse: $$(ls wheelhouse/*.whl | wc -l) wheels, $$(du -sh wheelhouse | cut -f1), for $$($(PY) -V). Copy it with the repository, then: make install OFFLINE=1"

clean: ## remove what is made by the build (runs/ and figures/ stay)
	@rm -rf _scratch _docs docs/_build .pytest_cache .ruff_cache build *.egg-info; find synkmimic tests -name __pycache__ -type d -exec rm -rf {} +
	@echo 'removed scratch files; runs/, figures/ and .venv are kept'

help: ## this list
	@awk -F':.*## ' '/^[a-z-]+:.*## / {printf "make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(ENV)/executor-%: $(READY)
	@echo 'environment: $(PLUGIN)' && $(PY) -m pip install -q -c requirements.lock -r '$(PLUGIN)' && touch $@

$(READY):
	@test -n '$(PYTHON)' || { echo 'Python 3.11 or newer with venv is needed (make ... PYTHON=path)'; exit 1; }
	@echo "environment: .venv with $$($(PYTHON) -V) (once, some minutes)"
	@test -z '$(OFFLINE)' || test -f wheelhouse/SHA256SUMS || { echo 'OFFLINE: there is no wheelhouse/ here. Make it where there is a network (make wheelhouse) and copy it'; exit 1; }
	@test -z '$(OFFLINE)' || { cd wheelhouse && { sha256sum -c --quiet SHA256SUMS 2>/dev/null || shasum -a 256 -c --quiet SHA256SUMS; }; } || { echo 'OFFLINE: wheelhouse/ is damaged, copy it again'; exit 1; }
	@test -x $(PY) || $(PYTHON) -m venv $(ENV)
	@rm -f $(ENV)/ready-* $(ENV)/executor-*
	@echo "environment: $(TORCH)" && $(PY) -m pip install -q $(TORCH)
	@echo 'environment: requirements.lock' && grep -v '^torch==' requirements.lock | $(PY) -m pip install -q -r /dev/stdin
	@echo 'environment: synkmimic itself' && $(PY) -m pip install -q -e . --no-deps
	@touch $@ && echo 'environment: ready'
