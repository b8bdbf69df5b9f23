"""The report of a red item: place, rule, run, each check with figure, limit and interval."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from pytest_gates.checks.base import Outcome, Verdict
from pytest_gates.contract.models import Expectation, Falsifier, Gate
from pytest_gates.errors import one_line
from pytest_gates.results import Mode, Status
from pytest_gates.run.plan import describe
from pytest_gates.verdict import Judgement

INDENT = " " * 12


class _Writer(Protocol):
    def line(self, s: str = "", **markup: bool) -> None:
        """One line."""


@dataclass(frozen=True)
class Crash:
    """What pytest shows of a failure where it has one line."""

    path: str
    lineno: int
    message: str

    def __str__(self) -> str:
        return f"{self.path}:{self.lineno}: {self.message}"


class RedItem:
    """A red item as pytest shows it: whole among the failures, one line in the short summary."""

    def __init__(self, result: Mapping[str, Any]) -> None:
        """Of a `Result` as JSON."""
        self._report: str = result["report"]
        self.reprcrash = Crash(result["contract"], result["line"], result["reason"])

    def __str__(self) -> str:
        return self._report

    def toterminal(self, writer: _Writer) -> None:
        """Write the whole report."""
        writer.line(self._report)


def gate_report(gate: Gate, judgement: Judgement, status: Status, mode: Mode, host: str) -> str:
    """Report of a gate that is red."""
    lines = [f"{gate.place}: {gate.id} {status}"]
    if gate.rule:
        lines.append(_row("rule", gate.rule))
    source = ", ".join(part for part in (str(mode), host) if part)
    lines += [_row("run", f"{name}: {describe(run)} ({source})") for name, run in gate.runs.items()]
    for outcome in sorted(judgement.outcomes, key=lambda one: list(Verdict).index(one.verdict)):
        lines += check_lines(outcome)
    if judgement.reason:
        lines.append(_row("because", judgement.reason))
    if gate.if_fails:
        lines.append(_row("if fails", gate.if_fails))
    return "\n".join(lines)


def plain_report(declared: Gate | Falsifier, word: Status | Mode, reason: str) -> str:
    """Report of an item that is red whatever its checks say."""
    lines = [f"{declared.place}: {declared.id} {word}", _row("because", reason)]
    if declared.rule:
        lines.insert(1, _row("rule", declared.rule))
    return "\n".join(lines)


def falsifier_report(
    falsifier: Falsifier, sabotaged: Judgement, control: Judgement, reason: str
) -> str:
    """Report of a falsifier whose gate did not go red for the expected reason."""
    assert falsifier.gate and falsifier.fault and falsifier.expect
    expect = falsifier.expect
    lines = [
        f"{falsifier.place}: {falsifier.id} {Status.SURVIVED}",
        _row("gate", f"{falsifier.gate.id}: {falsifier.gate.rule}"),
        _row("fault", f"{falsifier.fault.fault}: {falsifier.fault.meaning}"),
        _row("expected", f"verdict {expect.verdict} through check {expect.check}{_at(expect)}"),
        _row("because", reason),
        _row("sabotaged", f"{sabotaged.verdict} {sabotaged.reason}".rstrip()),
    ]
    for outcome in sabotaged.outcomes:
        lines += check_lines(outcome)
    lines.append(_row("control", f"{control.verdict} {control.reason}".rstrip()))
    for outcome in control.outcomes:
        lines += check_lines(outcome)
    if falsifier.if_fails:
        lines.append(_row("if fails", falsifier.if_fails))
    return "\n".join(lines)


def _at(expect: Expectation) -> str:
    return f" at {expect.slot}" if expect.slot else ""


def check_lines(outcome: Outcome) -> list[str]:
    """A check's own lines: summary, then what it was measured by."""
    lines = [_row("check", f"{outcome.check}: {str(outcome.verdict).upper()}: {outcome.summary}")]
    facts = []
    if outcome.figure and outcome.figure not in outcome.summary:
        facts.append(f"measured {outcome.figure}")
    if outcome.limit:
        facts.append(f"limit {outcome.limit}")
    if outcome.headroom_pct is not None:
        facts.append(f"headroom {outcome.headroom_pct:.1f} %")
    if outcome.interval is not None:
        facts.append(f"interval [{outcome.interval[0]:.6g}, {outcome.interval[1]:.6g}]")
    if outcome.window is not None:
        facts.append(f"steps {outcome.window[0]}..{outcome.window[1]}")
    if outcome.n is not None:
        facts.append(f"n = {outcome.n}")
    if facts:
        lines.append(INDENT + ", ".join(facts))
    return lines + [INDENT + line for line in outcome.detail if line not in outcome.summary]


def _row(label: str, text: str) -> str:
    return f"  {label:<10}{one_line(text)}"
