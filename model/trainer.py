"""The built-in trainer: batch, forward, loss, backward, clip, schedule, optimizer, log.

The loop is asynchronous: step k is read once step k + 1 has been launched, so the device never
waits for the host, and the host is at most one step ahead. Only events are waited for.
"""

from __future__ import annotations

import math
import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import sdpa_kernel

from pytest_gates.model.built import built, compute_dtype
from pytest_gates.model.census import devices, parameter_sha256, residency
from pytest_gates.model.clock import Clock, clock_for
from pytest_gates.model.config import Kill, NonFinite, PretrainRun, Request
from pytest_gates.model.control import Control
from pytest_gates.model.data import Batches, Corpus, Windows, open_corpus, refuse_beyond
from pytest_gates.model.optimizer import build_optimizer
from pytest_gates.model.schedule import learning_rate
from pytest_gates.model.seams import Seams
from pytest_gates.model.transformer import Transformer, attention_backend
from pytest_gates.model.writer import TelemetryWriter


def run(request: Request, device: torch.device, writer: TelemetryWriter, seams: Seams) -> None:
    """Train as the request tells; a normal return is status COMPLETED.

    Raises:
        RunRefusedError: the data cannot serve the run.
        OSError: a file cannot be read or written.
        torch.OutOfMemoryError: the device's memory ran out.
    """
    assert isinstance(request.run, PretrainRun)
    corpus = open_corpus(request.run, Path(request.root), Path(request.cache))
    for name, value in corpus.facts.items():
        writer.fact(name, value)
    control = Control(request.control)
    control.show_allocations(request.allocations_mib, device, writer)
    Training(request.run, corpus, device, writer, seams=seams, control=control).carry_out()


class Step:
    """One optimizer step as a function over static tensors, so that it can be captured in a graph.

    `tokens` (B (T + 1)), `lr` and `poison` are inputs, written before a launch; the result is a
    tensor of three on the device: loss, gradient norm before clipping, learning rate.
    """

    def __init__(self, run: PretrainRun, model: Transformer, device: torch.device) -> None:
        self.tokens = torch.zeros(run.batch_size, run.seq_len + 1, dtype=torch.int64, device=device)
        self.lr = torch.zeros((), device=device)
        # Only a run that declares the stimulus has a factor on its loss, and so on its gradients.
        poisoned = isinstance(run.stimulus, NonFinite)
        self.poison = torch.ones((), device=device) if poisoned else None
        self.optimizer = build_optimizer(model, run.optimizer, self.lr)
        self._model = model
        self._clip = float(run.optimizer.clip)
        self._dtype = compute_dtype(run.dtype, device)

    def loss(self, tokens: Tensor) -> Tensor:
        """Mean cross-entropy of B (T + 1) tokens in nats."""
        low = self._dtype != torch.float32
        with torch.autocast(tokens.device.type, self._dtype, enabled=low):
            logits = self._model(tokens[:, :-1])  # B T V
            return F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())

    def __call__(self) -> Tensor:
        """Forward, loss, backward, clip, update; nothing here waits for the device."""
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.loss(self.tokens)
        if self.poison is not None:
            loss = loss * self.poison
        loss.backward()  # type: ignore[no-untyped-call] # torch's own
        norm = torch.nn.utils.clip_grad_norm_(self._model.parameters(), self._clip, foreach=True)
        self.optimizer.step()
        return torch.stack((loss.detach(), norm, self.lr))


@dataclass(frozen=True)
class Launched:
    """A step that was launched and not yet read."""

    step: int
    report: Tensor
    """Loss, gradient norm and learning rate, in host memory once `end` is reached."""
    since: Any
    """Mark of the end of the step before."""
    begin: Any
    end: Any
    memory: dict[str, float]


class Training:
    """The state of one training run, and its loop."""

    def __init__(
        self,
        run: PretrainRun,
        corpus: Corpus,
        device: torch.device,
        writer: TelemetryWriter,
        *,
        seams: Seams,
        control: Control,
    ) -> None:
        self._run, self._device, self._writer = run, device, writer
        self._seams, self._control = seams, control
        self._batches = Batches(
            Windows(corpus.train, run.seq_len),
            batch_size=run.batch_size,
            vocab=run.architecture.vocab,
            seed=run.seed,
        )
        self._held_out = Windows(corpus.validation, run.seq_len)
        self._model = built(run, device, writer)
        writer.fact("tokens_per_step", run.tokens_per_step)
        writer.fact("step_flops", run.step_flops)
        self._step = Step(run, self._model, device)
        writer.event("optimizer_built", optimizer="AdamW", fused=True)
        self._clock: Clock[Any] = clock_for(device)
        # Two buffers each: step k + 2 may overwrite those of step k, which was read by then.
        pinned = device.type == "cuda"
        shape = self._step.tokens.shape
        self._dealt = [torch.zeros(shape, dtype=torch.int64, pin_memory=pinned) for _ in range(2)]
        self._reports = [torch.zeros(3, pin_memory=pinned) for _ in range(2)]
        self._behind: Launched | None = None
        self._since: Any = None
        self._epoch = 0
        self._saw_non_finite = False

    def carry_out(self) -> None:
        """Train, validate, and say what became of the state."""
        backend = attention_backend(
            self._run.architecture, self._device, compute_dtype(self._run.dtype, self._device)
        )
        self._writer.fact("attention_backend", backend.name)
        with sdpa_kernel(backend):
            self._loop()
        self._say_end()

    def _loop(self) -> None:
        self._writer.event("training_started")
        self._since = self._clock.mark()
        for step in range(self._run.steps):
            self._wait_while_held()
            self._seams.before_step(step)
            launched = self._launch(step)
            self._read_behind()
            self._behind = launched
            if step == 0:
                self._say_residency("before")
            self._kill_if_told(step)
            if self._validates_after(step):
                self._read_behind()
                self._validate(step)
                self._since = self._clock.mark()
        self._read_behind()

    def _launch(self, step: int) -> Launched:
        run, inputs = self._run, self._step
        dealt, report = self._dealt[step % 2], self._reports[step % 2]
        dealt.copy_(torch.from_numpy(self._batches.batch(step)))
        if step == self._batches.cycles_at:
            self._writer.event("data_cycled", step, tokens=self._batches.tokens_per_pass)
        begin = self._clock.mark()
        inputs.tokens.copy_(dealt, non_blocking=True)
        inputs.lr.fill_(learning_rate(step, run.steps, run.optimizer))
        self._poison_if_told(step)
        report.copy_(inputs(), non_blocking=True)
        end = self._clock.mark()
        launched = Launched(step, report, self._since, begin, end, self._clock.memory())
        self._since = end
        return launched

    def _read_behind(self) -> None:
        """Wait for the step that was launched before the last, and say its line."""
        if self._behind is None:
            return
        done, self._behind = self._behind, None
        self._clock.wait(done.end)
        loss, norm, lr = done.report.tolist()
        wall_ms = self._clock.wall_ms(done.since, done.end)
        per_step = self._run.tokens_per_step
        self._writer.step(
            step=done.step,
            train_loss=loss,
            grad_norm=norm,
            lr=lr,
            tokens=(done.step + 1) * per_step,
            tokens_per_sec=per_step / wall_ms * 1000,
            gpu_util_pct=self._clock.utilisation_pct(),
            wall_ms=wall_ms,
            gpu_ms=self._clock.gpu_ms(done.begin, done.end),
            **done.memory,
        )
        if not self._saw_non_finite and not (math.isfinite(loss) and math.isfinite(norm)):
            self._saw_non_finite = True
            self._writer.event("non_finite", done.step)

    def _validates_after(self, step: int) -> bool:
        if self._run.validation_batches == 0:
            return False
        every = self._run.validate_every
        return step == self._run.steps - 1 or (every > 0 and (step + 1) % every == 0)

    @torch.no_grad()
    def _validate(self, step: int) -> None:
        """Mean loss of the first windows of the held-out split; the time is in no step's."""
        size = self._run.batch_size
        count = min(self._run.validation_batches * size, self._held_out.count)
        self._model.eval()
        total = 0.0
        for start in range(0, count, size):
            windows = self._held_out.read(range(start, min(start + size, count)))
            refuse_beyond(windows, self._run.architecture.vocab, "the validation split")
            loss = self._step.loss(torch.from_numpy(windows).to(self._device))
            total += loss.item() * len(windows)
        self._model.train()
        self._writer.epoch(
            epoch=self._epoch,
            step=step,
            val_loss=total / count,
            val_tokens=count * self._run.seq_len,
        )
        self._epoch += 1

    def _wait_while_held(self) -> None:
        if self._control.held:
            self._read_behind()
            self._control.wait_while_held()
            self._since = self._clock.mark()

    def _poison_if_told(self, step: int) -> None:
        stimulus = self._run.stimulus
        if self._step.poison is None or not isinstance(stimulus, NonFinite):
            return
        if step == stimulus.step:
            self._step.poison.fill_(math.nan)
            self._writer.event("stimulus_applied", step, stimulus="nan")
        elif step == stimulus.step + 1:
            self._step.poison.fill_(1.0)

    def _kill_if_told(self, step: int) -> None:
        stimulus = self._run.stimulus
        if isinstance(stimulus, Kill) and step == stimulus.step:
            self._writer.event("stimulus_applied", step, stimulus="kill")
            os.kill(os.getpid(), signal.SIGKILL)

    def _say_residency(self, when: str) -> None:
        found = residency(self._model, self._step.optimizer)
        self._writer.fact(f"residency_{when}", found)
        self._writer.fact("parameter_device", devices(found["parameters"]))
        self._writer.fact("gradient_device", devices(found["gradients"]))
        self._writer.fact("optimizer_device", devices(found["optimizer"]))

    def _say_end(self) -> None:
        self._say_residency("after")
        self._writer.fact("param_sha256", parameter_sha256(self._model))
        self._writer.fact("data_sha256", self._batches.sha256)
        self._writer.fact("tokens", self._run.steps * self._run.tokens_per_step)
        self._writer.fact("peak_mib", self._clock.peak_mib())
