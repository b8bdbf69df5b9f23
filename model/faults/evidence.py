"""Attacks with planted evidence: nothing is trained; copies of a gate's own evidence are forged."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import (
    AfterValidator,
    Field,
    StrictBool,
    StrictFloat,
    StrictInt,
    StrictStr,
    model_validator,
)

from pytest_gates.model.config import CommandRun, ForwardRun, Index, PretrainRun
from pytest_gates.model.faults.base import BaseFault, Injectable, off_cuda
from pytest_gates.model.telemetry import METRICS

SAID = "what is planted suits one gate; a falsifier says it"


def _metric(name: str) -> str:
    if name not in METRICS or METRICS[name].scope not in {"step", "epoch"}:
        raise ValueError("it is no metric of steps or epochs")
    return name


class Planted(BaseFault):
    """Base of the attacks. They act on copies in a scratch folder, never on what is recorded."""

    verdict: ClassVar[str]
    """What the gate must be told to be; never `pass`. `fail` is what its checks must say."""
    checks: ClassVar[tuple[str, ...]] = ("audit",)
    fits = "every run"
    captured = True  # it reaches no run

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


class PlantedFact(Planted):
    """A fact is told as another value, in evidence that is consistent otherwise."""

    fault: Literal["planted_fact"]
    fact: Annotated[StrictStr, Field(min_length=1)]
    """Name of the fact."""
    value: StrictBool | StrictInt | Annotated[StrictFloat, Field(allow_inf_nan=False)] | StrictStr
    """What it is told as."""
    meaning = "copies of the gate's evidence say `value` for `fact`; the gate's checks judge them"
    incident = "a check that compared a setting with itself, and could not have failed"
    verdict = "fail"
    checks = ("fact", "memory", "anatomy")
    fits = "every run; what is planted is said by a falsifier"

    @classmethod
    def suited(cls, run: Injectable) -> dict[str, object]:
        """Nothing that a check would look at."""
        return {"fact": "none", "value": 0}

    def unseen(self, run: Injectable) -> str | None:
        """Only a falsifier knows what its gate looks at."""
        return SAID


class PlantedMetric(Planted):
    """A metric is told as another number."""

    fault: Literal["planted_metric"]
    metric: Annotated[StrictStr, AfterValidator(_metric)]
    """A metric of steps or epochs."""
    value: StrictFloat | StrictInt | None = None
    """What it is told as; or give `factor`."""
    factor: StrictFloat | StrictInt | None = None
    """What the told number is multiplied by."""
    at: tuple[Index, Index] | None = None
    """First and last step or epoch; all of them if left out."""
    meaning = "copies of the gate's evidence say another number; the gate's checks judge them"
    incident = "a limit that was typed with a zero too many, under which nothing could be red"
    verdict = "fail"
    checks = ("budget", "bounded", "monotone", "equal_runs", "ratio_of_runs")
    fits = "every run; what is planted is said by a falsifier"

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.value is None) == (self.factor is None):
            raise ValueError("give either value or factor")
        return self

    @classmethod
    def suited(cls, run: Injectable) -> dict[str, object]:
        """Nothing that a check would look at."""
        return {"metric": "step", "factor": 1}

    def unseen(self, run: Injectable) -> str | None:
        """Only a falsifier knows what its gate looks at."""
        return SAID


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
