"""The live line: step, loss, milliseconds a step and time left, where there is a terminal."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import Any, TextIO

REFRESH_S = 0.1
BELOW = "\x1bD\x1b[1A\x1b7\x1bD\r\x1b[2K"
"""Make sure that there is a line below, remember the place, go there, clear it (ECMA-48, DEC)."""
BACK = "\x1b8"


class LiveLine:
    """One line below pytest's own progress, rewritten while a run lasts; silent without a terminal.

    The cursor always goes back to where pytest left it, so that its dots stay where they are.
    """

    def __init__(self, terminal: TextIO | None) -> None:
        """On this terminal; None: there is none."""
        self._out = None if "PYTEST_XDIST_WORKER" in os.environ else terminal
        self._title = ""
        self._steps: int | None = None
        self._shown_at = 0.0

    def start(self, title: str, steps: int | None) -> None:
        """A run begins; `steps` is how many it will take, if it takes steps."""
        self._title, self._steps, self._shown_at = title, steps, 0.0
        self._show("starting")

    def line(self, telemetry: Mapping[str, Any]) -> None:
        """One telemetry line of the run."""
        if telemetry.get("kind") == "step" and time.monotonic() - self._shown_at >= REFRESH_S:
            self._show(self._told(telemetry))

    def stop(self) -> None:
        """The run is over; the line is cleared."""
        self._write("")

    def _told(self, step: Mapping[str, Any]) -> str:
        index, wall_ms = int(step["step"]), step.get("wall_ms")
        parts = [f"step {index + 1}" + (f"/{self._steps}" if self._steps else "")]
        if isinstance(step.get("train_loss"), float):
            parts.append(f"loss {step['train_loss']:.3f}")
        if isinstance(wall_ms, int | float):
            parts.append(f"{wall_ms:.0f} ms a step")
            if self._steps:
                left = (self._steps - index - 1) * wall_ms / 1e3
                parts.append(f"{left:.0f} s left")
        return ", ".join(parts)

    def _show(self, text: str) -> None:
        self._shown_at = time.monotonic()
        if self._out is None:
            return
        room = os.get_terminal_size(self._out.fileno()).columns - len(text) - len(": ") - 1
        cut = len(self._title) > room
        title = f"{self._title[: max(0, room - 1)]}…" if cut else self._title
        self._write(f"{title}: {text}")

    def _write(self, text: str) -> None:
        if self._out is not None:
            self._out.write(f"{BELOW}{text}{BACK}")
            self._out.flush()
