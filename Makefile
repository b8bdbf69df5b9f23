# The two commands a user needs: `make gates` and `make test`. Both make the environment if need be.
# An interpreter that is there already: make gates PYTHON=python3 VENV=
PYTHON ?= python3
VENV ?= .venv

ifeq ($(strip $(VENV)),)
PY := $(PYTHON)
PYTEST := $(PYTHON) -m pytest -p pytest_gates.plugin
READY :=
export PYTHONPATH := $(CURDIR)$(if $(PYTHONPATH),:$(PYTHONPATH))
else
PY := $(VENV)/bin/python
PYTEST := $(VENV)/bin/pytest
READY := $(VENV)/.ready
endif

.PHONY: gates test test-long check format schema bench env clean
.DEFAULT_GOAL := gates

gates: $(READY)
	$(PYTEST) --gates contracts/ $(ARGS)

test: $(READY)
	$(PYTEST) -q -m "not slow and not gpu" $(ARGS)

test-long: $(READY)
	$(PYTEST) -q -m "slow and not gpu" $(ARGS)

check: $(READY)
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

format: $(READY)
	$(PY) -m ruff check --fix-only .
	$(PY) -m ruff format .

schema: $(READY)
	$(PY) -m pytest_gates.schema

bench: $(READY)
	$(PY) -m benchmarks

env: $(READY)

$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(None if (3, 11) <= sys.version_info < (3, 14) else "pytest-gates needs Python 3.11 to 3.13, this is " + sys.version.split()[0])'
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) .pytest_gates build dist *.egg-info
