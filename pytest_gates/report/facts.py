"""The small parts of the HTML report: a check, evidence, a record, as rows of label and text."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from pytest_gates.checks.base import Check
from pytest_gates.checks.figures import short
from pytest_gates.contract.models import check_kind
from pytest_gates.errors import EvidenceError
from pytest_gates.evidence import Evidence
from pytest_gates.ledger import Record
from pytest_gates.results import Result, Status
from pytest_gates.run.plan import describe

Reader = Callable[[str], Evidence]
Rows = tuple[tuple[str, str], ...]

CODE_SHOWN = 12
"""Characters of a revision."""
TONES = {
    "pass": "good",
    "fail": "bad",
    "inconclusive": "warn",
    "blocked": "mute",
    "pending": "mute",
}


class EvidenceSource(Protocol):
    """Where evidence is read from."""

    @property
    def read(self) -> Reader:
        """Evidence by its location, verified."""

    @property
    def manifest(self) -> Callable[[str], Mapping[str, Any]]:
        """Its manifest."""


@dataclass(frozen=True, kw_only=True)
class CheckView:
    """A check with what it found."""

    kind: str
    settings: str
    verdict: str
    tone: str
    summary: str
    facts: Rows
    detail: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class EvidenceView:
    """One execution as files with hashes."""

    location: str
    problem: str = ""
    id: str = ""
    title: str = ""
    facts: Rows = ()
    files: tuple[tuple[str, int, str], ...] = ()
    """Name, bytes, SHA-256."""


@dataclass(frozen=True, kw_only=True)
class HistoryView:
    """One record of a gate."""

    sha: str
    time: str
    verdict: str
    tone: str
    measured: str
    host: str
    code: str
    attempts: int
    current: bool


def tone_of(result: Result) -> str:
    """How a result is coloured; the word is always written beside it."""
    if result.status in {Status.PASS, Status.CAUGHT}:
        return "bad" if result.red else "good"
    if result.status is Status.BLOCKED:
        return "bad" if result.red else "mute"
    return "bad" if result.red and result.status is not Status.INCONCLUSIVE else "warn"


def anchor(name: str, used: set[str]) -> str:
    """A fragment identifier that nobody else has; readable, for people link to it."""
    plain = re.sub(r"[^A-Za-z0-9_.-]+", "-", name).strip("-") or "gate"
    unique, count = plain, 2
    while unique in used:
        unique, count = f"{plain}-{count}", count + 1
    used.add(unique)
    return unique


def measured_of(result: Result) -> str:
    """Figure and limit in one line."""
    return ", ".join(
        part for part in (result.figure, result.limit and f"limit {result.limit}") if part
    )


def check_view(check: Check, observed: Mapping[str, Any]) -> CheckView:
    """A check as declared, and what it found if it was judged."""
    declared = check.model_dump(mode="json", exclude_defaults=True, exclude={"kind"})
    verdict = str(observed.get("verdict", "not judged"))
    return CheckView(
        kind=check_kind(check),
        settings=", ".join(f"{key} {_word(value)}" for key, value in declared.items()),
        verdict=verdict.upper() if observed else verdict,
        tone=TONES.get(verdict, "mute"),
        summary=str(observed.get("summary", "")),
        facts=_facts(observed),
        detail=tuple(str(line) for line in observed.get("detail", ())),
    )


def _facts(observed: Mapping[str, Any]) -> Rows:
    unit = str(observed.get("unit") or "")
    window, interval, headroom = (
        observed.get(key) for key in ("window", "interval", "headroom_pct")
    )
    rows = [
        ("measured", observed.get("figure")),
        ("limit", observed.get("limit")),
        ("headroom", None if headroom is None else f"{headroom:+.1f} %"),
        ("interval", interval and f"{short(interval[0])} to {short(interval[1])} {unit}".strip()),
        ("steps", window and f"{window[0]} to {window[1]}"),
        ("n", observed.get("n")),
    ]
    return tuple((label, str(value)) for label, value in rows if value not in (None, ""))


def _word(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_word(one)}" for key, one in value.items()) + "}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "[" + ", ".join(_word(one) for one in value) + "]"
    return short(value) if isinstance(value, float) else str(value)


def evidence_view(location: str, source: EvidenceSource) -> EvidenceView:
    """One execution with its files, or why it cannot be read."""
    try:
        evidence = source.read(location)
        manifest = source.manifest(location)
    except EvidenceError as error:
        return EvidenceView(location=location, problem=str(error))
    fault = evidence.fault["fault"] if evidence.fault else None
    rows = [
        ("how it ended", evidence.status + (f": {evidence.reason}" if evidence.reason else "")),
        ("fault injected", fault),
        ("repetition", str(evidence.repetition + 1) if evidence.repetition else None),
        ("host", _host(evidence)),
        ("process", f"PID {evidence.pid}" if evidence.pid is not None else None),
        ("took", None if evidence.wall_ms is None else f"{evidence.wall_ms / 1000:.1f} s"),
        ("started", evidence.started),
        ("code", evidence.code),
        ("witness", _samples(evidence)),
        ("notes", "; ".join(evidence.notes)),
    ]
    return EvidenceView(
        location=location,
        id=evidence.id,
        title=describe(evidence.run) + (f", with fault {fault}" if fault else ""),
        facts=tuple((label, text) for label, text in rows if text),
        files=tuple(
            (name, entry["bytes"], entry["sha256"])
            for name, entry in sorted(manifest["files"].items())
        ),
    )


def _samples(evidence: Evidence) -> str:
    count = len(evidence.witness.samples)
    return evidence.witness.unavailable or ("1 sample" if count == 1 else f"{count} samples")


def _host(evidence: Evidence) -> str:
    host = evidence.host
    named = [
        host.gpu.name if host.gpu else "no GPU",
        host.driver and f"driver {host.driver}",
        host.torch and f"torch {host.torch}",
        host.cuda and f"CUDA {host.cuda}",
        host.python and f"Python {host.python}",
        host.platform,
        "declared, not observed" if evidence.declared else None,
    ]
    return ", ".join(part for part in named if part)


def history_view(record: Record, current: bool) -> HistoryView:
    """One row of a gate's past."""
    observed = [one for one in record.observed if one.get("verdict") == record.verdict]
    figure = next((str(one["figure"]) for one in observed if one.get("figure")), "")
    host = [record.host["gpu"] or "CPU"]
    if record.host["torch"]:
        host.append(f"torch {record.host['torch']}")
    if record.host["declared"]:
        host.append("declared")
    return HistoryView(
        sha=record.sha,
        time=record.time,
        verdict=str(record.verdict).upper(),
        tone=TONES[str(record.verdict)],
        measured=figure,
        host=", ".join(host),
        code=(record.code or "")[:CODE_SHOWN],
        attempts=record.attempts,
        current=current,
    )
