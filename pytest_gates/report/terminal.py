"""The end of a session on the terminal: impact table, coverage tally, what was written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pytest_gates.results import Mode, Result, Status

if TYPE_CHECKING:
    import pytest

COLORS = {
    Status.PASS: "green",
    Status.CAUGHT: "green",
    Status.BLOCKED: "yellow",
    Status.INCONCLUSIVE: "red",
    Status.FAIL: "red",
    Status.SURVIVED: "red",
    Status.UNFOUNDED: "red",
    Status.TAMPERED: "red",
    Status.UNARMED: "red",
}
HEAD = ("gate", "prior", "now", "evidence", "measured", "limit", "headroom")
WIDEST = 44


def headroom(result: Result) -> str:
    """The headroom for a table."""
    return "" if result.headroom_pct is None else f"{result.headroom_pct:+.1f} %"


def table_rows(results: Sequence[Result]) -> list[tuple[str, ...]]:
    """Rows of the impact table; prose is counted in the tally and left out here."""
    return [
        (
            ("  " if result.kind == "falsifier" else "") + result.subject,
            result.prior or "-",
            str(result.status),
            str(result.mode) if result.mode is not Mode.NONE else str(Status.BLOCKED)
            if result.status is Status.BLOCKED else "-",
            _short(result.figure or result.reason),
            _short(result.limit),
            headroom(result),
        )
        for result in results
        if not result.prose
    ]  # fmt: skip


def _short(text: str) -> str:
    return text if len(text) <= WIDEST else text[: WIDEST - 1] + "…"


def tally(results: Sequence[Result]) -> list[str]:
    """Gates by verdict, gates of prose only, gates never seen red."""
    gates = [result for result in results if result.kind == "gate"]
    real = [gate for gate in gates if not gate.prose]
    prose = len(gates) - len(real)
    words: Counter[str] = Counter()
    for gate in real:
        replayed = " (replayed)" if gate.mode is Mode.REPLAYED else ""
        words[f"{gate.status}{replayed}"] += 1
    verdicts = ", ".join(f"{count} {word}" for word, count in sorted(words.items()))
    lines = [f"gates: {len(gates)}" + (f" ({verdicts})" if verdicts else "")]
    if prose:
        lines.append(f"prose only, nothing executable: {prose}")
    unarmed = [gate.subject for gate in real if not gate.armed_by]
    if real:
        seen = len(real) - len(unarmed)
        names = f"; UNARMED: {', '.join(unarmed)}" if unarmed else ""
        lines.append(f"seen red: {seen} of {len(real)} gates{names}")
    falsifiers = [result for result in results if result.kind == "falsifier" and not result.prose]
    if falsifiers:
        found = Counter(str(result.status) for result in falsifiers)
        told = ", ".join(f"{count} {word}" for word, count in sorted(found.items()))
        lines.append(f"falsifiers: {len(falsifiers)} ({told})")
    return lines


def write_summary(
    results: Sequence[Result], told: Sequence[str], reporter: pytest.TerminalReporter
) -> None:
    """Write table, tally and what was written (or would be) to the terminal."""
    reporter.section("gates", sep="=")
    rows = table_rows(results)
    shown = [result for result in results if not result.prose]
    if rows:
        widths = [max(len(row[i]) for row in (HEAD, *rows)) for i in range(len(HEAD))]
        reporter.write_line(_line(HEAD, widths), bold=True)
        for result, row in zip(shown, rows, strict=True):
            reporter.write(_line(row[:2], widths) + "  ")
            reporter.write(row[2].ljust(widths[2]), **{COLORS[result.status]: True})
            reporter.write_line(("  " + _line(row[3:], widths[3:])).rstrip())
        reporter.write_line("")
    for line in (*tally(results), *told):
        reporter.write_line(line)


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    padded = [cell.ljust(width) for cell, width in zip(cells, widths, strict=False)]
    return "  ".join(padded)
