"""The channel to the process outside: it can hold a run at a step, and acknowledge what it saw."""

from __future__ import annotations

import time
from pathlib import Path

import torch

from pytest_gates.model.control_files import seen_file
from pytest_gates.model.writer import TelemetryWriter

_POLL_S = 0.005
_SEEN_TIMEOUT_S = 2.0


class Control:
    """The control folder; without one, nothing ever holds or acknowledges."""

    def __init__(self, folder: str | None, rank: int = 0) -> None:
        self._folder, self._rank = None if folder is None else Path(folder), rank

    def held(self, step: int) -> bool:
        """Whether the run must stop before `step`.

        A file `hold` says so: at once if it is empty, else before the step that it names.
        """
        if self._folder is None:
            return False
        try:
            told = (self._folder / "hold").read_text(encoding="utf-8")
        except FileNotFoundError:
            return False
        return not told or step >= int(told)

    def wait_while_held(self, step: int) -> None:
        """Wait until the run may go on with `step`."""
        while self.held(step):
            time.sleep(_POLL_S)

    def show_allocations(
        self, sizes_mib: tuple[int, ...], device: torch.device, writer: TelemetryWriter
    ) -> None:
        """Hold each told size on the device until the witness has seen it, at most 2 s (L3b)."""
        for index, mib in enumerate(sizes_mib):
            held = torch.empty(mib * 2**20, dtype=torch.uint8, device=device)
            writer.event("memory_held", index=index, mib=mib)
            self._wait_seen(index)
            del held
            if device.type == "cuda":
                torch.cuda.empty_cache()

    def _wait_seen(self, index: int) -> None:
        if self._folder is None:
            return
        deadline = time.monotonic() + _SEEN_TIMEOUT_S
        seen = self._folder / seen_file(index, self._rank)
        while not seen.exists() and time.monotonic() < deadline:
            time.sleep(_POLL_S)
