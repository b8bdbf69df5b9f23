"""The trainer's own guards, each switched off."""

from __future__ import annotations

from typing import Literal

from pytest_gates.model.config import NonFinite, PretrainRun
from pytest_gates.model.faults.base import BaseFault, Injectable, untrained, unvalidated
from pytest_gates.model.training import DataEnd, FlippedBit, ValidationLoss


class FinitenessOff(BaseFault):
    """The guard that looks for NaN and infinities is switched off."""

    fault: Literal["finiteness_off"]
    meaning = "the trainer's own test for finite loss and norm always says yes"
    incident = "a guard behind a debug flag"
    checks = ("event", "exit_status")
    fits = "training runs with the stimulus `nan`"

    def misfit(self, run: Injectable) -> str | None:
        """Fits a run in which something is not finite."""
        stimulated = isinstance(run, PretrainRun) and isinstance(run.stimulus, NonFinite)
        return untrained(run) or (None if stimulated else "the run has no stimulus `nan`")


class DivergenceOff(BaseFault):
    """The guard that ends a diverged run is switched off."""

    fault: Literal["divergence_off"]
    captured = True
    meaning = "a validation loss beyond its bound does not end the run"
    incident = "a run that trained for a night after its loss had doubled"
    checks = ("event", "exit_status")
    fits = "training runs with the stimulus `val_loss`"

    def misfit(self, run: Injectable) -> str | None:
        """Fits a run whose validation is told to diverge."""
        stimulated = isinstance(run, PretrainRun) and isinstance(run.stimulus, ValidationLoss)
        return untrained(run) or (None if stimulated else "the run has no stimulus `val_loss`")


class DataEndOff(BaseFault):
    """The guard that ends a run where its data does is switched off."""

    fault: Literal["data_end_off"]
    captured = True
    meaning = "the run reads its data again instead of ending where they end"
    incident = "a cycling loader under a trainer that was told to halt"
    checks = ("event", "exit_status")
    fits = "training runs with the stimulus `data_end` that declare to halt there"

    def misfit(self, run: Injectable) -> str | None:
        """Fits a run that must end with its data."""
        if (why := untrained(run)) is not None:
            return why
        assert isinstance(run, PretrainRun)
        halts = run.on_data_end == "halt" and isinstance(run.stimulus, DataEnd)
        return None if halts else "the run does not halt where its data ends"


class FalseDivergence(BaseFault):
    """The guard against divergence ends runs that do not diverge."""

    fault: Literal["false_divergence"]
    captured = True
    meaning = "the first validation ends the run as diverged, whatever its loss"
    incident = "a bound of 1.0 instead of 2.0 times the best loss, which ended every run"
    checks = ("event", "exit_status")
    fits = "training runs that validate"

    def misfit(self, run: Injectable) -> str | None:
        """Fits a training run that validates."""
        return unvalidated(run)


class _OfCheckpoints(BaseFault):
    def _source(self, run: Injectable) -> PretrainRun | None:
        resume = run.resume if isinstance(run, PretrainRun) else None
        return None if resume is None else resume.run


class ConfigMatchOff(_OfCheckpoints):
    """The guard that refuses a checkpoint of another configuration is switched off."""

    fault: Literal["config_match_off"]
    captured = True
    meaning = "what fits of a checkpoint is loaded, and the rest is left as it was drawn"
    incident = "load_state_dict(strict=False), which loaded nothing and said nothing"
    checks = ("event", "exit_status")
    fits = "training runs that continue one of another shape, seed, data, or length"

    def misfit(self, run: Injectable) -> str | None:
        """Fits a run whose checkpoint must be refused."""
        source = self._source(run)
        if source is None:
            return untrained(run) or "the run continues no other"
        assert isinstance(run, PretrainRun)
        same = ("architecture", "seed", "seq_len", "batch_size", "data")
        differs = any(getattr(run, name) != getattr(source, name) for name in same)
        epoch = run.resume.epoch if run.resume is not None else "last"
        every = source.validate_every or source.steps
        at = source.steps if epoch == "last" else (epoch + 1) * every
        return None if differs or at >= run.steps else "the checkpoint is of such a run"


class HashCheckOff(_OfCheckpoints):
    """The guard that holds a checkpoint's bytes against their hashes is switched off."""

    fault: Literal["hash_check_off"]
    captured = True
    meaning = "a checkpoint is loaded whatever its bytes are"
    incident = "a bit that a disk flipped in one shard of a checkpoint, found a week later"
    checks = ("event", "exit_status")
    fits = "training runs that continue one with the stimulus `flipped_bit`"

    def misfit(self, run: Injectable) -> str | None:
        """Fits a run whose checkpoint was damaged."""
        source = self._source(run)
        if source is None:
            return untrained(run) or "the run continues no other"
        damaged = isinstance(source.stimulus, FlippedBit)
        return None if damaged else "the run's checkpoint is not damaged"
