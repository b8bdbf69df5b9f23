"""How a training run goes: optimizer, regime, early stopping, stimuli; typed, without torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from pytest_gates.model.settings import (
    Count,
    Fraction,
    Index,
    NotNegative,
    Positive,
    Settings,
)


class Optimizer(Settings):
    """AdamW (arXiv:1711.05101) under linear warm-up and cosine decay (arXiv:1608.03983)."""

    lr: Positive = 1e-3
    """Peak learning rate."""
    min_lr_ratio: NotNegative = 0.1
    """Final learning rate as a share of the peak."""
    warmup_steps: Index = 10
    """Steps of linear warm-up."""
    beta1: Fraction = 0.9
    beta2: Fraction = 0.95
    eps: Positive = 1e-8
    weight_decay: NotNegative = 0.1
    """Applied to matrices only, never to norms."""
    clip: Positive = 1.0
    """Largest global gradient norm; larger gradients are scaled down to it."""


RegimeName = Literal["finetune", "from_scratch"]
Regulated = Literal["lr", "warmup_steps", "target_val_loss"]

REGIMES: dict[str, dict[Regulated, float]] = {
    "finetune": {"lr": 5e-5, "warmup_steps": 100, "target_val_loss": 2.2},
    "from_scratch": {"lr": 6e-4, "warmup_steps": 20, "target_val_loss": 3.8},
}
"""What a regime sets together, unless a value is given explicitly."""

FINETUNE_CAP = 10.0
"""Nats of the first validation above which finetuning has diverged."""


class Regime(Settings):
    """A regime by name, and which of its values were taken because none was given explicitly.

    In a contract it is the name alone; the rest is resolved when the contract is loaded.
    """

    name: RegimeName
    sets: tuple[Regulated, ...] = ()


class EarlyStopping(Settings):
    """End the run once the validation loss has not improved for `patience` epochs."""

    patience: Count = 2
    """Epochs without a new best validation loss that are borne."""
    min_epochs: Count = 3
    """Epochs that are always carried out."""


class Kill(Settings):
    """Stimulus: the process gets SIGKILL when `step` has been launched."""

    kind: Literal["kill"]
    step: Index
    rank: Index = 0
    """Which process of the run."""


class NonFinite(Settings):
    """Stimulus: the loss of `step` becomes NaN before the backward pass."""

    kind: Literal["nan"]
    step: Index
    rank: Index = 0
    """Which process of the run."""


class DataEnd(Settings):
    """Stimulus: the training data holds no more than the batches of the first `step` steps."""

    kind: Literal["data_end"]
    step: Count
    """The first step for which there is nothing left."""


class ValidationLoss(Settings):
    """Stimulus: the validation of `epoch` finds another loss than the model's."""

    kind: Literal["val_loss"]
    epoch: Index
    times_previous: Positive | None = None
    """The epoch before's validation loss times this: 2.5 more than doubles it."""
    value: Positive | None = None
    """Nats."""

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.times_previous is None) == (self.value is None):
            raise ValueError("give either times_previous or value")
        if self.epoch == 0 and self.times_previous is not None:
            raise ValueError("epoch 0 has none before it; give value")
        return self


class FlippedBit(Settings):
    """Stimulus: one bit of the weights in the checkpoint of `epoch` is another once it is written.

    The file keeps its length, as on a disk that fails silently; who continues the run reads it.
    """

    kind: Literal["flipped_bit"]
    epoch: Index


Stimulus = Annotated[
    Kill | NonFinite | DataEnd | ValidationLoss | FlippedBit, Field(discriminator="kind")
]
"""A condition that the claim itself is about."""


def with_regime(declared: Mapping[str, Any]) -> dict[str, Any]:
    """A run's raw settings with its regime's values where none is given; explicit ones win.

    A regime that is resolved already (a mapping) and a name that is none are left as they are.
    """
    settings = dict(declared)
    name = settings.get("regime")
    if not isinstance(name, str) or name not in REGIMES:
        return settings
    optimizer = settings.get("optimizer", {})
    if isinstance(optimizer, Optimizer):
        optimizer = optimizer.model_dump(exclude_unset=True)
    if not isinstance(optimizer, Mapping):
        return settings
    values, sets = REGIMES[name], []
    optimizer = dict(optimizer)
    for key in ("lr", "warmup_steps"):
        if key not in optimizer:
            optimizer[key] = values[key]
            sets.append(key)
    if settings.get("target_val_loss") is None:
        settings["target_val_loss"] = values["target_val_loss"]
        sets.append("target_val_loss")
    return {**settings, "optimizer": optimizer, "regime": {"name": name, "sets": tuple(sets)}}
