"""The live line: step, loss, milliseconds a step and time left, where there is a terminal."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping
from typing import Any, TextIO

REFRESH_S = 0.1
WIDTH = 100


class LiveLine:
    """Rewrites one line of the terminal while a run lasts; silent where there is none."""

    def __init__(self) -> None:
        # pytest captures the descriptor while an item runs, so a copy is made before.
        self._out: TextIO | None = None
        terminal = sys.__stderr__
        if terminal is not None and terminal.isatty() and "PYTEST_XDIST_WORKER" not in os.environ:
            self._out = os.fdopen(os.dup(terminal.fileno()), "w", encoding="utf-8")
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
        if self._out is not None:
            self._out.write("\r\x1b[2K")
            self._out.flush()

    def close(self) -> None:
        """Give the terminal back."""
        if self._out is not None:
            self._out.close()
            self._out = None

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
        if self._out is not None:
            self._shown_at = time.monotonic()
            self._out.write(f"\r\x1b[2K{self._title[:WIDTH]}: {text}")
            self._out.flush()
