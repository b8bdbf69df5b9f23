"""`property`: a search for a counterexample that found none."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Annotated, Literal

from pydantic import Field, StrictStr

from pytest_gates.checks.base import NO_GPUS, Outcome, Refusal, RunCheck, Verdict
from pytest_gates.checks.window import unfinished
from pytest_gates.evidence import Evidence
from pytest_gates.model.config import ForwardRun, ProbeRun, Run
from pytest_gates.vocabulary import hint


class Property(RunCheck):
    """The run searched for a counterexample to a property and found none."""

    kind: Literal["property"]
    property: Annotated[StrictStr, Field(min_length=1)]
    """Name of a property that the run declares."""

    def misfits(self, run: Run, gpus: Collection[str]) -> Iterator[Refusal]:
        """Runs that do not declare the property."""
        declared = (
            [one.name for one in run.properties] if isinstance(run, ForwardRun | ProbeRun) else []
        )
        if self.property not in declared:
            text = f"the run declares no property {self.property!r}"
            yield ("property",), f"{text}; {hint(self.property, declared)}"

    def evaluate(self, evidence: Evidence, gpus: Mapping[str, float] = NO_GPUS) -> Outcome:
        """See `RunCheck.evaluate`. A counterexample fails even a run that ended early."""
        found = evidence.main.properties.get(self.property)
        early = unfinished(evidence)
        if found is not None and found.counterexample is not None:
            shown = ", ".join(f"{key}={value}" for key, value in found.counterexample.items())
            verdict, text = Verdict.FAIL, f"{self.property} fails for {shown}"
        elif early is not None:
            verdict, text = Verdict.INCONCLUSIVE, early
        elif found is None:
            there = ", ".join(evidence.main.properties) or "none"
            verdict, text = (
                Verdict.INCONCLUSIVE,
                f"no {self.property} in the evidence; there is {there}",
            )
        elif found.examples < 1:
            verdict, text = Verdict.INCONCLUSIVE, f"{self.property} was tried on no example"
        else:
            verdict = Verdict.PASS
            text = f"{self.property} holds for {found.examples} examples"
        examples = found.examples if found is not None else 0
        return Outcome(
            check="property",
            verdict=verdict,
            summary=text,
            figure="counterexample" if verdict is Verdict.FAIL else f"{examples} examples",
            limit="no counterexample",
            n=examples,
        )
