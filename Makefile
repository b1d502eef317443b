# `make` alone says what there is.
#
# Everything runs in .venv, which `make env` makes and every other target makes first where it is missing.

VENV   ?= .venv
BASE   := $(firstword $(foreach name,python3.11 python3.12 python3.13 python3,$(shell command -v $(name) 2>/dev/null)))
PYTHON := $(VENV)/bin/python

DATA     ?=
BUDGET   ?=
WORK_DIR ?=
TESTS    ?= tests

# Tests are many small operations on small tensors: one thread is as fast there as all of them, its times are steady,
# and two test runs on one machine do not fight. `make demo` leaves the number of threads to torch: all cores.
ONE_THREAD := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1

.DEFAULT_GOAL := help
.PHONY: help env test demo docs doctor lint format clean distclean

help:
	@echo 'make test                   environment, lint, all tests'
	@echo 'make demo                   environment, then the whole journey on generated scenes: work_dirs/demo/report.html'
	@echo '     DATA=DIR               ... on a folder in COCO / ADE20K format'
	@echo '     BUDGET=SIZE            ... how long it may take (see tools/demo.py --help)'
	@echo '     WORK_DIR=DIR           ... where to write'
	@echo 'make docs                   the site of docs/: build/docs/index.html'
	@echo 'make doctor                 is the environment sound, what is missing, what mends it'
	@echo 'make env                    only the environment: .venv with pinned versions (the first time 10 to 30 minutes on'
	@echo '                            2 cores, most of it compiling the ops of mmcv; afterwards it is found at once)'
	@echo 'make lint, make format      ruff'
	@echo 'make clean, make distclean  remove what builds and tests left behind; the same and .venv (never work_dirs)'

env:
	@test -n '$(BASE)' || { echo 'error: no python3 found: install Python 3.11.' >&2; exit 2; }
	@$(BASE) tools/setup_env.py --venv '$(VENV)' $(ENV_FLAGS)

lint: env
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .

format: env
	$(PYTHON) -m ruff check --fix .
	$(PYTHON) -m ruff format .

test: env
	$(PYTHON) -m ruff check .
	$(ONE_THREAD) $(PYTHON) -m pytest -q --durations=15 -n 2 --dist loadfile $(TESTS)

demo: env
	$(PYTHON) tools/demo.py $(if $(DATA),--data '$(DATA)') $(if $(BUDGET),--budget '$(BUDGET)') $(if $(WORK_DIR),--work-dir '$(WORK_DIR)')

docs: env
	$(PYTHON) -m mkdocs build --strict --quiet
	@echo 'built: build/docs/index.html'

doctor:
	@$(if $(wildcard $(PYTHON)),$(PYTHON),$(or $(BASE),python3)) tools/doctor.py

clean:
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +

distclean: clean
	rm -rf '$(VENV)' '$(VENV).lock'
