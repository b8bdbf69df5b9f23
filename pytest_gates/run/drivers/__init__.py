"""Drivers: what executes a run. One file each, and a line in the table below."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from pytest_gates.run.bench import Bench
from pytest_gates.run.drivers import command, process, recorded
from pytest_gates.run.plan import Execution

Driver = Callable[[Bench, Execution, str], list[Path]]
"""Executes, seals the evidence in the cache, and returns its folders, one for each execution of the
group; told who asks for it."""

DRIVERS: dict[str, Driver] = {
    "pretrain": process.produce,
    "forward": process.produce,
    "probe": process.produce,
    "command": command.produce,
    "recorded": recorded.produce,
}

__all__ = ["DRIVERS", "Bench", "Driver"]
