# `make demo` and `make test` set up .venv by themselves; PYTHON chooses the interpreter (3.11 or newer).
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python

.PHONY: demo test test-all lint docs timings clean

$(VENV)/.base: setup.cfg pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("cmd-lightning needs Python 3.11 or newer, this is " + sys.version.split()[0] + "; choose another: make PYTHON=python3.12 ...") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --upgrade pip
	$(RUN) -m pip install --quiet -e .
	@touch $@

$(VENV)/.installed: $(VENV)/.base
	$(RUN) -m pip install --quiet -e ".[dev]"
	@touch $@

$(VENV)/.docs: $(VENV)/.base
	$(RUN) -m pip install --quiet -e ".[docs]"
	@touch $@

demo: $(VENV)/.base
	$(RUN) -m cmd_lightning demo --out outputs/demo

# Two processes of one thread take little more than half the time of one process of two threads. Files go to them in
# order, not those of many tests first: the last ones are quick, so that both end together.
TEST := OMP_NUM_THREADS=1 $(RUN) -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

test: $(VENV)/.installed
	$(TEST) -m "not slow and not gpu"

test-all: $(VENV)/.installed
	$(TEST)

lint: $(VENV)/.installed
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(RUN) docs/words.py

# The site in outputs/site; to read it with search: python -m http.server --directory outputs/site
docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs build --strict

# The CPU timings in docs/benchmarks/efficiency.md, measured again in about ten minutes; nothing else should run meanwhile.
timings: $(VENV)/.installed
	rm -f benchmarks/results/efficiency_fifth_cpu.json benchmarks/results/efficiency_shapes32_cpu.json
	OMP_NUM_THREADS=1 $(RUN) -m benchmarks.efficiency --scale fifth --device cpu --minutes 60
	OMP_NUM_THREADS=1 $(RUN) -m benchmarks.efficiency --scale shapes32 --device cpu --minutes 60
	$(RUN) -m benchmarks.readme

clean:
	rm -rf $(VENV) outputs build dist *.egg-info
