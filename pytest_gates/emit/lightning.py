"""`Trainer(callbacks=[GatesCallback()])`: what Lightning's trainer does, as telemetry."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from pytest_gates.emit.emitter import Emitter, gradient_norm


def _lightning() -> Any:
    """The package that the program uses: Lightning is published under two names."""
    for name in ("lightning.pytorch", "pytorch_lightning"):
        if name in sys.modules:
            return sys.modules[name]
    try:
        return importlib.import_module("pytorch_lightning")
    except ModuleNotFoundError:
        return importlib.import_module("lightning.pytorch")


def tokens_of(batch: Any) -> int | None:
    """Tokens of a batch: `input_ids`, or its first tensor if that holds whole numbers."""
    if isinstance(batch, Mapping):
        batch = batch.get("input_ids")
    if isinstance(batch, list | tuple) and batch:
        batch = batch[0]
    whole = isinstance(batch, Tensor) and not batch.is_floating_point()
    return batch.numel() if whole else None


class GatesCallback(_lightning().Callback):  # type: ignore[misc] # one of two packages
    """Tells each optimizer step: the loss that `training_step` returned, and nothing waits for it.

    `val_loss` is told of a validation that logs one under that name.
    """

    def __init__(
        self, out: Path | None = None, tokens: Callable[[Any], int | None] = tokens_of
    ) -> None:
        """Tell into `out`, or into the folder of the run; `tokens` counts those of a batch."""
        super().__init__()
        self._out, self._count = out, tokens
        self._emitter: Emitter | None = None
        self._done = 0
        self._losses: list[Tensor] = []
        self._tokens: int | None = None
        self._lr: float | None = None
        self._norm: Tensor | None = None

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """The trainer is ready: begin to tell."""
        optimizer = trainer.optimizers[0] if trainer.optimizers else None
        self._done = trainer.global_step
        self._emitter = Emitter(pl_module, optimizer, out=self._out, first=self._done)

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        """Gradients are there, and not clipped yet."""
        if self._emitter is not None and self._emitter.active:
            self._norm = gradient_norm(pl_module)
            self._lr = float(optimizer.param_groups[0]["lr"])

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """A batch is done, and with it perhaps an optimizer step."""
        if self._emitter is None or not self._emitter.active:
            return
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
        if isinstance(loss, Tensor):
            self._losses.append(loss.detach())
        tokens = self._count(batch)
        if tokens is not None:
            self._tokens = (self._tokens or 0) + tokens
        if trainer.global_step == self._done:
            return
        self._done = trainer.global_step
        # Each is divided by the number of batches a step already, as Lightning hands it out.
        total = sum(self._losses) if self._losses else None
        self._emitter.step(
            total if isinstance(total, Tensor) else None,
            lr=self._lr,
            tokens=self._tokens,
            grad_norm=self._norm,
        )
        self._losses, self._tokens, self._norm = [], None, None

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        """A validation is done."""
        if self._emitter is None or trainer.sanity_checking:
            return
        loss = trainer.callback_metrics.get("val_loss")
        if loss is None:
            self._emitter.resume()
        else:
            self._emitter.epoch(float(loss))

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """The training came to its end."""
        if self._emitter is not None:
            self._emitter.end()
