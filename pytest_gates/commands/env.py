"""`pytest-gates env`: what torch and NVML see on this machine."""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from pytest_gates.commands.say import say


def offer(commands: Any) -> None:
    """Add the command to the command line."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "env", help="what torch and NVML see on this machine"
    )
    parser.add_argument("--json", action="store_true", help="for programs")
    parser.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> int:
    """Ask torch in a process of its own, and NVML in this one."""
    from pytest_gates.run.worker import Worker  # noqa: PLC0415 - heavy

    with (
        tempfile.TemporaryDirectory(prefix="pytest-gates-") as folder,
        Worker(cache=Path(folder), root=Path.cwd()) as worker,
    ):
        facts = dict(worker.facts_of_machine())
        gpus = worker.gpus
        facts["nvml"] = gpus.unavailable or [gpu.name for gpu in gpus.all]
        facts["driver"] = gpus.driver
    if arguments.json:
        say(json.dumps(facts, indent=2, sort_keys=True))
        return 0
    for name, value in sorted(facts.items()):
        say(f"{name:<20}{value if isinstance(value, str) else json.dumps(value)}")
    return 0
