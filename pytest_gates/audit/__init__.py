"""The same line backwards: does the contract say what its records and their evidence say?

`foundation` asks it of one gate in a pytest session, `project.audit` of everything; both by the
functions of `claims` and `records`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pytest_gates.audit.claims import claim_findings
from pytest_gates.audit.codes import AuditFinding
from pytest_gates.audit.records import (
    Reader,
    evidence_of,
    lineage_findings,
    record_findings,
    record_place,
)
from pytest_gates.contract.models import Contract, Falsifier, Gate
from pytest_gates.errors import LedgerError
from pytest_gates.ledger import Ledger, Record
from pytest_gates.results import Status

__all__ = ["Reader", "evidence_of", "foundation"]


def foundation(
    contract: Contract, declared: Gate | Falsifier, ledger: Ledger, read: Reader
) -> tuple[Status, str] | None:
    """What is wrong with the verdict a contract already carries, or None.

    UNFOUNDED: it claims a verdict that no record carries. TAMPERED: a record, its evidence or the
    basis is not what it was when it was recorded; the message names code and file. A contract's
    first item answers for records of ids that the contract no longer has.
    """
    try:
        for found in _findings(contract, declared, ledger, read):
            status = found.meaning.status
            if status is not None:
                where = "" if found.file == contract.file else f"{found.file}: "
                text = f"{found.code} {where}{found.what}; {found.meaning.remedy}"
                return status, text
    except LedgerError as error:
        return Status.TAMPERED, str(error)
    return None


def _findings(
    contract: Contract, declared: Gate | Falsifier, ledger: Ledger, read: Reader
) -> Iterator[AuditFinding]:
    if isinstance(declared, Gate):
        yield from claim_findings(contract, declared, ledger)
    yield from _history_findings(ledger.history(contract.id, declared.id), declared, read)
    if declared is contract.items[0]:
        for subject in _left_behind(contract, ledger):
            yield from _history_findings(ledger.history(contract.id, subject), None, read)


def _history_findings(
    history: Sequence[Record], declared: Gate | Falsifier | None, read: Reader
) -> Iterator[AuditFinding]:
    times = {record.sha: record.time for record in history}
    for record in history:
        of = f"{record.contract}::{record.subject}"
        place = record_place(record.sha)
        yield from lineage_findings(place, of, record.time, record.parents, times)
        yield from record_findings(record, declared, read)


def _left_behind(contract: Contract, ledger: Ledger) -> list[str]:
    """Ids under which this contract has records and declares nothing any more, in order."""
    return sorted(ledger.subjects(contract.id) - {item.id for item in contract.items})
