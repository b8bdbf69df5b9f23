"""`pretrain`: what a training run declares, and what of it does not go together."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Annotated, Literal, Self

from pydantic import Field, StrictInt, WithJsonSchema, model_validator

from pytest_gates.model.architecture import Architecture, Data, tokenizer_vocab
from pytest_gates.model.declared import Modelled, ModelName, architecture_of
from pytest_gates.model.launch import Launch, Parallel
from pytest_gates.model.misfit import MisfitError
from pytest_gates.model.settings import Count, Index, Positive, Settings
from pytest_gates.model.training import (
    FINETUNE_CAP,
    REGIMES,
    EarlyStopping,
    FlippedBit,
    Kill,
    NonFinite,
    Optimizer,
    Regime,
    Stimulus,
    ValidationLoss,
    with_regime,
)


class Resume(Settings):
    """Continue another run of the contract from one of its checkpoints."""

    run: Annotated[PretrainRun, WithJsonSchema({"type": "string"})]
    """The run that is continued; in a contract its name."""
    epoch: Index | Literal["last"] = "last"
    """The epoch whose checkpoint is read; `last` is the last that run finished."""


class PretrainRun(Modelled):
    """A training run of the built-in trainer."""

    driver: Literal["pretrain"]
    model: ModelName
    """A preset's name, or an architecture block."""
    data: Data
    """What it trains on."""
    seq_len: Count
    """Tokens a sequence."""
    batch_size: Count
    """Sequences a step."""
    steps: Count
    """Optimizer steps."""
    optimizer: Optimizer = Optimizer()
    """Optimizer and schedule."""
    micro_batches: Count | tuple[Count, ...] = 1
    """Gradient accumulation: how many equal parts a batch has, or the sequences of each part."""
    epochs: Count | None = None
    """Most epochs; the steps must be reached within them."""
    validate_every: Index = 0
    """Steps of an epoch, which ends with a validation; 0: a pass over the data if `epochs` is
    given, else the whole run."""
    validation_batches: Index = 4
    """Batches a validation reads; 0 switches validation off."""
    early_stopping: EarlyStopping | None = None
    """When the run ends for want of progress."""
    regime: Annotated[
        Regime | None,
        WithJsonSchema({"anyOf": [{"type": "string", "enum": list(REGIMES)}, {"type": "null"}]}),
    ] = None
    """`finetune` or `from_scratch`: sets learning rate, warm-up and target together."""
    target_val_loss: Positive | None = None
    """Validation loss at which the run has reached its target."""
    on_data_end: Literal["cycle", "halt"] = "cycle"
    """When every window has been read: begin again in another order, or end the run."""
    checkpoint: Literal["never", "epoch"] = "never"
    """Whether each finished epoch is kept."""
    resume: Resume | None = None
    """The checkpoint of another run to continue from."""
    statistics: tuple[Index, ...] = ()
    """Steps of which every parameter's statistics are told."""
    anatomy: Annotated[StrictInt, Field(ge=0, le=1000)] = 0
    """Steps, the run's last ones, that are taken apart: a time for each part, and each kernel."""
    stimulus: Stimulus | None = None
    """A condition that the claim itself is about."""
    execution: Literal["auto", "eager"] = "auto"
    """`auto`: hand-fused kernels in one CUDA graph where the run fits them; `eager`: never."""
    launch: Launch | None = None
    """Processes that train together; left out: one, started without a launcher."""
    parallel: Parallel = "ddp"
    """Under `launch`: `ddp`, every rank holds the whole state; `fsdp`, each holds a shard of it."""

    @model_validator(mode="before")
    @classmethod
    def _regime(cls, declared: object) -> object:
        return with_regime(declared) if isinstance(declared, dict) else declared

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if not self.data.shards:
            ids = tokenizer_vocab(self.data.tokenizer)
            if ids > self.architecture.vocab:
                raise MisfitError(
                    f"tokenizer {self.data.tokenizer} has {ids} ids, "
                    f"the model's vocabulary only {self.architecture.vocab}",
                    "data", "tokenizer",
                )  # fmt: skip
        if self.optimizer.warmup_steps > self.steps:
            raise MisfitError(
                f"warm-up of {self.optimizer.warmup_steps} steps is longer than "
                f"the run of {self.steps}; shorten `optimizer: {{warmup_steps: ...}}`",
                "steps",
            )
        if self.epochs is not None and 0 < self.epochs * self.validate_every < self.steps:
            raise MisfitError(
                f"{self.epochs} epochs of {self.validate_every} steps reach "
                f"{self.epochs * self.validate_every} steps, the run asks for {self.steps}",
                "epochs",
            )
        for path, text in (*self._undivided(), *self._unreachable(), *self._unlaunched()):
            raise MisfitError(text, *path)
        return self

    def _unlaunched(self) -> Iterator[tuple[tuple[str, ...], str]]:
        """What does not go together with the processes of the run, or with their absence."""
        stimulus, launch = self.stimulus, self.launch
        if isinstance(stimulus, Kill | NonFinite) and stimulus.rank >= self.ranks:
            yield ("stimulus", "rank"), f"rank {stimulus.rank} is none of the run's {self.ranks}"
        if launch is None:
            if self.parallel != "ddp":
                yield ("parallel",), f"parallel {self.parallel} needs `launch: {{processes: N}}`"
            return
        refusal = launch.device_refusal(self.device)
        if refusal is not None:
            yield ("device",), refusal
        if self.statistics or self.anatomy:
            text = "statistics and anatomy look at one process; leave `launch` out for them"
            yield ("launch",), text

    def _undivided(self) -> Iterator[tuple[tuple[str, ...], str]]:
        parts, at = self.micro_batches, ("micro_batches",)
        if self.launch is not None:
            refusal = self.launch.batch_refusal(self.batch_size)
            if refusal is not None:
                yield ("batch_size",), refusal
            elif isinstance(parts, tuple):
                yield at, "under launch all micro-batches are equal: give their number"
            elif self.rank_batch_size % parts:
                said = f"{self.rank_batch_size} sequences of a rank"
                yield at, f"{said} do not divide into {parts} micro-batches"
        elif isinstance(parts, int) and self.batch_size % parts:
            yield at, f"batch_size {self.batch_size} does not divide into {parts} micro-batches"
        elif isinstance(parts, tuple) and sum(parts) != self.batch_size:
            sizes = " + ".join(map(str, parts)) or "none"
            made = f"micro_batches {sizes} make {sum(parts)} sequences"
            yield at, f"{made}, batch_size is {self.batch_size}"

    def _unreachable(self) -> Iterator[tuple[tuple[str, ...], str]]:
        if self.validation_batches == 0:
            for path, asked in (
                (("early_stopping",), self.early_stopping is not None),
                (("checkpoint",), self.checkpoint != "never"),
                (("target_val_loss",), self.target_val_loss is not None and self.regime is None),
                (("stimulus", "val_loss"), isinstance(self.stimulus, ValidationLoss)),
            ):
                if asked:
                    text = f"{' '.join(path)} needs validations; validation_batches is 0"
                    yield path[:1], text
        late: list[tuple[tuple[str, ...], int]] = [
            (("statistics",), step) for step in self.statistics if step >= self.steps
        ]
        if isinstance(self.stimulus, Kill | NonFinite) and self.stimulus.step >= self.steps:
            late.append((("stimulus", "step"), self.stimulus.step))
        for at, step in late:
            yield at, f"step {step} lies beyond the run's {self.steps} steps"
        if isinstance(self.stimulus, FlippedBit) and self.checkpoint == "never":
            text = "stimulus flipped_bit needs a checkpoint; give it `checkpoint: epoch`"
            yield ("stimulus",), text
        if self.anatomy > self.steps:
            text = f"anatomy of {self.anatomy} steps is longer than the run of {self.steps}"
            yield ("anatomy",), text
        if self.resume is not None and self.resume.run.checkpoint == "never":
            text = "the run that is resumed keeps no checkpoint; give it `checkpoint: epoch`"
            yield ("resume", "run"), text

    @property
    def architecture(self) -> Architecture:
        """The architecture itself, a preset resolved."""
        return architecture_of(self.model)

    @property
    def micro_sizes(self) -> tuple[int, ...]:
        """Sequences of each micro-batch."""
        if isinstance(self.micro_batches, tuple):
            return self.micro_batches
        return (self.rank_batch_size // self.micro_batches,) * self.micro_batches

    @property
    def ranks(self) -> int:
        """Processes that train together."""
        return 1 if self.launch is None else self.launch.ranks

    @property
    def rank_batch_size(self) -> int:
        """Sequences of a step that one rank reads."""
        return self.batch_size // self.ranks

    @property
    def sharded(self) -> bool:
        """Whether each rank holds but a shard of the state."""
        return self.launch is not None and self.parallel == "fsdp"

    @property
    def first_val_cap(self) -> float:
        """Largest loss of the first validation, in nats: twice a uniform guess's from scratch."""
        if self.regime is not None and self.regime.name == "finetune":
            return FINETUNE_CAP
        return 2 * math.log(self.architecture.vocab)

    @property
    def tokens_per_step(self) -> int:
        """Tokens one optimizer step reads."""
        return self.batch_size * self.seq_len

    @property
    def step_flops(self) -> int:
        """Fewest floating-point operations of one step."""
        return self.tokens_per_step * self.architecture.flops_per_token(self.seq_len)

    @property
    def census_bytes(self) -> int:
        """Fewest bytes the declared state needs on the device for the whole run."""
        return self.architecture.training_bytes

    def rank_device(self, rank: int) -> str:
        """The device that one rank of the run asks for: on CUDA, each of a node its own."""
        return self.device if self.launch is None else self.launch.device_of(rank, self.device)

    def of_rank(self, rank: int) -> Self:
        """The run as one of its ranks has it: its device, its share of the batch."""
        own = {"device": self.rank_device(rank), "batch_size": self.rank_batch_size}
        return self.model_copy(update=own)
