"""The trainer's own guards, each switched off."""

from __future__ import annotations

from typing import Literal

from pytest_gates.model.config import NonFinite, PretrainRun
from pytest_gates.model.faults.base import BaseFault, Injectable, untrained
from pytest_gates.model.training import DataEnd, ValidationLoss


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
