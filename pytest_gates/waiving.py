"""Waivers: a known failure is expected until a day, and nothing else is excused by one."""

from __future__ import annotations

from dataclasses import replace

from pytest_gates.checks.base import Verdict
from pytest_gates.contract.models import Gate, Waiver
from pytest_gates.report.failure import plain_report
from pytest_gates.results import Result, Status


def with_waiver(gate: Gate, result: Result, today: str) -> Result:
    """The result of a gate as its waiver leaves it.

    A failure is expected while the waiver holds. Afterwards it is red, and so is a gate that passes
    although it is waived: a waiver is never left behind. What is not a failure (inconclusive,
    unfounded, tampered, blocked) is not what the waiver was written for, and stays as it is.

    Args:
        gate: The gate.
        result: What became of it without a look at its waiver.
        today: YYYY-MM-DD, UTC.
    """
    waiver = gate.waiver
    if waiver is None:
        return result
    result = replace(result, waiver=str(waiver))
    if result.status is Status.FAIL:
        return _expected(waiver, result, today)
    if result.status is Status.PASS and not result.red:
        reason = f"the gate passes, remove its waiver: {waiver}"
        return made_red(gate, result, reason)
    return result


def falsifier_with_waiver(gate: Gate, result: Result, today: str) -> Result:
    """The result of a falsifier as the waiver of its gate leaves it.

    Where the gate fails without the fault, the clean control is not green and no fault can be
    caught: the same known failure, expected just as long. A falsifier that survives beside a green
    control, or beside one that decides nothing, is not what the waiver was written for.

    Args:
        gate: The falsifier's gate.
        result: What became of the falsifier without a look at that gate's waiver.
        today: YYYY-MM-DD, UTC.
    """
    waiver = gate.waiver
    if waiver is None or result.status is not Status.SURVIVED or result.control != Verdict.FAIL:
        return result
    return _expected(waiver, replace(result, waiver=str(waiver)), today)


def _expected(waiver: Waiver, result: Result, today: str) -> Result:
    """A known failure: expected while the waiver holds, red with its reason afterwards."""
    if not waiver.expired(today):
        return replace(result, waived=True, red=False)
    reason = f"the waiver has expired: {waiver}"
    return replace(result, reason=reason, report=f"{result.report}\n  waiver    {reason}")


def made_red(gate: Gate, result: Result, reason: str) -> Result:
    """A result that would be green, but is not to be."""
    report = plain_report(gate, result.status, reason)
    return replace(result, red=True, reason=reason, report=report)
