"""A run's stimulus, a condition that the claim is about, carried out at its place."""

from __future__ import annotations

import math
import os
import signal
from collections.abc import Mapping
from typing import Any

from pytest_gates.model import checkpoint
from pytest_gates.model.epochs import Epochs
from pytest_gates.model.step import OptimizerStep
from pytest_gates.model.training import (
    DataEnd,
    FlippedBit,
    Kill,
    NonFinite,
    Stimulus,
    ValidationLoss,
)
from pytest_gates.model.writer import TelemetryWriter


class Stimuli:
    """What a run's stimulus, if it has any, does to one rank; each is said as it is applied."""

    def __init__(self, stimulus: Stimulus | None, rank: int, writer: TelemetryWriter) -> None:
        self._stimulus, self._rank, self._writer = stimulus, rank, writer

    def _say(self, step: int, **detail: Any) -> None:
        assert self._stimulus is not None
        said = {"stimulus": self._stimulus.kind, **detail}
        self._writer.event("stimulus_applied", step, **said)

    def before_step(self, step: int, inputs: OptimizerStep) -> None:
        """`nan`: the loss of the step will be NaN."""
        told = self._stimulus
        if inputs.poison is None or not isinstance(told, NonFinite) or told.rank != self._rank:
            return
        if step == told.step:
            inputs.poison.fill_(math.nan)
            self._say(step)
        elif step == told.step + 1:
            inputs.poison.fill_(1.0)

    def after_launch(self, step: int) -> None:
        """`kill`: this process ends here."""
        told = self._stimulus
        if isinstance(told, Kill) and told.rank == self._rank and step == told.step:
            self._say(step)
            os.kill(os.getpid(), signal.SIGKILL)

    def data_ended(self, step: int) -> None:
        """`data_end`: the data were cut before the training; here they end."""
        if isinstance(self._stimulus, DataEnd):
            self._say(step)

    def validation(self, epochs: Epochs, val_loss: float, step: int) -> float:
        """`val_loss`: a validation finds another loss than was measured."""
        found = epochs.found(val_loss)
        if isinstance(self._stimulus, ValidationLoss) and found != val_loss:
            self._say(step, measured=val_loss)
        return found

    def after_checkpoint(self, saved: Mapping[str, Any]) -> None:
        """`flipped_bit`: one bit of the weights is another, once they are written."""
        told = self._stimulus
        if isinstance(told, FlippedBit) and told.epoch == saved["epoch"]:
            weights = min(saved["files"], key=len)
            checkpoint.flip_a_bit(self._writer.folder / "checkpoints" / weights)
            self._say(saved["step"])
