"""Faults of the program's own rules and reports, which need no model."""

from __future__ import annotations

from typing import Literal

from pytest_gates.model.config import ProbeRun
from pytest_gates.model.faults.base import BaseFault, Injectable


def _no_probe(run: Injectable) -> str | None:
    return None if isinstance(run, ProbeRun) else f"driver {run.driver} is no probe"


class WrongEnvironment(BaseFault):
    """The environment report says the opposite."""

    fault: Literal["wrong_environment"]
    meaning = "the environment report says that devices are visible where none is, and the reverse"
    incident = "a start page that counted the devices of the driver, not of the framework"
    checks = ("fact",)
    fits = "probes without properties"

    def misfit(self, run: Injectable) -> str | None:
        """Fits a probe that is about the environment."""
        if isinstance(run, ProbeRun) and run.properties:
            return "the probe is about properties"
        return _no_probe(run)


class SloppyDeviceGrammar(BaseFault):
    """The device parser forgives blanks and capitals."""

    fault: Literal["sloppy_device_grammar"]
    meaning = "the device parser strips blanks and ignores case before it reads"
    incident = "`CUDA:0 ` from an environment variable that became the CPU two calls later"
    checks = ("property",)
    fits = "probes that search `device_grammar`"

    def misfit(self, run: Injectable) -> str | None:
        """Fits a probe that searches the grammar."""
        why = _no_probe(run)
        if why is None and isinstance(run, ProbeRun):
            names = [wanted.name for wanted in run.properties]
            return None if "device_grammar" in names else "the probe searches no device grammar"
        return why


class LenientBudget(BaseFault):
    """A budget bears one sample too many."""

    fault: Literal["lenient_budget"]
    meaning = "one sample fewer counts as over the limit when a budget is decided"
    incident = "a table of critical counts that began at 1 where the code began at 0"
    checks = ("property",)
    fits = "probes that search `budget_rule`"

    def misfit(self, run: Injectable) -> str | None:
        """Fits a probe that searches the rule."""
        return _no_probe(run) or _unsearched(run, "budget_rule")


class CarelessWriteBack(BaseFault):
    """Write-back tidies up what people wrote."""

    fault: Literal["careless_write_back"]
    meaning = "comments behind a verdict are dropped when it is written"
    incident = "a round trip through a YAML library that lost every comment of 300 contracts"
    checks = ("property",)
    fits = "probes that search `write_back`"

    def misfit(self, run: Injectable) -> str | None:
        """Fits a probe that searches write-back."""
        return _no_probe(run) or _unsearched(run, "write_back")


def _unsearched(run: Injectable, name: str) -> str | None:
    searched = isinstance(run, ProbeRun) and any(one.name == name for one in run.properties)
    return None if searched else f"the probe searches no property {name}"
