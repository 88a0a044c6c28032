# Thin names for real commands. `make help` lists them, INSTALL.md explains the set-up.
# Options: PYTHON=python3.12  VENV=.venv  ARGS="arguments for the command"  make -B setup (again)

PYTHON ?= python3.11
VENV ?= .venv
ARGS ?=

PY := $(VENV)/bin/python
PIP := $(PY) -m pip
INSTALL_FLAGS := --quiet --disable-pip-version-check --constraint constraints.txt
STAMP := $(VENV)/.anchorkit-setup
SETUP_FILES := Makefile setup.py pyproject.toml constraints.txt $(wildcard packaging/detectron2/*.*)

.DEFAULT_GOAL := help
.PHONY: setup demo test lint bench clean help

setup: $(STAMP)  ## virtual environment, torch, detectron2 and anchorkit, from PyPI

# The stamp comes last, so that a set-up which fails or is interrupted is taken up again.
$(STAMP): $(SETUP_FILES)
	@rm -f $@
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "setup: needs Python 3.11 or later as '$(PYTHON)'; name another: make PYTHON=..." >&2; \
	  exit 1; }
	@$(PIP) --version >/dev/null 2>&1 || { \
	  echo "setup: creating $(VENV)"; $(PYTHON) -m venv $(VENV); }
	@echo "setup: installing torch and torchvision (about 3 GB on the first run)"
	@$(PIP) install $(INSTALL_FLAGS) torch torchvision numpy setuptools wheel
	@$(PY) packaging/detectron2/ensure.py $(INSTALL_FLAGS)
	@echo "setup: installing anchorkit and what it needs"
	@$(PIP) install $(INSTALL_FLAGS) --no-build-isolation --editable '.[dev]'
	@cd $(VENV) && bin/python -W ignore -c 'import anchorkit, torchvision, detectron2.engine' || { \
	  echo "setup: $(VENV) is damaged; remove it and run make setup again" >&2; exit 1; }
	@touch $@
	@echo "setup: done"

demo: setup  ## train on digit scenes, evaluate, draw detections
	@$(PY) tools/demo_digit_scenes.py $(ARGS)

# Processes of one thread each: the threads of small steps spend their time waiting.
test: setup  ## the tests; ARGS="-m acceptance -n 0" for the long ones
	@OMP_NUM_THREADS=1 $(PY) -m pytest -n auto --maxprocesses 4 --dist loadfile $(ARGS)

lint: setup  ## ruff
	@$(PY) -m ruff check .

bench: setup  ## speed and memory
	@$(PY) tools/benchmark.py --markdown BENCHMARKS.md --plot docs/scaling.png $(ARGS)

clean:  ## caches, build output and the virtual environment; data and output/ stay
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

help:
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' Makefile
