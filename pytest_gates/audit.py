"""The same line backwards: does the contract say what its records and their evidence say?"""

from __future__ import annotations

from collections.abc import Callable

from pytest_gates.checks.base import Verdict
from pytest_gates.contract.models import Contract, Falsifier, Gate
from pytest_gates.errors import EvidenceError, LedgerError
from pytest_gates.evidence import Evidence
from pytest_gates.ledger import Ledger, Record
from pytest_gates.report.basis import basis_entry, same_entry, worst_of
from pytest_gates.results import Status
from pytest_gates.verdict import EVALUATOR, EvidenceByRun, judge

Reader = Callable[[str], Evidence]
"""Reads evidence by its location, verified against its hashes."""

CLAIMS = frozenset({Verdict.PASS, Verdict.FAIL, Verdict.INCONCLUSIVE})


def foundation(
    contract: Contract, declared: Gate | Falsifier, ledger: Ledger, read: Reader
) -> tuple[Status, str] | None:
    """What is wrong with the verdict a contract already carries, or None.

    UNFOUNDED: it claims a verdict that no record carries. TAMPERED: a record, its evidence or the
    basis is not what it was when it was recorded; the message names the file.
    """
    try:
        if isinstance(declared, Gate):
            unfounded = _unfounded(contract, declared, ledger)
            if unfounded is not None:
                return unfounded
        for record in ledger.history(contract.id, declared.id):
            for reference in record.evidence:
                _same_evidence(read(reference["location"]), reference["id"], reference["location"])
            different = _rederived(declared, record, read)
            if different is not None:
                return Status.TAMPERED, different
    except (EvidenceError, LedgerError) as error:
        return Status.TAMPERED, str(error)
    return None


def _unfounded(  # noqa: PLR0911 - one return a finding
    contract: Contract, gate: Gate, ledger: Ledger
) -> tuple[Status, str] | None:
    if not gate.basis:
        if gate.prior in CLAIMS:
            why = f"the contract says `verdict: {gate.claimed}`, and no record carries it"
            return Status.UNFOUNDED, f"{why}; set it to `pending` and run the gate"
        return None
    records = []
    for entry in gate.basis:
        sha = str(entry["record"])
        record = ledger.records().get(sha)
        if record is None:
            return Status.UNFOUNDED, f"verdict_basis cites record {sha[:12]}, which is not there"
        if (record.contract, record.subject) != (contract.id, gate.id):
            of = f"{record.contract}::{record.subject}"
            return Status.TAMPERED, f"verdict_basis cites record {sha[:12]}, which is of {of}"
        if not same_entry(entry, basis_entry(record, sha, armed=False)):
            return (
                Status.TAMPERED,
                f"verdict_basis differs from its record {sha[:12]}: it was edited",
            )
        records.append(record)
    worst = worst_of(records)
    if gate.claimed != worst:
        why = f"the contract says `verdict: {gate.claimed}`, its records say {worst}"
        return Status.UNFOUNDED, f"{why}; set it to `pending` and run the gate"
    return None


def _same_evidence(evidence: Evidence, cited: str, location: str) -> None:
    if evidence.id != cited:
        told = f"its manifest's SHA-256 is {evidence.id[:12]}…, the record cites {cited[:12]}…"
        raise EvidenceError(
            f"{location}/manifest.json: {told}: it was changed after it was recorded"
        )


def _rederived(declared: Gate | Falsifier, record: Record, read: Reader) -> str | None:
    """Judge a record's evidence again, if gate and evaluator are those that made it."""
    if not isinstance(declared, Gate) or declared.prose:
        return None
    if record.gate_hash != declared.hash or record.evaluator != EVALUATOR:
        return None
    verdict = judge(declared, evidence_of(record, read)).verdict
    if verdict == record.verdict:
        return None
    return f"record {record.sha[:12]} says {record.verdict}, its evidence says {verdict}"


def evidence_of(record: Record, read: Reader, *, sabotaged: bool = False) -> EvidenceByRun:
    """The evidence a record cites, by run; of a falsifier's record one side of the pair."""
    found: dict[str, list[Evidence]] = {}
    for reference in sorted(record.evidence, key=lambda one: one["repetition"]):
        one = read(reference["location"])
        side, _, role = reference["role"].rpartition(":")
        if (side == "sabotaged") == sabotaged:
            found.setdefault(role, []).append(one)
    return {role: tuple(many) for role, many in found.items()}
