"""What a training run says of its own arithmetic, held against the rules written a second time."""

from __future__ import annotations

from torch import nn

from pytest_gates.model.census import whole
from pytest_gates.model.config import PretrainRun
from pytest_gates.model.data import Windows
from pytest_gates.model.reference import clip_error, reference_loss, relative_error
from pytest_gates.model.writer import TelemetryWriter


class SelfCheck:
    """Facts `clip_error`, `reference_val_loss` and `validation_error` of one run.

    The windows are those that the run declares to hold out, whatever its validation read.
    """

    def __init__(
        self, run: PretrainRun, declared_out: Windows, model: nn.Module, writer: TelemetryWriter
    ) -> None:
        self._run, self._declared_out = run, declared_out
        self._model, self._writer = model, writer
        self._told: float | None = None

    def say_clipping(self, clipped_norm: float, told_norm: float) -> None:
        """After a step: are its gradients clipped as its norm says?"""
        largest = float(self._run.optimizer.clip)
        self._writer.fact("clip_error", clip_error(clipped_norm, told_norm, largest))

    def validated(self, told: float) -> float:
        """Keep what a validation told, for `say`."""
        self._told = told
        return told

    def say(self) -> None:
        """Hold the last validation against the reference."""
        if self._told is None:
            return
        count = self._run.validation_batches * self._run.batch_size
        windows = self._declared_out.read(range(min(count, self._declared_out.count)))
        weights = {
            name: whole(p) for name, p in self._model.named_parameters(remove_duplicate=False)
        }
        loss = reference_loss(self._run.architecture, weights, windows)
        self._writer.fact("reference_val_loss", loss)
        self._writer.fact("validation_error", relative_error(self._told, loss))
