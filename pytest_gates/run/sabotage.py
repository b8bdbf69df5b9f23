"""What the faults of the team's own program do to it: from outside, before, during and after."""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping
from typing import Any

from pytest_gates.model.faults import BaseFault, fault_adapter
from pytest_gates.model.faults.program import (
    HiddenDevices,
    KilledProgram,
    OtherEnvironment,
    PlantedTelemetry,
    SlowProgram,
)

Line = Mapping[str, Any]


def _declared(fault: Mapping[str, Any] | None) -> BaseFault | None:
    return None if fault is None else fault_adapter.validate_python(dict(fault))


# --- before: its environment ---------------------------------------------------------------------

BEFORE: dict[type[BaseFault], Callable[[Any], Mapping[str, str]]] = {
    HiddenDevices: lambda _: {"CUDA_VISIBLE_DEVICES": ""},
    OtherEnvironment: lambda fault: dict(fault.variables),
}
"""Variables that a fault sets."""


def variables(fault: Mapping[str, Any] | None) -> Mapping[str, str]:
    """What a fault adds to the program's environment."""
    declared = _declared(fault)
    effect = BEFORE.get(type(declared)) if declared is not None else None
    return {} if effect is None else effect(declared)


# --- during: signals -----------------------------------------------------------------------------


class Disturbance:
    """Signals that a fault sends to the program."""

    def __init__(self, after_s: float | None) -> None:
        """Begin so many seconds on; None: once the program has told a step."""
        self._after_s = after_s
        self._due: float | None = None

    def due(self, now: float, *, spoke: bool) -> list[int]:
        """The signals that are due at a time; `spoke`: the program has told a step."""
        if self._due is None:
            if not spoke and self._after_s is None:
                return []
            self._due = now + (self._after_s or 0.0)
        if now < self._due:
            return []
        number, wait_s = self._next()
        self._due = now + wait_s
        return [number]

    def _next(self) -> tuple[int, float]:
        """A signal, and seconds until the next one."""
        raise NotImplementedError


class _Killed(Disturbance):
    def __init__(self, fault: KilledProgram) -> None:
        super().__init__(fault.after_s)

    def _next(self) -> tuple[int, float]:
        return signal.SIGKILL, float("inf")


class _Slowed(Disturbance):
    def __init__(self, fault: SlowProgram) -> None:
        super().__init__(fault.after_s)
        self._fault = fault
        self._stopped = False

    def _next(self) -> tuple[int, float]:
        self._stopped = not self._stopped
        if self._stopped:
            return signal.SIGSTOP, self._fault.pause_ms / 1000
        return signal.SIGCONT, self._fault.run_ms / 1000


DURING: dict[type[BaseFault], Callable[[Any], Disturbance]] = {
    SlowProgram: _Slowed,
    KilledProgram: _Killed,
}
"""What sends a fault's signals."""


def disturbance(fault: Mapping[str, Any] | None) -> Disturbance | None:
    """What a fault does to a program that runs, or None."""
    declared = _declared(fault)
    effect = DURING.get(type(declared)) if declared is not None else None
    return None if effect is None else effect(declared)


# --- after: what it told -------------------------------------------------------------------------


def _planted(fault: PlantedTelemetry, line: Line) -> Line:
    if line.get("kind") != "step" or line["step"] < fault.from_step:
        return line
    return {**line, fault.metric: fault.value}


AFTER: dict[type[BaseFault], Callable[[Any, Line], Line]] = {PlantedTelemetry: _planted}
"""What a fault makes of a telemetry line."""


def tampering(fault: Mapping[str, Any] | None) -> Callable[[Line], Line] | None:
    """What a fault does to each line on its way into the evidence, or None."""
    declared = _declared(fault)
    effect = AFTER.get(type(declared)) if declared is not None else None
    return None if effect is None else lambda line: effect(declared, line)
