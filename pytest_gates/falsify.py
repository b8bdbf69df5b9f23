"""When a falsifier counts as caught: its gate red through the expected check, and green without."""

from __future__ import annotations

from dataclasses import dataclass

from pytest_gates.checks.base import Outcome, Verdict
from pytest_gates.contract.models import Falsifier
from pytest_gates.verdict import EvidenceByRun, Judgement

CRASHES = frozenset({"ERROR", "IO_ERROR", "OUT_OF_MEMORY", "TIMEOUT", "INTERRUPTED"})
"""Statuses of a sabotaged run that never count as red for the expected reason."""


@dataclass(frozen=True)
class Pair:
    """A falsifier's two sides."""

    sabotaged: EvidenceByRun
    control: EvidenceByRun


def crashed(evidence: EvidenceByRun) -> str | None:
    """Which sabotaged run crashed, or None."""
    for name, many in evidence.items():
        for one in many:
            if one.status in CRASHES:
                return f"the sabotaged run {name} ended {one.status}: {one.reason}"
    return None


def not_caught(
    falsifier: Falsifier, pair: Pair, sabotaged: Judgement, control: Judgement
) -> str | None:
    """Why the gate does not count as seen red, or None."""
    if control.verdict is not Verdict.PASS:
        return f"without the fault the gate is {control.verdict}, not pass: {why(control)}"
    broken = crashed(pair.sabotaged)
    if broken is not None:
        return broken
    if sabotaged.verdict is not Verdict.FAIL:
        return f"with the fault the gate is {sabotaged.verdict}: {why(sabotaged)}"
    expected = expected_outcome(falsifier, sabotaged)
    if expected is None or expected.verdict is not Verdict.FAIL:
        red = [one.check for one in sabotaged.outcomes if one.verdict is Verdict.FAIL]
        return f"another check went red: {', '.join(red)}"
    slot = falsifier.expect.slot if falsifier.expect else None
    if slot is not None and expected.slot != slot:
        return f"{expected.check} names {expected.slot or 'no slot'}, not {slot}"
    return None


def expected_outcome(falsifier: Falsifier, judgement: Judgement) -> Outcome | None:
    """What the check that must go red found; `judge` keeps the order of the gate's checks."""
    if falsifier.target is None or falsifier.target >= len(judgement.outcomes):
        return None
    return judgement.outcomes[falsifier.target]


def why(judgement: Judgement) -> str:
    """A judgement's reason in one line."""
    deciding = judgement.deciding
    return judgement.reason or (deciding.summary if deciding else "")
