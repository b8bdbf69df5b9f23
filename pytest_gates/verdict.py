"""`judge`: the only place where a verdict is made. Pure; it knows no GPU, no pytest, no fault."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, replace

from pytest_gates.checks.base import Check, Outcome, RunCheck, RunsCheck, Verdict
from pytest_gates.checks.window import unfinished
from pytest_gates.contract.models import Gate, check_kind
from pytest_gates.errors import one_line
from pytest_gates.evidence import FIELDS_THERE, Evidence, difference, unmet
from pytest_gates.readers.rows import listed

EVALUATOR = "1"
"""Version of these rules and of all checks; a record is re-derived by the one that made it."""

EvidenceByRun = Mapping[str, tuple[Evidence, ...]]

KEPT = 16
"""Judgements remembered: before a gate is judged its record is, mostly by the same files."""


@dataclass(frozen=True)
class Judgement:
    """A verdict with what each check found."""

    verdict: Verdict
    outcomes: tuple[Outcome, ...] = ()
    reason: str = ""
    """Why there are no outcomes, or what must be known beside them."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "reason", one_line(self.reason))

    @property
    def deciding(self) -> Outcome | None:
        """The first outcome with the verdict of the whole; preferably one with a headroom."""
        same = [outcome for outcome in self.outcomes if outcome.verdict is self.verdict]
        figured = [
            outcome for outcome in same if outcome.figure and outcome.headroom_pct is not None
        ]
        return next(iter(figured or same), None)


_recent: dict[Hashable, Judgement] = {}


def judge(gate: Gate, evidence: EvidenceByRun) -> Judgement:
    """Judge a gate by the executions of each run it draws on, in order of repetition.

    Evidence that was not made by the run the gate declares never judges it: the verdict is
    `blocked` then, and the difference is spelled out. The verdict is the worst of the checks'.
    """
    if gate.prose:
        return Judgement(Verdict.BLOCKED, reason="nothing executable")
    key = _identity(gate, evidence)
    known = _recent.get(key) if key is not None else None
    if known is not None:
        return known
    judgement = _judged(gate, evidence)
    if key is not None:
        _recent[key] = judgement
        if len(_recent) > KEPT:
            del _recent[next(iter(_recent))]
    return judgement


def _identity(gate: Gate, evidence: EvidenceByRun) -> Hashable | None:
    """What a judgement depends on; None for evidence that was not read from sealed files."""
    if not all(one.location for many in evidence.values() for one in many):
        return None
    return gate.hash, tuple((run, *(one.id for one in many)) for run, many in evidence.items())


def _judged(gate: Gate, evidence: EvidenceByRun) -> Judgement:
    blocked = _inadmissible(gate, evidence) or _untold(gate, evidence)
    if blocked is not None:
        return Judgement(Verdict.BLOCKED, reason=blocked)
    outcomes = [outcome for check in gate.checks for outcome in _evaluate(check, gate, evidence)]
    verdict = Verdict.worst([outcome.verdict for outcome in outcomes])
    return Judgement(verdict, tuple(outcomes), _ended_early(evidence))


def _inadmissible(gate: Gate, evidence: EvidenceByRun) -> str | None:
    for name, run in gate.runs.items():
        executions = evidence.get(name, ())
        if len(executions) < gate.repeats[name]:
            needed = gate.repeats[name]
            return f"run {name} has {len(executions)} of {needed} executions as evidence"
        for execution in executions:
            different = difference(run, execution)
            if different is None and name == gate.run:
                different = unmet(gate.requires, execution)
            if different is not None:
                return f"run {name}: {different}"
    return None


def _untold(gate: Gate, evidence: EvidenceByRun) -> str | None:
    """A metric that a check asks for and a program's own files never tell, and what they hold.

    Of a run that ended early, or whose files could not be read, the checks say more.
    """
    for name, executions in evidence.items():
        for one in executions:
            there = one.main.facts.get(FIELDS_THERE)
            if not isinstance(there, Mapping) or unfinished(one) is not None:
                continue
            for metric in (metric for check in gate.checks for metric in check.asks()):
                if not _tells(one, metric):
                    held = "; ".join(f"{file} holds {listed(names)}"
                                     for file, names in there.items())  # fmt: skip
                    return f"run {name} tells no {metric}: {held}"
    return None


def _tells(one: Evidence, metric: str) -> bool:
    said = (one.main.steps, one.main.epochs, one.main.slots, one.main.parameters)
    columns = [series.columns[metric] for series in said if metric in series.columns]
    return any(value is not None for column in columns for value in column)


def _evaluate(check: Check, gate: Gate, evidence: EvidenceByRun) -> list[Outcome]:
    several = check if isinstance(check, RunsCheck) else check.over_runs()
    if several is not None:
        return [several.evaluate(evidence)]
    assert isinstance(check, RunCheck), f"{check_kind(check)} is neither kind of check"
    assert gate.run is not None, "refused when the contract was loaded"
    outcomes = [
        _of_rank(rank, check.evaluate(seen, gate.gpus))
        for execution in evidence[gate.run]
        for rank, seen in check.of_ranks(execution)
    ]
    worst = Verdict.worst([outcome.verdict for outcome in outcomes])
    return [next(outcome for outcome in outcomes if outcome.verdict is worst)]


def _of_rank(rank: int | None, outcome: Outcome) -> Outcome:
    if rank is None:
        return outcome
    return replace(outcome, summary=f"rank {rank}: {outcome.summary}")


def _ended_early(evidence: EvidenceByRun) -> str:
    ends = {
        f"run {name} ended {execution.status}"
        for name, executions in evidence.items()
        for execution in executions
        if execution.status != "COMPLETED"
    }
    return "; ".join(sorted(ends))
