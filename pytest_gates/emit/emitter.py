"""Published telemetry out of somebody else's loop: no sync a step, the host one step behind.

A step's end is a mark on the device's own time line. Loss and gradient norm are copied to pinned
memory behind it and read when the next step has been launched, as the built-in trainer does.
"""

from __future__ import annotations

import os
import platform
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pytest_gates.model.census import Residency, devices, gradients_of, residency
from pytest_gates.model.clock import Clock, clock_for
from pytest_gates.model.resolve import device_uuid
from pytest_gates.model.writer import TelemetryWriter, process_start_ns

OUT = "PYTEST_GATES_OUT"
"""Names the folder of a run; set by driver `command`."""

Told = Tensor | float | None
_FROM_DEVICE = ("train_loss", "grad_norm", "clipped_norm")


@dataclass
class _Launched:
    """A step whose end the device may not have reached yet."""

    line: dict[str, float | None]
    tokens: int | None
    since: Any
    end: Any
    numbers: Tensor
    """In host memory once `end` is reached, in the order of `waiting`."""
    waiting: tuple[str, ...]
    """Metrics that come from the device."""


class Emitter:
    """Writes the telemetry of one training; switched off where no run asked for it."""

    def __init__(
        self, model: nn.Module, optimizer: Any = None, *, out: Path | None = None, first: int = 0
    ) -> None:
        """Begin to tell; what comes next is the first step.

        Args:
            model: what is trained; where it lies is where the steps are timed.
            optimizer: whose state is told to lie somewhere; anything with a `state`.
            out: folder for the telemetry; None: that of the run, and without one nothing is told.
            first: number of the first step, of a training that continues another one.
        """
        folder = out or (Path(os.environ[OUT]) if os.environ.get(OUT) else None)
        self._model, self._optimizer = model, optimizer
        self._step, self._tokens = first, 0
        self._behind: _Launched | None = None
        self._placed = False
        self._epochs = 0
        self._writer: TelemetryWriter | None = None
        if folder is None:
            return
        rank = int(os.environ.get("RANK", "0"))
        try:
            self._writer = TelemetryWriter(folder, rank=rank, started_ns=process_start_ns())
        except FileExistsError:
            warnings.warn(
                "pytest-gates: a run tells one training, this is another one; it is not told",
                stacklevel=3,
            )
            return
        self._device = next((one.device for one in model.parameters()), torch.device("cpu"))
        self._clock: Clock[Any] = clock_for(self._device)
        # Step k + 2 may overwrite what step k told, which was read by then.
        self._buffers = [
            torch.zeros(
                len(_FROM_DEVICE), dtype=torch.float64, pin_memory=self._device.type == "cuda"
            )
            for _ in range(2)
        ]
        self._introduce(self._writer, first)
        self._since = self._clock.mark()

    @property
    def active(self) -> bool:
        """Whether anything is told."""
        return self._writer is not None

    def step(
        self,
        loss: Told,
        *,
        lr: float | None = None,
        tokens: int | None = None,
        grad_norm: Told = None,
        clipped_norm: Told = None,
    ) -> None:
        """A step was launched: to be called right behind `optimizer.step()`.

        Args:
            loss: mean cross-entropy of the step's batch, in nats; a tensor is not waited for.
            lr: learning rate that the step used.
            tokens: tokens that it read.
            grad_norm: global gradient norm before clipping.
            clipped_norm: the same after clipping.
        """
        if self._writer is None:
            return
        said = dict(zip(_FROM_DEVICE, (loss, grad_norm, clipped_norm), strict=True))
        numbers = self._buffers[self._step % 2]
        waiting = [name for name, value in said.items() if isinstance(value, Tensor)]
        for place, name in enumerate(waiting):
            value = said[name]
            assert isinstance(value, Tensor)
            numbers[place].copy_(value.detach(), non_blocking=True)
        line = {name: None if isinstance(value, Tensor) else value for name, value in said.items()}
        if clipped_norm is None:
            del line["clipped_norm"]
        end = self._clock.mark()
        line |= {"step": self._step, "lr": lr, **self._clock.memory()}
        self.flush()
        self._behind = _Launched(line, tokens, self._since, end, numbers, tuple(waiting))
        self._since = end
        self._step += 1
        if not self._placed and self._optimizer is not None:
            # Its state was made by the step that was just launched.
            found = self._residency()
            self._writer.fact("residency_before", found)
            self._writer.fact("parameter_device", devices(found["parameters"]))
            self._writer.fact("optimizer_device", devices(found["optimizer"]))
            self._placed = True

    def amend(self, step: int, **values: float) -> None:
        """Say more of the step that was launched last, before the next one is."""
        if self._behind is not None and self._behind.line["step"] == step:
            self._behind.line.update(values)

    def epoch(self, val_loss: float, **values: float) -> None:
        """A validation is done; its time is in no step's."""
        if self._writer is None:
            return
        self.flush()
        self._writer.epoch(epoch=self._epochs, step=self._step, val_loss=val_loss, **values)
        self._epochs += 1
        self.resume()

    def resume(self) -> None:
        """What was done since the last step (a validation, a checkpoint) is in no step's time."""
        if self._writer is not None:
            self.flush()
            self._since = self._clock.mark()

    def flush(self) -> None:
        """Wait for the end of the step that was launched last, and say its line."""
        if self._behind is None or self._writer is None:
            return
        done, self._behind = self._behind, None
        self._clock.wait(done.end)
        wall_ms = self._clock.wall_ms(done.since, done.end)
        line = done.line
        line |= {name: float(done.numbers[place]) for place, name in enumerate(done.waiting)
                 if line.get(name) is None}  # fmt: skip
        if done.tokens is not None:
            self._tokens += done.tokens
            line |= {"tokens": self._tokens, "tokens_per_sec": done.tokens / wall_ms * 1000}
        line |= {
            "wall_ms": wall_ms,
            "gpu_ms": self._clock.gpu_ms(done.since, done.end),
            "gpu_util_pct": self._clock.utilisation_pct(),
        }
        self._writer.step(**{"tokens": None, "tokens_per_sec": None} | line)

    def end(self) -> None:
        """The training came to its own end: say what became of it."""
        if self._writer is None:
            return
        self.flush()
        if self._optimizer is not None:
            self._writer.fact("residency_after", self._residency())
        self._writer.fact("peak_mib", self._clock.peak_mib())
        self._writer.event("run_finished")
        self.close()

    def _residency(self) -> Residency:
        gradients = gradients_of(self._model)
        return residency(self._model, self._optimizer, gradients, counters=False)

    def close(self) -> None:
        """Tell no more."""
        if self._writer is not None:
            self._writer.__exit__(None, None, None)
            self._writer = None

    def _introduce(self, writer: TelemetryWriter, first: int) -> None:
        writer.event("run_started", driver="command", pid=os.getpid())
        requested = os.environ.get("PYTEST_GATES_DEVICE")
        uuid, uuids = device_uuid(self._device), os.environ.get("PYTEST_GATES_DEVICE_UUID", "")
        own = uuids.split(",")
        if len(own) > 1:  # a GPU a rank
            local = int(os.environ.get("LOCAL_RANK", "0"))
            requested, own = f"cuda:{local}", own[local : local + 1]
        given = uuid in own
        if requested is not None:
            writer.fact("device_requested", requested)
        # A program sees the one GPU it was given as cuda:0, whichever the run calls it.
        writer.fact("device_resolved", requested if given else str(self._device))
        writer.fact("device_uuid", uuid)
        writer.fact("python", platform.python_version())
        writer.fact("torch", str(torch.__version__))
        writer.fact("cuda_built", torch.version.cuda)
        writer.fact("threads", torch.get_num_threads())
        writer.fact("parameters", sum(one.numel() for one in self._model.parameters()))
        writer.event("model_built")
        if first:
            writer.fact("resumed_at_step", first)
        writer.event("training_started")


def gradient_norm(model: nn.Module) -> Tensor | None:
    """Global norm of the gradients as they are now; asks no device to wait."""
    gradients = [one.grad for one in model.parameters() if one.grad is not None]
    if not gradients:
        return None
    return torch.nn.utils.get_total_norm(gradients)


@contextmanager
def emitting(emitter: Emitter) -> Iterator[Emitter]:
    """End an emitter with its training: at its own end, or closed by whatever ended that."""
    try:
        yield emitter
        emitter.end()
    finally:
        emitter.close()
