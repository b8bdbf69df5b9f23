"""The channel to the process outside: it can hold a run at a step, and acknowledge what it saw."""

from __future__ import annotations

import time
from pathlib import Path

import torch

from pytest_gates.model.writer import TelemetryWriter

_POLL_S = 0.005
_SEEN_TIMEOUT_S = 2.0


class Control:
    """The control folder; without one, nothing ever holds or acknowledges."""

    def __init__(self, folder: str | None) -> None:
        self._folder = None if folder is None else Path(folder)

    @property
    def held(self) -> bool:
        """Whether a file `hold` is there: stop before the next step."""
        return self._folder is not None and (self._folder / "hold").exists()

    def wait_while_held(self) -> None:
        """Wait until the file `hold` is gone."""
        while self.held:
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
        while not (self._folder / f"seen-{index}").exists() and time.monotonic() < deadline:
            time.sleep(_POLL_S)
