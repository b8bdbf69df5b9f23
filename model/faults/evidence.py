"""Attacks with planted evidence: nothing is trained; copies of a gate's own evidence are forged."""

from __future__ import annotations

from typing import ClassVar, Literal

from pytest_gates.model.config import CommandRun, ForwardRun, PretrainRun
from pytest_gates.model.faults.base import BaseFault, Injectable, off_cuda


class Planted(BaseFault):
    """Base of the attacks. They act on copies in a scratch folder, never on what is recorded."""

    verdict: ClassVar[str]
    """What the gate must be told to be; never `pass`."""
    checks: ClassVar[tuple[str, ...]] = ("audit",)
    fits = "every run"

    def misfit(self, run: Injectable) -> str | None:
        """Fits every run: all leave evidence."""
        return None


class EditedEvidence(Planted):
    """One digit of the recorded telemetry is another one."""

    fault: Literal["edited_evidence"]
    meaning = "one byte of the evidence is changed after the verdict was recorded"
    incident = "a loss corrected by hand in a results file before a review"
    verdict = "tampered"


class StaleEvidence(Planted):
    """The recorded evidence is replaced by that of an earlier execution, manifest and all."""

    fault: Literal["stale_evidence"]
    meaning = "the evidence folder is replaced by a consistent one of an earlier execution"
    incident = "last month's log copied over this month's because it looked better"
    verdict = "tampered"


class ForeignConfiguration(Planted):
    """Evidence of another configuration is offered, consistent in itself."""

    fault: Literal["foreign_configuration"]
    meaning = "evidence of a run with another seed is offered to the gate"
    incident = "a verdict for sequences of 2048 that cited a run with 512"
    verdict = "blocked"
    fits = "training and forward runs, and the team's own programs"

    def misfit(self, run: Injectable) -> str | None:
        """Fits runs that have a seed, or an environment, to differ in."""
        if isinstance(run, PretrainRun | ForwardRun | CommandRun):
            return None
        return f"driver {run.driver} has nothing to differ in"


class ForeignGpu(Planted):
    """Evidence of another GPU is offered to a gate with one limit a GPU."""

    fault: Literal["foreign_gpu"]
    meaning = "evidence made on a GPU that the gate does not know is offered to it"
    incident = "a laptop's time held against the budget of a data centre's GPU"
    verdict = "blocked"
    checks = ("budget",)
    fits = "training runs on an explicit CUDA device"

    def misfit(self, run: Injectable) -> str | None:
        """Fits training runs on CUDA."""
        if isinstance(run, CommandRun):
            return None if run.device.startswith("cuda") else f"the run asks for {run.device}"
        return off_cuda(run)


class TypedVerdict(Planted):
    """The contract says pass, and no record says so."""

    fault: Literal["typed_verdict"]
    meaning = "`verdict: pass` is typed into the contract by hand"
    incident = "815 verdicts in 300 contracts of the field, none with a record"
    verdict = "unfounded"


class DeletedRecord(Planted):
    """A record is taken out of the middle of a gate's history."""

    fault: Literal["deleted_record"]
    meaning = "a failed judgement is deleted from between two passes"
    incident = "a flaky gate whose failures were cleaned up before an audit"
    verdict = "tampered"


class LoosenedContract(Planted):
    """The gate is changed after its verdict was recorded, and the verdict kept."""

    fault: Literal["loosened_contract"]
    meaning = "a check is dropped from the gate after the run, verdict and basis stay"
    incident = "a limit raised in the same commit that celebrated meeting it"
    verdict = "unfounded"
