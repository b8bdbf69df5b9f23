"""`pytest-gates env`: what torch and NVML see on this machine."""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_gates.commands.say import say
from pytest_gates.commands.teach import teach

if TYPE_CHECKING:
    from pytest_gates.run.gpus import Gpus


def offer(commands: Any) -> None:
    """Add the command to the command line."""
    parser = teach(
        commands,
        "env",
        "what torch and NVML see on this machine",
        """
        Which GPUs gates can run on here, seen from both sides: torch in a process of its own, as
        every run is, and NVML, which watches runs from outside. Ask it when a gate is BLOCKED.

        `state` tells three cases apart: torch was built without CUDA; it was built with CUDA and
        no device is visible; the devices are visible. A device that NVML lists and torch does not
        is there and hidden, mostly by CUDA_VISIBLE_DEVICES or a driver too old for this torch.
        Nothing is written, and no host name, user or folder is told.
        """,
        ("pytest-gates env", "pytest-gates env --json | jq .devices"),
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
        report = told(worker.facts_of_machine(), worker.gpus)
    if arguments.json:
        say(json.dumps(report, indent=2))
        return 0
    devices, nvml = report.pop("devices"), report.pop("nvml")
    for name, value in report.items():
        say(f"{name:<12}{'-' if value is None else value}")
    for device in devices:
        say(f"{'device':<12}cuda:{device['index']} {_described(device)}")
    for gpu in nvml["gpus"]:
        say(f"{'nvml':<12}{_described(gpu)}")
    if nvml["unavailable"]:
        say(f"{'nvml':<12}{nvml['unavailable']}")
    return 0


def told(facts: Mapping[str, Any], gpus: Gpus) -> dict[str, Any]:
    """What torch sees, and beside it what NVML sees: a device may be there and not visible."""
    return {
        "state": facts["environment_state"],
        "devices": facts["cuda_device_list"],
        "python": facts["python"],
        "torch": facts["torch"],
        "cuda_built": facts["cuda_built"],
        "driver": gpus.driver,
        "nvml": {"gpus": [vars(gpu) for gpu in gpus.all], "unavailable": gpus.unavailable},
    }


def _described(gpu: Mapping[str, Any]) -> str:
    return f"{gpu['name']}, {gpu['memory_mib']} MiB, {gpu['uuid']}"
