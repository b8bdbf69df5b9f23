"""The built-in trainer and forward path.

Nothing here imports the rest of pytest-gates. `config`, `device`, `telemetry` and `faults` define
what a run is, and import no torch: the contract models are built from them. Everything else runs
in the process of a run, started as ``python -m pytest_gates.model run.json out/``.
"""
