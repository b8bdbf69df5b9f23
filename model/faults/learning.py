"""Faults of learning: weights, schedule, seed, batches, gradients."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StrictInt

from pytest_gates.model.config import ForwardRun, PretrainRun, ProbeRun
from pytest_gates.model.faults.base import BaseFault, Injectable, beyond, untrained


class _OfTraining(BaseFault):
    fits = "training runs"

    def misfit(self, run: Injectable) -> str | None:
        """Fits a training run."""
        return untrained(run)


class FrozenWeights(_OfTraining):
    """The optimizer's own learning rate is 0, whatever the telemetry says."""

    fault: Literal["frozen_weights"]
    meaning = "the optimizer steps with learning rate 0 while the schedule is reported"
    incident = "an optimizer built over a copy of the model's parameters"
    checks = ("descent",)


class LrZeroAfterWarmup(_OfTraining):
    """The schedule falls to 0 once the warm-up is over."""

    fault: Literal["lr_zero_after_warmup"]
    captured = True
    meaning = "the learning rate is 0 from the end of the warm-up on"
    incident = "an integer division in the cosine's progress"
    checks = ("bounded", "schedule")
    fits = "training runs with steps after their warm-up"

    def misfit(self, run: Injectable) -> str | None:
        """Fits a training run that is longer than its warm-up."""
        warmup = run.optimizer.warmup_steps if isinstance(run, PretrainRun) else 0
        return beyond(run, "the end of the warm-up,", warmup)


class SchedulePerMicroBatch(_OfTraining):
    """The schedule advances `times` times a step."""

    fault: Literal["schedule_per_micro_batch"]
    captured = True
    times: Annotated[StrictInt, Field(ge=2, le=64)] = 2
    meaning = "the schedule advances `times` times a step, and stays at its end"
    incident = "scheduler.step() inside the loop over micro-batches"
    checks = ("bounded", "schedule", "property")
    fits = "training runs, and probes that search `schedule`"

    def misfit(self, run: Injectable) -> str | None:
        """Fits what uses the schedule."""
        if isinstance(run, ProbeRun):
            searched = any(wanted.name == "schedule" for wanted in run.properties)
            return None if searched else "the probe searches no schedule"
        return super().misfit(run)


class SeedIgnored(_OfTraining):
    """Every declared seed becomes 0."""

    fault: Literal["seed_ignored"]
    captured = True
    meaning = "the declared seed is not passed on; every run has seed 0"
    incident = "a seed flag that was parsed and never used"
    checks = ("equal_runs",)
    fits = "training runs that declare a seed other than 0"

    def misfit(self, run: Injectable) -> str | None:
        """Fits a training run whose seed is not the default."""
        why = untrained(run)
        if why is not None or (isinstance(run, PretrainRun) and run.seed != 0):
            return why
        return "the run declares seed 0, which is what it would get"


class SeedUnset(_OfTraining):
    """The seed is drawn from the machine's entropy."""

    fault: Literal["seed_unset"]
    captured = True
    meaning = "no generator is seeded; each execution draws a seed of its own"
    incident = "a generator made in a worker process, after the seeding"
    checks = ("equal_runs",)


class RepeatedBatch(_OfTraining):
    """Every step reads the first batch again."""

    fault: Literal["repeated_batch"]
    captured = True
    meaning = "every step gets the batch of step 0"
    incident = "an iterator re-created inside the loop"
    checks = ("bounded",)


class LabelShift(_OfTraining):
    """Labels are shifted twice: each position learns the token after the next."""

    fault: Literal["label_shift"]
    meaning = "the loss pairs each position with the token after the next"
    incident = "labels shifted by the data loader and again by the model"
    checks = ("fact",)


class ClipBySquaredNorm(_OfTraining):
    """Clipping forgets the square root."""

    fault: Literal["clip_by_squared_norm"]
    meaning = "gradients are clipped, and their norm reported, by the squared norm"
    incident = "a hand-written clip that summed squares and compared the sum"
    checks = ("fact",)


class UnnormalisedAccumulation(_OfTraining):
    """Micro-batches count alike, however many tokens they hold."""

    fault: Literal["unnormalised_accumulation"]
    meaning = "each micro-batch counts the same, whatever its share of the tokens"
    incident = "the gradient accumulation of a popular trainer, found after years"
    checks = ("equal_runs", "ratio_of_runs")
    fits = "training runs with micro-batches of unequal sizes"

    def misfit(self, run: Injectable) -> str | None:
        """Fits where the shares differ."""
        if isinstance(run, PretrainRun) and len(set(run.micro_sizes)) > 1:
            return untrained(run)
        return "the run's micro-batches are all of one size"


class SummedAccumulation(_OfTraining):
    """Micro-batches are summed instead of averaged."""

    fault: Literal["summed_accumulation"]
    meaning = "each micro-batch counts whole, so that loss and gradients grow with their number"
    incident = "a loop over micro-batches that forgot to divide the loss"
    checks = ("equal_runs",)
    fits = "training runs with micro-batches"

    def misfit(self, run: Injectable) -> str | None:
        """Fits where there is more than one part."""
        if isinstance(run, PretrainRun) and len(run.micro_sizes) > 1:
            return untrained(run)
        return untrained(run) or "the run's batches have one part"


class LossInBits(BaseFault):
    """The loss is told in bits."""

    fault: Literal["loss_in_bits"]
    meaning = "the loss is divided by ln 2 and still called nats"
    incident = "bits per byte and nats per token in one table"
    checks = ("descent", "property", "fact")
    fits = "training runs, and forward runs that search `uniform_loss`"

    def misfit(self, run: Injectable) -> str | None:
        """Fits what uses the loss function."""
        if isinstance(run, ForwardRun):
            searched = any(wanted.name == "uniform_loss" for wanted in run.properties)
            return None if searched else "the run uses no loss that a gate looks at"
        return untrained(run)
