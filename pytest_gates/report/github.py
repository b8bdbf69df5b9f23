"""GitHub Actions: the impact table in a job's summary, and red gates on their contract's line."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from pytest_gates.report.terminal import headroom, tally
from pytest_gates.results import Mode, Result, Status

HEAD = ("gate", "prior", "now", "evidence", "measured", "limit", "headroom")
LIMIT_BYTES = 900_000
"""GitHub refuses a step's summary of more than 1 MiB."""
MARKS = re.compile(r"([\\`*_{}\[\]<>#|~!&@:])")


def markdown(results: Sequence[Result]) -> str:
    """The impact table and the tally as GitHub's Markdown; words of a contract stay text."""
    told = tally(results)
    lines = ["## Gates", "", *(f"- {escaped(line)}" for line in told), ""]
    shown = [result for result in results if not result.prose]
    if shown:
        lines += [_row(HEAD), "|---|---|---|---|---|---|--:|"]
    size = sum(len(line.encode()) + 1 for line in lines)
    for index, result in enumerate(shown):
        row = _row([escaped(cell) for cell in _cells(result)])
        size += len(row.encode()) + 1
        if size > LIMIT_BYTES:
            lines += ["", f"{len(shown) - index} more are left out here."]
            break
        lines.append(row)
    return "\n".join(lines) + "\n"


def _cells(result: Result) -> tuple[str, ...]:
    calm = "⚠️ " if result.waived else "" if result.status is Status.BLOCKED else "✅ "
    return (
        result.subject,
        result.prior or "none",
        ("❌ " if result.red else calm) + result.said,
        str(result.mode) if result.mode is not Mode.NONE else "none",
        result.figure or result.reason,
        result.limit,
        headroom(result),
    )


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def escaped(text: str) -> str:
    """Text that Markdown shows as it is: no markup, no mention, no line break."""
    return MARKS.sub(r"\\\1", " ".join(text.split())).replace("\\<", "&lt;").replace("\\&", "&amp;")


def append_summary(path: Path, results: Sequence[Result]) -> None:
    """Append to the file that `$GITHUB_STEP_SUMMARY` names; a job may have others write there."""
    with path.open("a", encoding="utf-8") as file:
        file.write(markdown(results))


def workflow_commands(
    results: Sequence[Result], root: Path, environment: Mapping[str, str] = os.environ
) -> Iterator[str]:
    """A workflow command for each red item, where this is a GitHub job."""
    if environment.get("GITHUB_ACTIONS") != "true":
        return
    workspace = Path(environment.get("GITHUB_WORKSPACE", root))
    for result in results:
        if result.red:
            path = root / result.contract
            file = path.relative_to(workspace) if path.is_relative_to(workspace) else path
            place = f"file={_property(file.as_posix())},line={result.line}"
            title = _property(f"{result.subject} {result.status}")
            reason = result.reason or result.report or str(result.status)
            yield f"::error {place},title={title}::{_message(reason)}"


def _message(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _message(text).replace(":", "%3A").replace(",", "%2C")
