"""Runs that take turns on one device: all but one stand still, so that they can be compared."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pytest_gates.errors import SessionEndedError
from pytest_gates.run.process import OnLine, RunProcess

TURN_STEPS = 5
"""Steps of a turn: short enough that clocks and temperature are the same for neighbours."""


class Turn:
    """Hears from a run that it stands still."""

    def __init__(self, pass_on: OnLine | None) -> None:
        self._pass_on = pass_on
        self.stands_before: int | None = None
        """The step that the run waits to be let into; None while it goes on."""

    def __call__(self, line: Mapping[str, Any]) -> None:
        """One telemetry line of the run."""
        if line.get("event") == "held":
            self.stands_before = line.get("step")
        if self._pass_on is not None:
            self._pass_on(line)


def take_turns(
    runs: Sequence[tuple[RunProcess, Turn]], turn_steps: int, ended: threading.Event
) -> None:
    """Watch runs to their ends; of several only one goes on at a time, and they begin held.

    Raises:
        RunError: the forkserver is dead.
        SessionEndedError: `ended` was set while they went on.
    """

    def until(reached: Callable[[], bool]) -> None:
        while not reached():
            if ended.is_set():
                raise SessionEndedError
            for process, _ in runs:
                if not process.over:
                    process.watch()

    if len(runs) == 1:
        until(lambda: runs[0][0].over)
        return
    for process, turn in runs:
        until(lambda p=process, t=turn: p.over or t.stands_before is not None)  # type: ignore[misc]
    while going := [(process, turn) for process, turn in runs if not process.over]:
        for process, turn in going:
            _let_go(process, turn, turn_steps)
            until(lambda p=process, t=turn: p.over or t.stands_before is not None)  # type: ignore[misc]


def _let_go(process: RunProcess, turn: Turn, turn_steps: int) -> None:
    assert turn.stands_before is not None, "a run that goes on has no turn to take"
    before, turn.stands_before = turn.stands_before + turn_steps, None
    process.hold_before(before)
