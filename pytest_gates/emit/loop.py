"""A plain loop: `with training(model, optimizer) as told: ...; told.step(loss)`."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from torch import nn

from pytest_gates.emit.emitter import Emitter, emitting


def training(
    model: nn.Module, optimizer: Any = None, *, out: Path | None = None, first: int = 0
) -> AbstractContextManager[Emitter]:
    """The telemetry of a loop; see `Emitter`. Call its `step` right behind `optimizer.step()`."""
    return emitting(Emitter(model, optimizer, out=out, first=first))
