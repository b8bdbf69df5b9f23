"""Boundary proof: does a verdict turn exactly at its limit?

For each numeric check of a gate the limit itself, one ulp to either side, NaN and both infinities
are tried on planted evidence, by the decision that the check's own `evaluate` tells of. That is
what PARTIAL_ALGORITHM_LEVEL claims: judged right on planted evidence, not yet live. A gate that
fails it gets no verdict.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from pytest_gates.boundary.limits import Limit
from pytest_gates.boundary.of_a_run import OF_A_RUN
from pytest_gates.boundary.of_artifacts import of_artifacts
from pytest_gates.boundary.of_residency import of_residency
from pytest_gates.boundary.of_runs import OF_RANKS, OF_RUNS
from pytest_gates.boundary.of_traces import OF_TRACES
from pytest_gates.boundary.of_training import OF_TRAINING
from pytest_gates.checks.artifacts import Artifacts
from pytest_gates.checks.base import Check, Verdict
from pytest_gates.checks.residency import Residency
from pytest_gates.contract.models import Gate, check_kind
from pytest_gates.model.config import Run

_OF_ONE: dict[type, Callable[[Any, Run], Iterable[Limit]]] = {
    **OF_A_RUN,
    **OF_TRAINING,
    **OF_RANKS,
    **OF_TRACES,
    Residency: of_residency,
    Artifacts: of_artifacts,
}
PROVEN = frozenset({*_OF_ONE, *OF_RUNS})
"""The checks whose limits are tried."""


@dataclass(frozen=True)
class Proof:
    """One value that was tried against one limit."""

    check: str
    limit: str
    value: float
    expected: Verdict
    found: Verdict

    def __str__(self) -> str:
        return f"{self.check} {self.limit}: {self.value!r} gives {self.found}, not {self.expected}"


def proofs(gate: Gate) -> Iterator[Proof]:
    """Every value against every limit of the gate's numeric checks."""
    for check in gate.checks:
        for limit in _limits(check, gate):
            for trial in limit.trials:
                yield Proof(check_kind(check), limit.text, *trial)


def flaw(gate: Gate) -> str | None:
    """Where a verdict of the gate does not turn as it must, or None."""
    for check in gate.checks:
        for limit in _limits(check, gate):
            for value, expected, found in limit.trials:
                if found is not expected:
                    return str(Proof(check_kind(check), limit.text, value, expected, found))
    return None


def _limits(check: Check, gate: Gate) -> Iterable[Limit]:
    if type(check) in OF_RUNS:
        return OF_RUNS[type(check)](check, gate.runs)
    if type(check) in _OF_ONE and gate.run in gate.runs:
        assert gate.run is not None
        return _OF_ONE[type(check)](check, gate.runs[gate.run])
    return ()
