# The two commands a user needs: `make gates` and `make test`. Both make the environment if need be.
# An interpreter that is there already: make gates PYTHON=python3 VENV=
PYTHON ?= python3
VENV ?= .venv

ifeq ($(strip $(VENV)),)
PY := $(PYTHON)
PYTEST := $(PYTHON) -m pytest -p pytest_gates.plugin
READY := interpreter
export PYTHONPATH := $(CURDIR)$(if $(PYTHONPATH),:$(PYTHONPATH))
else
PY := $(VENV)/bin/python
PYTEST := $(VENV)/bin/pytest
READY := $(VENV)/.ready
endif

# Two workers, where there is what starts them; a file's tests stay together and share what they made.
WORKERS = $(PY) -c "import importlib.util as u; print('-n 2 --dist loadfile' * bool(u.find_spec('xdist')))"

.PHONY: gates test test-long check format schema picture bench bench-gpu env interpreter clean
.DEFAULT_GOAL := gates

gates: $(READY)
	$(PYTEST) --gates contracts/ $(ARGS)

test: $(READY)
	$(PYTEST) -q -ra -m "not slow and not gpu" $$($(WORKERS)) $(ARGS)

test-long: $(READY)
	$(PYTEST) -q -ra -m "slow and not gpu" $(ARGS)

check: $(READY)
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

format: $(READY)
	$(PY) -m ruff check --fix-only .
	$(PY) -m ruff format .

schema: $(READY)
	$(PY) -m pytest_gates.schema
	$(PY) docs/generate.py

picture: $(READY)
	$(PY) docs/picture.py

bench: $(READY)
	$(PY) -m benchmarks

bench-gpu: $(READY)
	$(PY) -m benchmarks --gpu

env: $(READY)

# What a run needs; an interpreter that is there already may lack some of it.
interpreter:
	@$(PYTHON) .ci/interpreter.py filelock hypothesis jsonschema numpy orjson pydantic pynvml pytest rfc8785 tokenizers torch yaml

$(VENV)/.ready: pyproject.toml constraints.txt
	@$(PYTHON) .ci/interpreter.py
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) .pytest_gates .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist *.egg-info
