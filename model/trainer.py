"""The built-in trainer: batch, forward, loss, backward, clip, schedule, optimizer, log.

The loop is asynchronous: step k is read once step k + 1 has been launched, so the device never
waits for the host, and the host is at most one step ahead. Only events are waited for.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import sdpa_kernel

from pytest_gates.model import checkpoint
from pytest_gates.model.account import say_optimizer, say_residency, say_state
from pytest_gates.model.anatomy import Anatomy
from pytest_gates.model.built import built, compute_dtype
from pytest_gates.model.census import parameter_sha256
from pytest_gates.model.clock import Clock, clock_for
from pytest_gates.model.config import PretrainRun, Request
from pytest_gates.model.control import Control
from pytest_gates.model.data import (
    Batches,
    Corpus,
    Windows,
    data_hash,
    open_corpus,
    position,
    refuse_beyond,
)
from pytest_gates.model.epochs import Epochs
from pytest_gates.model.parallel.group import ALONE, Group
from pytest_gates.model.resolved import configuration
from pytest_gates.model.seams import Seams
from pytest_gates.model.selfcheck import SelfCheck
from pytest_gates.model.statistics import Statistics
from pytest_gates.model.step import read
from pytest_gates.model.step_choice import step_for
from pytest_gates.model.stimuli import Stimuli
from pytest_gates.model.telemetry import RunRefusedError
from pytest_gates.model.training import DataEnd
from pytest_gates.model.transformer import attention_backend
from pytest_gates.model.writer import TelemetryWriter

_METADATA_NAMES = {"epoch_loss": "train_loss", "epoch_s": "wall_seconds"}
"""What the field calls an epoch's figures in a checkpoint's metadata."""


def run(
    request: Request,
    device: torch.device,
    writer: TelemetryWriter,
    seams: Seams,
    group: Group = ALONE,
) -> None:
    """Train as the request tells; a normal return is status COMPLETED.

    Raises:
        RunRefusedError: the data or a checkpoint cannot serve the run, or a guard ended it.
        OSError: a file cannot be read or written.
        torch.OutOfMemoryError: the device's memory ran out.
    """
    assert isinstance(request.run, PretrainRun)
    declared = seams.configuration(request.run)
    corpus = open_corpus(declared, Path(request.root), Path(request.cache))
    for name, value in corpus.facts.items():
        writer.fact(name, value)
    for name, value, origin in configuration(declared):
        writer.fact(f"config.{name}", value)
        writer.fact(f"config.{name}.from", origin)
    control = Control(request.control, group.rank)
    control.show_allocations(request.allocations_mib, device, writer)
    for name, value in group.facts(device).items():
        writer.fact(name, value)
    training = Training(declared, corpus, device, writer, seams=seams, control=control, group=group)
    if declared.resume is not None:
        assert request.resume_from is not None
        training.resume(Path(request.resume_from), declared.resume.epoch)
    training.carry_out()


@dataclass(frozen=True)
class Launched:
    """A step that was launched and not yet read."""

    step: int
    report: Tensor
    """See `step.read`; in host memory once `end` is reached."""
    data_hash: int
    since: Any
    """Mark of the end of the step before."""
    begin: Any
    end: Any
    memory: dict[str, float]
    marks: tuple[tuple[str, Any], ...]
    """Ends of the step's parts, of a step that is taken apart."""


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
        group: Group = ALONE,
    ) -> None:
        self._run, self._device, self._writer = run, device, writer
        self._seams, self._control, self._group = seams, control, group
        end = run.stimulus.step if isinstance(run.stimulus, DataEnd) else None
        self._batches = Batches(
            Windows(corpus.train, run.seq_len),
            batch_size=run.batch_size,
            vocab=run.architecture.vocab,
            seed=seams.seed(run.seed),
            end_step=end,
        )
        self._stimuli = Stimuli(run.stimulus, group.rank, writer)
        self._held_out = Windows(seams.validation(corpus), run.seq_len)
        self._position = position(run, corpus.facts)
        self._epochs = Epochs.of(run, self._batches.cycles_at)
        self._model = built(run, device, writer, seams)
        self._selfcheck = SelfCheck(
            run, Windows(corpus.validation, run.seq_len), self._model, writer
        )
        writer.fact("tokens_per_step", run.tokens_per_step)
        writer.fact("step_flops", run.step_flops)
        self._step = step_for(run, self._model, device, writer, seams=seams, group=group)
        self._trained = checkpoint.Trained(self._model, self._step.optimizer, device)
        say_optimizer(writer, self._step)
        writer.event("optimizer_built", optimizer="AdamW", fused=True)
        self._clock: Clock[Any] = clock_for(device)
        self._anatomy = Anatomy(run, self._clock, device)
        self._statistics = Statistics(run, self._model, writer)
        keeps = run.checkpoint == "epoch"
        kept = writer.folder / "checkpoints"
        self._checkpointer = group.checkpoints(kept, device, seams) if keeps else None
        # Two buffers each: step k + 2 may overwrite those of step k, which was read by then.
        pinned = device.type == "cuda"
        shape = self._step.tokens.shape
        self._dealt = [torch.zeros(shape, dtype=torch.int64, pin_memory=pinned) for _ in range(2)]
        size = 5 if run.deterministic else 4
        self._reports = [
            torch.zeros(size, dtype=torch.float64, pin_memory=pinned) for _ in range(2)
        ]
        self._first = 0
        self._steps_done = 0
        self._behind: Launched | None = None
        self._since: Any = None
        self._epoch_began = 0.0

    def resume(self, folder: Path, epoch: int | str) -> None:
        """Take up the state of another run's checkpoint; the checkpoint itself is only read.

        Raises:
            RunRefusedError: CONFIG_REFUSED, it is missing, damaged, foreign, or of another shape.
        """
        metadata, seams = checkpoint.find(folder, epoch), self._seams
        checkpoint.refuse(seams.config_match(checkpoint.elsewhere(metadata, self._position)))
        self._first = self._steps_done = metadata["step"] + 1
        beyond = None
        if self._first >= self._run.steps:
            beyond = (
                f"the checkpoint is at step {metadata['step']}, the run of {self._run.steps} steps "
                "has none left"
            )
        checkpoint.refuse(seams.config_match(beyond))
        hashes = checkpoint.verify(folder, metadata, seams)
        count = self._group.restore(folder, metadata, self._trained, seams)
        self._epochs.resume(metadata["epochs"])
        self._writer.fact("resumed_at_step", self._first)
        self._writer.fact("resumed_tensors", count)
        self._writer.fact("resumed_files", hashes)
        self._writer.fact("param_sha256_initial", parameter_sha256(self._model))
        self._writer.event("checkpoint_loaded", metadata["step"], epoch=metadata["epoch"])

    def carry_out(self) -> None:
        """Train, validate, and say what became of the state, also where a guard ends the run."""
        dtype = compute_dtype(self._run.dtype, self._device)
        backend = self._seams.attention(
            attention_backend(self._run.architecture, self._device, dtype)
        )
        self._writer.fact("attention_backend", self._step.attention or backend.name)
        try:
            with sdpa_kernel(backend), self._anatomy:
                self._loop()
        except RunRefusedError:
            self._say_end()
            raise
        self._say_end()

    def _loop(self) -> None:
        self._writer.event("training_started")
        self._since = self._clock.mark()
        self._epoch_began = time.monotonic()
        for step in range(self._first, self._run.steps):
            self._halt_where_data_end(step)
            self._wait_while_held(step)
            self._seams.before_step(step)
            launched = self._launch(step)
            self._read_behind()
            self._behind = launched
            if step == self._first:
                self._say_first_step(launched)
            self._seams.after_step(step)
            self._stimuli.after_launch(step)
            if self._epochs.ends_after(step):
                self._read_behind()
                if not self._finish_epoch(step):
                    break
                self._since = self._clock.mark()
        self._read_behind()

    def _launch(self, step: int) -> Launched:
        run, inputs = self._run, self._step
        dealt, report = self._dealt[step % 2], self._reports[step % 2]
        batch = self._group.shard(self._seams.batch(step, self._batches.batch(step)))
        dealt.copy_(torch.from_numpy(batch))
        if step == self._batches.cycles_at:
            self._writer.event("data_cycled", step, tokens=self._batches.tokens_per_pass)
        inputs.mark = self._anatomy.begin(step)
        self._group.begin(step, self._clock)
        begin = self._clock.mark()
        inputs.tokens.copy_(dealt, non_blocking=True)
        inputs.lr.fill_(self._seams.learning_rate(step, run.steps, run.optimizer))
        self._stimuli.before_step(step, inputs)
        inputs.mark("data")
        with self._statistics.of(step):
            report.copy_(self._seams.compute(step, inputs), non_blocking=True)
        end = self._clock.mark()
        launched = Launched(
            step, report, data_hash(batch), self._since, begin, end, self._clock.memory(),
            self._anatomy.end(),
        )  # fmt: skip
        self._since = end
        return launched

    def _read_behind(self) -> None:
        """Wait for the step that was launched before the last, say its line, and heed its flag."""
        if self._behind is None:
            return
        done, self._behind = self._behind, None
        self._clock.wait(done.end)
        said = read(done.report)
        wall_ms = self._clock.wall_ms(done.since, done.end)
        per_step = self._run.tokens_per_step
        line = {
            "step": done.step,
            "train_loss": said.loss,
            "grad_norm": said.grad_norm,
            "lr": said.lr,
            "tokens": (done.step + 1) * per_step,
            "tokens_per_sec": per_step / wall_ms * 1000,
            "gpu_util_pct": self._clock.utilisation_pct(),
            "wall_ms": wall_ms,
            "gpu_ms": self._clock.gpu_ms(done.begin, done.end),
            "data_hash": done.data_hash,
            **({} if said.param_hash is None else {"param_hash": said.param_hash}),
            **self._statistics.clipped_norm(done.step),
            **self._anatomy.parts(done.since, done.begin, done.marks),
            **self._group.told(done.step, done.since, wall_ms),
            **done.memory,
        }
        self._writer.step(**self._seams.tell_step(line))
        if said.unstable:
            self._writer.event("non_finite", done.step)
            raise RunRefusedError(
                "NUMERICAL_INSTABILITY",
                f"step {done.step}: loss {said.loss}, gradient norm {said.grad_norm}; "
                "the parameters are those before it",
            )
        self._steps_done = done.step + 1
        self._epochs.saw(said.loss, said.grad_norm)

    def _finish_epoch(self, step: int) -> bool:
        """Validate, guard against divergence, keep a checkpoint; whether the run goes on."""
        if self._run.validation_batches == 0:
            return True
        epochs, number = self._epochs, self._epochs.number
        measured, tokens = self._validated()
        val_loss = self._selfcheck.validated(self._seams.validation_loss(measured))
        found = self._stimuli.validation(epochs, val_loss, step)
        seconds = time.monotonic() - self._epoch_began
        summary = epochs.summary(found, step) | {"epoch_s": seconds}
        self._writer.epoch(**summary, val_tokens=tokens)
        diverged = self._seams.divergence(epochs.divergence(found))
        if diverged is not None:
            self._writer.event("diverged", step, epoch=number, reason=diverged)
            raise RunRefusedError("DIVERGENCE", diverged)
        epochs.close(found)
        self._keep_checkpoint(summary)
        self._epoch_began = time.monotonic()
        if epochs.reaches_target():
            self._writer.event("target_reached", step, epoch=number)
        stop = epochs.patience_exhausted()
        if stop is not None:
            self._writer.event("stopped_early", step, epoch=number, reason=stop)
        return stop is None

    @torch.no_grad()
    def _validated(self) -> tuple[float, int]:
        """Mean loss of the first windows of the held-out split, and their tokens.

        The time is in no step's.
        """
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
        return total / count, count * self._run.seq_len

    def _keep_checkpoint(self, summary: Mapping[str, Any]) -> None:
        if self._checkpointer is None:
            return
        metadata = {
            **{_METADATA_NAMES.get(key, key): value for key, value in summary.items()},
            "epochs": self._epochs.state(),
            "position": self._position,
        }
        self._say_saved(self._checkpointer.save(self._trained, metadata))

    def _say_saved(self, finished: Iterable[Mapping[str, Any]]) -> None:
        for saved in finished:
            self._writer.event(
                "checkpoint_saved", saved["step"], epoch=saved["epoch"], files=saved["files"]
            )
            self._stimuli.after_checkpoint(saved)

    def _halt_where_data_end(self, step: int) -> None:
        if step < self._batches.cycles_at:
            return
        if step == self._batches.cycles_at:
            self._stimuli.data_ended(step)
        if self._seams.halt(self._run.on_data_end == "halt"):
            self._read_behind()
            tokens = self._batches.tokens_per_pass
            self._writer.event("data_ended", step, tokens=tokens)
            raise RunRefusedError(
                "STREAM_EXHAUSTED", f"the data ended after {step} steps and {tokens} tokens"
            )

    def _wait_while_held(self, step: int) -> None:
        if self._control.held(step):
            self._read_behind()
            self._writer.event("held", step)
            self._control.wait_while_held(step)
            self._since = self._clock.mark()

    def _say_first_step(self, first: Launched) -> None:
        self._clock.wait(first.end)
        self._writer.event("first_step_done", first.step)
        self._selfcheck.say_clipping(self._step.clipped_norm(), read(first.report).grad_norm)
        say_residency(self._writer, self._model, self._step, "before")
        if self._run.deterministic:
            self._read_behind()
            self._writer.fact("param_sha256_first", parameter_sha256(self._model))
            self._since = self._clock.mark()

    def _say_end(self) -> None:
        if self._checkpointer is not None:
            begun = time.perf_counter()
            self._say_saved(self._checkpointer.wait())
            self._writer.fact("checkpoint_blocked_ms", self._checkpointer.blocked_s * 1000)
            self._writer.fact("checkpoint_last_ms", (time.perf_counter() - begun) * 1000)
        say_state(self._writer, self._model, self._step)
        self._writer.fact("data_sha256", self._batches.sha256)
        self._writer.fact("tokens", self._steps_done * self._run.tokens_per_step)
        self._writer.fact("peak_mib", self._clock.peak_mib())
        self._anatomy.say(self._writer)
        self._selfcheck.say()
