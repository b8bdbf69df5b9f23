"""Effects of the faults in `faults.rules`."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from pytest_gates.model.device import parse_device
from pytest_gates.model.faults.rules import (
    CarelessWriteBack,
    LenientBudget,
    SloppyDeviceGrammar,
    WrongEnvironment,
)
from pytest_gates.model.resolve import NO_DEVICE, VISIBLE, environment
from pytest_gates.model.seams import Decide, Render, Seams

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


def _lenient(_: LenientBudget) -> Seams:
    def wrapped(decide: Decide) -> Decide:
        return lambda n, bad, rate, alpha: decide(n, max(bad - 1, 0), rate, alpha)

    return Seams(budget_rule=wrapped)


def _careless(_: CarelessWriteBack) -> Seams:
    def wrapped(render: Render) -> Render:
        def tidied(text: str, gate: str, verdict: str) -> str:
            return re.sub(r"(verdict: \S+) +#[^\r\n]*", r"\1", render(text, gate, verdict))

        return tidied

    return Seams(write_back=wrapped)


EFFECTS: dict[type, Callable[[Any], Seams]] = {
    WrongEnvironment: _reversed,
    SloppyDeviceGrammar: _sloppy,
    LenientBudget: _lenient,
    CarelessWriteBack: _careless,
}
