PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: app test setup setup-dev bench lint

app: setup
	$(BIN)/python app.py

test: setup-dev lint
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

lint: setup-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/hadolint Dockerfile

bench: setup
	$(BIN)/python -m benchmarks.attribution
	$(BIN)/python -m benchmarks.train --steps 200 1000 --measure-steps 20

setup: $(VENV)/.installed
setup-dev: $(VENV)/.installed-dev

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

# daam pins releases of diffusers that are years old, so it comes after, without its dependencies.
$(VENV)/.installed: requirements.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install -r requirements.txt
	$(BIN)/python -m pip install --no-deps daam==0.2.0
	touch $@

$(VENV)/.installed-dev: requirements-dev.txt $(VENV)/.installed
	$(BIN)/python -m pip install -r requirements-dev.txt
	touch $@
