"""The live line: step, loss, milliseconds a step and time left, where there is a terminal."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, TextIO

REFRESH_S = 0.1
BELOW = "\x1bD\x1b[1A\x1b7\x1bD\r\x1b[2K"
"""Make sure that there is a line below, remember the place, go there, clear it (ECMA-48, DEC)."""
BACK = "\x1b8"
LONGEST_MS = 1e12
"""Longest step that is told."""
MOST_STEPS = 2**53


@dataclass(eq=False)
class _Going:
    """A run that lasts."""

    title: str
    steps: int | None


class LiveLine:
    """One line below pytest's own progress, rewritten while a run lasts; silent without a terminal.

    The cursor always goes back to where pytest left it, so that its dots stay where they are.
    """

    def __init__(self, terminal: TextIO | None) -> None:
        """On this terminal; None: there is none."""
        self._out = None if "PYTEST_XDIST_WORKER" in os.environ else terminal
        self._lock = threading.Lock()
        self._going: list[_Going] = []
        """The runs that last, in the order in which they began; the first one is shown."""
        self._shown_at = 0.0

    @contextmanager
    def shows(self, title: str, steps: int | None) -> Iterator[Callable[[Mapping[str, Any]], None]]:
        """A run begins; `steps` is how many it will take, if it takes steps.

        Yields what hears its telemetry lines. Runs may go on beside each other.
        """
        run = _Going(title, steps)
        with self._lock:
            self._going.append(run)
            if self._going[0] is run:
                self._show(run, "starting")
        try:
            yield partial(self._hear, run)
        finally:
            with self._lock:
                if self._going[0] is run:
                    self._write("")
                self._going.remove(run)
                self._shown_at = 0.0

    def _hear(self, run: _Going, telemetry: Mapping[str, Any]) -> None:
        with self._lock:
            due = time.monotonic() - self._shown_at >= REFRESH_S
            if telemetry.get("kind") == "step" and due and self._going[0] is run:
                self._show(run, _told(run, telemetry))

    def _show(self, run: _Going, text: str) -> None:
        self._shown_at = time.monotonic()
        if self._out is None:
            return
        room = os.get_terminal_size(self._out.fileno()).columns - len(text) - len(": ") - 1
        cut = len(run.title) > room
        title = f"{run.title[: max(0, room - 1)]}…" if cut else run.title
        self._write(f"{title}: {text}")

    def _write(self, text: str) -> None:
        if self._out is not None:
            self._out.write(f"{BELOW}{text}{BACK}")
            self._out.flush()


def _told(run: _Going, step: Mapping[str, Any]) -> str:
    # A program's own lines may call the step what they like, and hold anything.
    index, wall_ms = step.get("step"), step.get("wall_ms")
    if not isinstance(index, int):
        return "running"
    parts = [f"step {index + 1}" + (f"/{run.steps}" if run.steps else "")]
    if isinstance(step.get("train_loss"), float):
        parts.append(f"loss {step['train_loss']:.3f}")
    if isinstance(wall_ms, int | float) and abs(wall_ms) <= LONGEST_MS and index <= MOST_STEPS:
        parts.append(f"{wall_ms:.0f} ms a step")
        if run.steps:
            left = (run.steps - index - 1) * wall_ms / 1e3
            parts.append(f"{left:.0f} s left")
    return ", ".join(parts)
