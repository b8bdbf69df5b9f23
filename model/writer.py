"""The telemetry file of one rank: a JSON object a line, on disk as soon as it is said."""

from __future__ import annotations

import os
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pytest_gates.model.telemetry import EVENTS, encode_line


class TelemetryWriter:
    """Appends lines to `telemetry-<rank>.jsonl`; each is flushed, so that a kill loses none.

    Raises:
        OSError: the file cannot be made or the disk is full.
    """

    def __init__(self, out: Path, *, rank: int = 0, started_ns: int | None = None) -> None:
        """Make the file.

        Args:
            out: the run's folder, which exists.
            rank: rank of this process in the run.
            started_ns: `time.monotonic_ns()` at the start of the process; None: now.
        """
        self._started_ns = time.monotonic_ns() if started_ns is None else started_ns
        self.folder = out
        """The run's folder."""
        # Line buffering hands each finished line to the kernel: one write a step.
        self._file = (out / f"telemetry-{rank}.jsonl").open("x", buffering=1, encoding="utf-8")

    def step(self, **values: float | None) -> None:
        """Say the metrics of one optimizer step."""
        self._write({"kind": "step", **values})

    def epoch(self, **values: float | None) -> None:
        """Say the metrics of one validation."""
        self._write({"kind": "epoch", **values})

    def slot(self, *, layer: int, slot: str, **values: float | str | None) -> None:
        """Say the statistics of one slot of one layer; layer -1 lies outside the blocks."""
        self._write({"kind": "slot", "layer": layer, "slot": slot, **values})

    def parameter(self, *, step: int, layer: int, name: str, **values: float | None) -> None:
        """Say the statistics of one parameter at one step; layer -1 lies outside the blocks."""
        self._write({"kind": "parameter", "step": step, "layer": layer, "name": name, **values})

    def event(self, event: str, step: int | None = None, **detail: Any) -> None:
        """Say that something happened; `event` is one of `telemetry.EVENTS`.

        `at_ms` is added: milliseconds since the start of the process, the witness's time line.
        """
        assert event in EVENTS, f"{event} is no registered event"
        at_ms = (time.monotonic_ns() - self._started_ns) / 1e6
        self._write({"kind": "event", "event": event, "step": step, "at_ms": at_ms, **detail})

    def fact(self, name: str, value: Any) -> None:
        """Say something about the run as a whole; the last word on a name counts."""
        self._write({"kind": "fact", "name": name, "value": value})

    def property(self, *, name: str, examples: int, counterexample: dict[str, Any] | None) -> None:
        """Say the outcome of a search for a counterexample."""
        self._write(
            {
                "kind": "property",
                "name": name,
                "examples": examples,
                "counterexample": counterexample,
            }
        )

    def _write(self, record: dict[str, Any]) -> None:
        self._file.write(encode_line(record))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()


def process_start_ns() -> int:
    """`time.monotonic_ns()` at this process's start, to 10 ms; now, where /proc does not tell.

    proc_pid_stat(5): field 22 counts clock ticks since boot. A forked process started at its fork.
    """
    now = time.monotonic_ns()
    try:
        fields = Path("/proc/self/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        ticks = int(fields[19])  # the 22nd field, the 20th after the name
    except (OSError, ValueError, IndexError):
        return now
    age_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME) - ticks * 10**9 // os.sysconf("SC_CLK_TCK")
    return now - age_ns if age_ns >= 0 else now
