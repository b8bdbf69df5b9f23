"""A record, held against its parents, its evidence and the gate that it judged."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from pytest_gates.audit.codes import AuditFinding
from pytest_gates.canonical import plain
from pytest_gates.checks.base import Verdict
from pytest_gates.contract.models import Falsifier, Gate
from pytest_gates.errors import (
    ChangedEvidenceError,
    EvidenceError,
    MissingEvidenceError,
    SwappedEvidenceError,
)
from pytest_gates.evidence import Evidence
from pytest_gates.falsify import Pair, not_caught
from pytest_gates.ledger import EvidenceRef, Record
from pytest_gates.manifest import MANIFEST
from pytest_gates.timeline import RECORDS
from pytest_gates.verdict import EVALUATOR, EvidenceByRun, Judgement, judge

Reader = Callable[[str], Evidence]
"""Reads evidence by its location, verified against its hashes."""

SABOTAGED = "sabotaged"
RELATIVE = 1e-9
"""Difference of a figure that two machines' mathematics may make."""
COMPARED = ("check", "verdict", "figure", "limit", "headroom_pct", "statistic", "value", "unit",
            "window", "n", "interval")  # fmt: skip


def record_place(sha: str, evidence: str = "evidence") -> str:
    """A record's file, relative to the project's root."""
    return f"{evidence}/{RECORDS}/{sha[:2]}/{sha}.json"


def record_findings(
    record: Record, declared: Gate | Falsifier | None, read: Reader
) -> Iterator[AuditFinding]:
    """What is wrong with one record and its evidence, the worst first.

    `declared` is what the contract declares under that id now; the verdict is derived again if
    that is what the record judged, by the rules of this version.
    """
    of = f"{record.contract}::{record.subject}"
    place = record_place(record.sha)
    try:
        found = [(one, read(one["location"])) for one in record.evidence]
    except EvidenceError as error:
        file, line, what = _told(error)
        yield AuditFinding(file, line, _evidence_code(error), of, what)
        return
    for reference, evidence in found:
        wrong = _citation(reference, evidence)
        if wrong is not None:
            yield AuditFinding(place, 1, wrong[0], of, wrong[1])
            return
    for _, evidence in found:
        if evidence.started is not None and record.time < evidence.started:
            told = f"made {record.time}, its evidence was begun {evidence.started}"
            yield AuditFinding(place, 1, "PG207", of, told)
            break
    different = _derived(declared, record, read)
    if different is not None:
        yield AuditFinding(place, 1, different[0], of, different[1])


def _told(error: EvidenceError) -> tuple[str, int, str]:
    """File, line and text of an error that begins with them."""
    where, _, what = str(error).partition(": ")
    file, _, number = where.rpartition(":")
    return (file, int(number), what) if number.isdigit() else (where, 1, what)


def _evidence_code(error: EvidenceError) -> str:
    if isinstance(error, MissingEvidenceError):
        return "PG302"
    if isinstance(error, SwappedEvidenceError):
        return "PG303"
    return "PG301" if isinstance(error, ChangedEvidenceError) else "PG304"


def _citation(reference: EvidenceRef, evidence: Evidence) -> tuple[str, str] | None:
    location = reference["location"]
    if evidence.id != reference["id"]:
        told = f"its SHA-256 is {evidence.id[:12]}…, the record cites {reference['id'][:12]}…"
        return "PG303", f"{location}/{MANIFEST} is another manifest: {told}"
    if evidence.repetition != reference["repetition"]:
        told = f"repetition {evidence.repetition}, cited as {reference['repetition']}"
        return "PG303", f"{location} is {told}"
    sabotaged = reference["role"].startswith(f"{SABOTAGED}:")
    if evidence.fault is not None and not sabotaged:
        return "PG305", f"{location} was made with the fault {evidence.fault.get('fault')}"
    return None


def _derived(
    declared: Gate | Falsifier | None, record: Record, read: Reader
) -> tuple[str, str] | None:
    """Judge a record's evidence again, if gate and evaluator are those that made it."""
    if declared is None or declared.prose or record.evaluator != EVALUATOR:
        return None
    if record.gate_hash != declared.hash:
        return None
    if isinstance(declared, Falsifier):
        return _caught(declared, record, read)
    judgement = judge(declared, evidence_of(record, read))
    if judgement.verdict is Verdict.BLOCKED and judgement.reason:
        return "PG303", f"its evidence is of another run: {judgement.reason}"
    if judgement.verdict != record.verdict:
        told = f"record {record.sha[:12]} says {record.verdict}"
        return "PG205", f"{told}, its evidence says {judgement.verdict}"
    return _figures(record, judgement)


def _caught(falsifier: Falsifier, record: Record, read: Reader) -> tuple[str, str] | None:
    """A falsifier that passed saw its gate red for the expected reason, and green beside it."""
    gate = falsifier.gate
    assert gate
    if record.verdict is not Verdict.PASS and gate.waiver is None:
        return None
    pair = Pair(evidence_of(record, read, sabotaged=True), evidence_of(record, read))
    sabotaged, control = judge(gate, pair.sabotaged), judge(gate, pair.control)
    if record.verdict is not Verdict.PASS:
        waived = control.verdict is Verdict.FAIL
        return ("PG504", f"record {record.sha[:12]}: {gate.waiver}") if waived else None
    reason = not_caught(falsifier, pair, sabotaged, control)
    if reason is None:
        return None
    return "PG205", f"record {record.sha[:12]} says that the gate was seen red: {reason}"


def _figures(record: Record, judgement: Judgement) -> tuple[str, str] | None:
    if len(judgement.outcomes) != len(record.observed):
        told = f"{len(record.observed)} checks, its evidence gives {len(judgement.outcomes)}"
        return "PG206", f"record {record.sha[:12]} has {told}"
    for said, found in zip(record.observed, judgement.outcomes, strict=True):
        for name in COMPARED:
            derived = getattr(found, name)
            if said.get(name) == derived:
                continue
            derived = plain(derived)
            if not _same(said.get(name), derived):
                told = f"{name} {said.get(name)}, its evidence gives {derived}"
                return "PG206", f"record {record.sha[:12]} has {said.get('check')} with {told}"
    return None


def _same(said: Any, found: Any) -> bool:
    if said == found:
        return True
    if isinstance(said, list) and isinstance(found, list):
        return len(said) == len(found) and all(map(_same, said, found))
    if isinstance(said, int | float) and isinstance(found, int | float):
        return math.isclose(said, found, rel_tol=RELATIVE, abs_tol=RELATIVE)
    return False


def lineage_findings(
    place: str, of: str, time: str, parents: tuple[str, ...], times: Mapping[str, str]
) -> Iterator[AuditFinding]:
    """What is wrong between a record and its parents; `times` are those of all records there."""
    for parent in parents:
        before = times.get(parent)
        if before is None:
            told = f"its parent {parent[:12]} is not there"
            yield AuditFinding(place, 1, "PG204", of, told)
        elif time < before:
            yield AuditFinding(place, 1, "PG207", of, f"made {time}, its parent {before}")


def evidence_of(record: Record, read: Reader, *, sabotaged: bool = False) -> EvidenceByRun:
    """The evidence a record cites, by run; of a falsifier's record one side of the pair."""
    found: dict[str, list[Evidence]] = {}
    for reference in sorted(record.evidence, key=lambda one: one["repetition"]):
        one = read(reference["location"])
        side, _, role = reference["role"].rpartition(":")
        if (side == SABOTAGED) == sabotaged:
            found.setdefault(role, []).append(one)
    return {role: tuple(many) for role, many in found.items()}
