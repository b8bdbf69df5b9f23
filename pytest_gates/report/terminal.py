"""The end of a session on the terminal: impact table, coverage tally, what was written."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import groupby
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
    Status.ERROR: "red",
    Status.UNFOUNDED: "red",
    Status.TAMPERED: "red",
    Status.UNARMED: "red",
}
HEAD = ("gate", "prior", "now", "evidence", "measured", "limit", "headroom")
NOW = HEAD.index("now")
ELASTIC = (HEAD.index("measured"), HEAD.index("limit"))
"""Columns that give way where the terminal is narrow, down to `NARROWEST`."""
NARROWEST, WIDEST = 14, 44
GAP = "  "
MANY = 200
"""Rows of the table beyond which some are only counted, and lines of diffs that are shown."""
NAMED = 3
"""Ids that a line of the tally names; the table and `--gates-strict` have them all."""
WITHOUT_TERMINAL = (160, 24)


def headroom(result: Result) -> str:
    """The headroom for a table."""
    return "" if result.headroom_pct is None else f"{result.headroom_pct:+.1f} %"


def table_row(result: Result) -> tuple[str, ...]:
    """A gate's or falsifier's cells of the impact table."""
    why = "" if result.status is Status.BLOCKED else result.reason
    return (
        ("  " if result.kind == "falsifier" else "") + result.subject,
        result.prior or "-",
        result.said,
        str(result.mode) + (f", attempt {result.attempts}" if result.attempts > 1 else ""),
        result.figure or why,
        result.limit,
        headroom(result),
    )


def column_widths(rows: Sequence[Sequence[str]], available: int) -> list[int]:
    """Widths under which the rows fit, as far as that is possible."""
    widths = [max(len(row[i]) for row in (HEAD, *rows)) for i in range(len(HEAD))]
    for column in ELASTIC:
        widths[column] = min(widths[column], WIDEST)
    excess = sum(widths) + len(GAP) * (len(widths) - 1) - available
    for column in sorted(ELASTIC, key=widths.__getitem__, reverse=True):
        given = max(0, min(excess, widths[column] - NARROWEST))
        widths[column] -= given
        excess -= given
    return widths


def tally(results: Sequence[Result]) -> list[str]:
    """Gates by verdict, gates of prose only, gates never seen red, and why some are blocked."""
    gates = [result for result in results if result.kind == "gate"]
    real = [gate for gate in gates if not gate.prose]
    lines = [f"gates: {len(gates)}" + _counted([gate for gate in gates if _judged(gate)])]
    lines += _prose_only(results)
    if real:
        unarmed = [gate.subject for gate in real if not gate.armed_by]
        never = f"; UNARMED: {_some(unarmed)}" if unarmed else ""
        lines.append(f"seen red: {len(real) - len(unarmed)} of {len(real)} gates{never}")
    lines += [
        f"{'waived' if gate.waived else 'waiver without effect'}: "
        f"{gate.subject} {gate.status}: {gate.waiver}"
        for gate in real
        if gate.waiver
    ]
    lines += _suspect(real)
    falsifiers = [result for result in results if result.kind == "falsifier" and not result.prose]
    lines += _waived_with(falsifiers)
    if falsifiers:
        lines.append(f"falsifiers: {len(falsifiers)}" + _counted(falsifiers))
    return lines + _obstacles([*real, *falsifiers])


def _judged(result: Result) -> bool:
    """Whether something is said of it: prose claims nothing unless it claims a verdict."""
    return result.red or not result.prose


def _prose_only(results: Sequence[Result]) -> list[str]:
    """How many gates, and falsifiers, are prose that nothing can execute."""
    prose = Counter(result.kind for result in results if result.prose)
    if not prose:
        return []
    also = f", and {prose['falsifier']} falsifiers" if prose["falsifier"] else ""
    return [f"prose only, nothing executable: {prose['gate']}{also}"]


def _suspect(gates: Sequence[Result]) -> list[str]:
    """Each cause once, with the gates whose recorded verdicts it makes doubtful."""
    by_cause: dict[str, list[str]] = {}
    for gate in gates:
        for cause in gate.suspect:
            by_cause.setdefault(cause, []).append(gate.subject)
    return [f"SUSPECT: {_some(names)}: {cause}" for cause, names in by_cause.items()]


def _waived_with(falsifiers: Sequence[Result]) -> list[str]:
    """Falsifiers that could not be asked, since their gate fails without a fault and is waived."""
    by_gate: dict[str, list[str]] = {}
    for one in falsifiers:
        if one.waived:
            by_gate.setdefault(one.binds_to, []).append(one.subject)
    return [f"waived with {gate}: {', '.join(names)}" for gate, names in by_gate.items()]


def _counted(results: Sequence[Result]) -> str:
    """How many of each status, worst first, replayed ones apart."""
    words = Counter(
        (list(COLORS).index(one.status), f"{one.status}{_replayed(one)}") for one in results
    )
    told = ", ".join(f"{count} {word}" for (_, word), count in sorted(words.items(), reverse=True))
    return f" ({told})" if told else ""


def _replayed(result: Result) -> str:
    return " replayed" if result.mode is Mode.REPLAYED else ""


def _obstacles(results: Sequence[Result]) -> list[str]:
    """Each reason for BLOCKED once; the table has no room for it."""
    reasons = Counter(one.reason for one in results if one.status is Status.BLOCKED)
    return [f"BLOCKED {count}: {reason}" for reason, count in reasons.most_common()]


def _some(names: Sequence[str]) -> str:
    more = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {more} more" if more > 0 else "")


def write_summary(
    results: Sequence[Result], told: Iterable[str], reporter: pytest.TerminalReporter
) -> None:
    """Write table, tally and what was written (or would be) to the terminal."""
    everything = reporter.config.getoption("verbose") > 0
    reporter.ensure_newline()
    reporter.section("gates", sep="=")
    rows = [result for result in results if _judged(result)]
    shown = rows if everything else listed(rows)
    if shown:
        _write_table(shown, reporter)
        reporter.write_line("")
    if len(shown) < len(rows):
        reporter.write_line(f"{_left_out(rows, shown)} are not listed; -v lists them")
    for line in tally(results):
        reporter.write_line(line)
    for number, line in enumerate(told):
        if number >= MANY and not everything:
            reporter.write_line(f"and more than these {MANY} lines; -v shows them all")
            break
        reporter.write_line(line)


def listed(rows: Sequence[Result]) -> list[Result]:
    """The rows of a table that can be read.

    Gate by gate as long as there are not too many: beyond that, falsifiers that are not red are
    left to the tally first, and plain passes among thousands of gates after them.
    """
    if len(rows) <= MANY:
        return list(rows)
    gates = [one for one in rows if one.kind == "gate" or one.red]
    if len(gates) <= MANY:
        return gates
    return [one for one in gates if one.red or one.status is not Status.PASS]


def _left_out(rows: Sequence[Result], shown: Sequence[Result]) -> str:
    """What the table has no room for: `201 gates that passed and 40 falsifiers`."""
    left: Counter[str] = Counter(one.kind for one in rows)
    left.subtract(one.kind for one in shown)
    words = {"gate": "gates that passed", "falsifier": "falsifiers"}
    return " and ".join(f"{left[kind]} {word}" for kind, word in words.items() if left[kind])


def _write_table(results: Sequence[Result], reporter: pytest.TerminalReporter) -> None:
    """One block a contract; prose is counted in the tally and left out here."""
    available = shutil.get_terminal_size(WITHOUT_TERMINAL).columns
    widths = column_widths([table_row(result) for result in results], available)
    reporter.write_line(_line(HEAD, widths), bold=True)
    blocks = [(file, list(block)) for file, block in groupby(results, lambda one: one.contract)]
    for file, block in blocks:
        if len(blocks) > 1:
            reporter.write_line(file, light=True)
        for result in block:
            row = table_row(result)
            color = "red" if result.red else "yellow" if result.waived else COLORS[result.status]
            reporter.write(_line(row[:NOW], widths) + GAP)
            reporter.write(row[NOW].ljust(widths[NOW]), **{color: True})
            rest = _line(row[NOW + 1 :], widths[NOW + 1 :])
            reporter.write_line((GAP + rest).rstrip())


def _line(cells: Iterable[str], widths: Iterable[int]) -> str:
    return GAP.join(
        _cut(cell, width).ljust(width) for cell, width in zip(cells, widths, strict=False)
    )


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"
