"""Effects of the faults in `faults.rules`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pytest_gates.model.device import parse_device
from pytest_gates.model.faults.rules import SloppyDeviceGrammar, WrongEnvironment
from pytest_gates.model.resolve import NO_DEVICE, VISIBLE, environment
from pytest_gates.model.seams import Seams

_IMAGINARY = {"index": 0, "name": "an imaginary GPU"}


def _reversed(_: WrongEnvironment) -> Seams:
    def report() -> dict[str, Any]:
        machine = environment()
        if machine["devices"]:
            return machine | {"state": NO_DEVICE, "devices": []}
        return machine | {"state": VISIBLE, "devices": [_IMAGINARY]}

    return Seams(environment=report)


def _sloppy(_: SloppyDeviceGrammar) -> Seams:
    return Seams(parse_device=lambda name: parse_device(name.strip().lower()))


EFFECTS: dict[type, Callable[[Any], Seams]] = {
    WrongEnvironment: _reversed,
    SloppyDeviceGrammar: _sloppy,
}
