"""`pytest-gates history [GATE]`: when a gate was judged, what came out, and what had changed."""

from __future__ import annotations

import argparse
import contextlib
import csv
import io
import json
import re
from collections.abc import Iterable, Sequence
from datetime import datetime
from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from pytest_gates.commands.project import offer_root, project_root
from pytest_gates.commands.say import say
from pytest_gates.commands.teach import teach
from pytest_gates.errors import GatesError
from pytest_gates.revision import shortened

if TYPE_CHECKING:
    from pytest_gates.timeline import Entry

FIELDS = ("time", "contract", "subject", "verdict", "figure", "limit", "headroom_pct", "gpu",
          "torch", "driver", "code", "evaluator", "attempts", "changed", "reason",
          "sha")  # fmt: skip
LAST = 40
"""Lines of a gate's table in the terminal, and values of a sparkline."""
MINUTES = len("2026-01-02T03:04")
"""Of a time, what an overview shows; `--since` and `--until` take it so."""
MOMENT = re.compile(r"\d{4}-\d{2}-\d{2}(T\d{2}:\d{2}(:\d{2}Z?)?)?", re.ASCII)
BARS = "▁▂▃▄▅▆▇█"


def offer(commands: Any) -> None:
    """Add the command to the command line."""
    parser = teach(
        commands,
        "history",
        "the timeline of a gate: verdicts, figures, GPUs, and what changed",
        """
        Without a gate: one line for each gate and falsifier, with the run of its figures. With
        one: a line for each judgement, the newest last. A falsifier is CAUGHT or SURVIVED; its
        record, --json and --verdict call that pass and fail. Nothing is proven here;
        `pytest-gates audit` does that.

        Exit status: 0, also where filters leave nothing; 1 there is no record of that gate.
        """,
        (
            "pytest-gates history GATE-GPU-004 --gpu H200 --since 2026-11-01",
            "pytest-gates history FALSIFY-GPU-004 --verdict fail",
        ),
    )
    parser.add_argument(
        "gate", nargs="?", metavar="GATE", help="id of a gate or falsifier, or CONTRACT::ID"
    )
    parser.add_argument("--gpu", metavar="NAME", help="only GPUs whose name holds this; or `cpu`")
    parser.add_argument(
        "--since", type=_moment, metavar="DATE", help="not before this day or time (UTC)"
    )
    parser.add_argument(
        "--until", type=_moment, metavar="DATE", help="not after this day or time (UTC)"
    )
    parser.add_argument("--verdict", choices=("pass", "fail", "inconclusive"))
    parser.add_argument("--last", type=int, default=LAST, metavar="N",
                        help=f"lines of a gate's table (default: {LAST})")  # fmt: skip
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="for programs")
    form.add_argument("--csv", action="store_true", help="for spreadsheets")
    offer_root(parser)
    parser.set_defaults(command=run)


def _moment(text: str) -> str:
    """A day or a time as records write it, for both are compared as text."""
    if MOMENT.fullmatch(text):
        with contextlib.suppress(ValueError):
            datetime.fromisoformat(text)
            return text
    raise argparse.ArgumentTypeError(
        f"{text!r} is no day and no time in UTC: 2026-11-01 or 2026-11-01T06:30:00Z was expected"
    )


def run(arguments: argparse.Namespace) -> int:
    """Tell the history; 1 if there is none of that gate."""
    from pytest_gates.timeline import read_entries, timelines  # noqa: PLC0415 - heavy

    contract, _, subject = (arguments.gate or "").rpartition("::")
    entries = read_entries(project_root(arguments.root) / "evidence", subject or None)
    if subject:
        entries = [one for one in entries if one.subject == subject
                   and contract in {"", one.contract}]  # fmt: skip
        if not entries:
            raise GatesError(f"no record of {arguments.gate}{_near(arguments)}")
    told: dict[str, list[tuple[Entry, str]]] = {}
    for of, history in sorted(timelines(entries).items()):
        ordered = [history.records[sha] for sha in reversed(history.newest_first)]
        kept = [row for row in _changes(ordered) if _wanted(row[0], arguments)]
        if kept:
            told[of] = kept
    if arguments.json or arguments.csv:
        rows = [_row(entry, changed) for many in told.values() for entry, changed in many]
        say(json.dumps(rows, indent=2) if arguments.json else _csv(rows))
    elif not told:
        say("no record is left by these filters")
    elif subject:
        for of, many in told.items():
            _timeline(of, many, arguments.last)
    else:
        _overview(told)
    return 0


def _near(arguments: argparse.Namespace) -> str:
    """The recorded id that was nearly spelt, for it is known only once all records are read."""
    from pytest_gates.timeline import read_entries  # noqa: PLC0415 - heavy
    from pytest_gates.vocabulary import nearest  # noqa: PLC0415 - heavy

    entries = read_entries(project_root(arguments.root) / "evidence")
    full = "::" in arguments.gate
    near = nearest(arguments.gate, sorted({one.of if full else one.subject for one in entries}))
    return f"; did you mean `{near}`?" if near else ""


def _wanted(entry: Entry, arguments: argparse.Namespace) -> bool:
    gpu = arguments.gpu
    on_gpu = gpu is None or gpu.lower() in (entry.gpu or "cpu").lower()
    since, until = arguments.since, arguments.until
    # A day compares with the beginning of a time: everything of that day counts.
    after = since is None or entry.time[: len(since)] >= since
    before = until is None or entry.time[: len(until)] <= until
    return on_gpu and after and before and arguments.verdict in {None, str(entry.verdict)}


def _changes(ordered: Iterable[Entry]) -> Iterable[tuple[Entry, str]]:
    """Each judgement with what had changed since the one before it on the same GPU."""
    before: dict[str | None, Entry] = {}
    for entry in ordered:
        was = before.get(entry.gpu)
        yield entry, "" if was is None else ", ".join(_differences(was, entry))
        before[entry.gpu] = entry


def _differences(was: Entry, now: Entry) -> Iterable[str]:
    if was.verdict != now.verdict:
        yield f"{was.said} -> {now.said}"
    if was.gate_hash != now.gate_hash:
        yield "gate"
    if was.run_hash != now.run_hash:
        yield "run"
    for name in ("evaluator", "torch", "driver"):
        if getattr(was, name) != getattr(now, name):
            yield f"{name} {getattr(was, name)} -> {getattr(now, name)}"
    if was.code != now.code:
        yield "code"


def _row(entry: Entry, changed: str) -> dict[str, Any]:
    said = entry._asdict() | {"changed": changed, "verdict": str(entry.verdict)}
    return {name: said[name] for name in FIELDS}


def _csv(rows: Sequence[dict[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, FIELDS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().rstrip("\n")


def sparkline(values: Sequence[float]) -> str:
    """Values as bars between their least and their largest; the newest last."""
    if not values:
        return ""
    low, high = min(values), max(values)
    reach = high / 2 - low / 2  # halves, for the whole may be beyond a double
    return "".join(
        BARS[round((value / 2 - low / 2) / reach * (len(BARS) - 1)) if reach else 0]
        for value in values
    )


def _values(many: Sequence[tuple[Entry, str]]) -> list[float]:
    return [entry.value for entry, _ in many[-LAST:] if entry.value is not None]


def _timeline(of: str, many: Sequence[tuple[Entry, str]], last: int) -> None:
    say(of)
    if values := _values(many):
        say(f"  {sparkline(values)}  {min(values):g} to {max(values):g}, the last {len(values)}")
    hidden = len(many) - last
    if hidden > 0:
        say(f"  {hidden} older ones: --last {len(many)}")
    cells = [
        (
            entry.time,
            entry.said,
            entry.figure,
            entry.limit,
            "" if entry.headroom_pct is None else f"{entry.headroom_pct:+.1f} %",
            entry.gpu or "CPU",
            shortened(entry.code or ""),
            changed,
        )
        for entry, changed in many[-last:]
    ]
    _table((("when", "outcome", "measured", "limit", "headroom", "gpu", "code", "changed"), *cells))


def _overview(told: dict[str, list[tuple[Entry, str]]]) -> None:
    """By contract, its gates before its falsifiers, as a session lists them."""
    newest = {of: many[-1][0] for of, many in told.items()}
    ordered = sorted(
        newest.items(), key=lambda one: (one[1].contract, one[1].kind == "falsifier", one[0])
    )
    cells = [
        ("  " * (entry.kind == "falsifier") + entry.subject, str(len(told[of])),
         sparkline(_values(told[of])), entry.said, entry.figure, entry.gpu or "CPU",
         entry.time[:MINUTES])
        for of, entry in ordered
    ]  # fmt: skip
    head, *lines = _lines(
        (("gate", "records", "figures", "newest", "measured", "gpu", "when"), *cells)
    )
    say(head)
    contracts = (entry.contract for _, entry in ordered)
    for contract, those in groupby(zip(contracts, lines, strict=True), key=itemgetter(0)):
        say(contract)
        for _, line in those:
            say(line)


def _table(rows: Sequence[tuple[str, ...]]) -> None:
    for line in _lines(rows):
        say(line)


def _lines(rows: Sequence[tuple[str, ...]]) -> Iterable[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        padded = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        yield ("  " + "  ".join(padded)).rstrip()
