# `make demo` and `make test` set up .venv by themselves; PYTHON chooses the interpreter (3.11 or newer).
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python

.PHONY: demo test test-all lint clean

$(VENV)/.installed: setup.cfg pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("cmd-lightning needs Python 3.11 or newer, this is " + sys.version.split()[0] + "; choose another: make PYTHON=python3.12 ...") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --upgrade pip
	$(RUN) -m pip install --quiet -e ".[dev]"
	@touch $@

demo: $(VENV)/.installed
	$(RUN) -m cmd_lightning demo --out outputs/demo

test: $(VENV)/.installed
	$(RUN) -m pytest -m "not slow and not gpu"

test-all: $(VENV)/.installed
	$(RUN) -m pytest

lint: $(VENV)/.installed
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

clean:
	rm -rf $(VENV) outputs build dist *.egg-info
