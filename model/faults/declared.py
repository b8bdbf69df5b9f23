"""Faults between what is declared and what the trainer takes up of it."""

from __future__ import annotations

from typing import Literal

from pytest_gates.model.config import PretrainRun
from pytest_gates.model.faults.base import BaseFault, Injectable, untrained


class DeterminismOff(BaseFault):
    """A deterministic run uses whatever kernels are fastest."""

    fault: Literal["determinism_off"]
    captured = True
    meaning = "torch is not told to use deterministic kernels, whatever the run declares"
    incident = "a flag that a library reset when it was imported"
    checks = ("fact", "equal_runs")
    fits = "training runs that are deterministic"

    def misfit(self, run: Injectable) -> str | None:
        """Fits a deterministic training run."""
        why = untrained(run)
        if why is None and isinstance(run, PretrainRun) and not run.deterministic:
            return "the run declares nothing deterministic"
        return why


class _OfRegimes(BaseFault):
    fits = "training runs with a regime"

    def misfit(self, run: Injectable) -> str | None:
        """Fits a training run with a regime."""
        why = untrained(run)
        if why is None and isinstance(run, PretrainRun) and run.regime is None:
            return "the run declares no regime"
        return why


class OtherRegime(_OfRegimes):
    """The values of the other regime are taken."""

    fault: Literal["other_regime"]
    captured = True
    meaning = "the run takes up the values and the bound of the other regime"
    incident = "a default in the launcher that won over the recipe"
    checks = ("fact", "exit_status")


class RegimeWins(_OfRegimes):
    """A regime's values win over those that are given."""

    fault: Literal["regime_wins"]
    captured = True
    meaning = "learning rate and warm-up are the regime's, whatever is given"
    incident = "a preset merged over the command line instead of under it"
    checks = ("fact",)

    def misfit(self, run: Injectable) -> str | None:
        """Fits a run with a regime that gives what the regime would set."""
        why = super().misfit(run)
        if why is None and isinstance(run, PretrainRun) and run.regime is not None:
            given = {"lr", "warmup_steps"} - {*run.regime.sets}
            return None if given else "the run gives nothing that its regime sets"
        return why
