"""Waivers: a known failure is expected until a day, and nothing else is excused by one."""

from __future__ import annotations

from dataclasses import replace

from pytest_gates.contract.models import Gate
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
    if result.status is Status.FAIL and not waiver.expired(today):
        return replace(result, waived=True, red=False)
    if result.status is Status.FAIL:
        reason = f"the waiver has expired: {waiver}"
        return replace(result, reason=reason, report=f"{result.report}\n  waiver    {reason}")
    if result.status is Status.PASS and not result.red:
        reason = f"the gate passes, remove its waiver: {waiver}"
        return made_red(gate, result, reason)
    return result


def made_red(gate: Gate, result: Result, reason: str) -> Result:
    """A result that would be green, but is not to be."""
    report = plain_report(gate, result.status, reason)
    return replace(result, red=True, reason=reason, report=report)
