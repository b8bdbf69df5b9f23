"""What a contract says of a gate, held against the ledger."""

from __future__ import annotations

from collections.abc import Iterator

from pytest_gates.audit.codes import AuditFinding
from pytest_gates.checks.base import Verdict
from pytest_gates.clock import utc_date
from pytest_gates.contract.models import Contract, Gate
from pytest_gates.ledger import Readable, Record
from pytest_gates.recording import gate_edit
from pytest_gates.report.basis import basis_entry, same_entry, worst_of

CLAIMS = frozenset({Verdict.PASS, Verdict.FAIL, Verdict.INCONCLUSIVE})
SHOWN = 12
"""Characters of a hash in a message."""


def claim_findings(contract: Contract, gate: Gate, ledger: Readable) -> Iterator[AuditFinding]:
    """What is wrong with the verdict that a contract claims, the worst first."""
    wrong = list(_claim(contract, gate, ledger))
    if not wrong:
        wrong = list(_lag(contract, gate, ledger))
    for code, what in (*wrong, *_waiver(gate)):
        yield AuditFinding(
            contract.file, gate.place.line, code, f"{contract.id}::{gate.id}", what
        )  # fmt: skip


def _claim(contract: Contract, gate: Gate, ledger: Readable) -> Iterator[tuple[str, str]]:
    if not gate.basis:
        if gate.prior in CLAIMS:
            yield "PG101", f"the contract says `verdict: {gate.claimed}`, and no record carries it"
        return
    records: list[Record] = []
    for entry in gate.basis:
        sha = str(entry["record"])
        record = ledger.records().get(sha)
        if record is None:
            yield "PG102", f"verdict_basis cites record {sha[:SHOWN]}, which is not there"
            return
        if (record.contract, record.subject) != (contract.id, gate.id):
            of = f"{record.contract}::{record.subject}"
            yield "PG103", f"verdict_basis cites record {sha[:SHOWN]}, which is of {of}"
            return
        if not same_entry(entry, basis_entry(record, armed=False)):
            text = f"verdict_basis differs from its record {sha[:SHOWN]}"
            yield "PG104", f"{text}: it was edited"
            return
        records.append(record)
    worst = worst_of(records)
    if gate.claimed != worst:
        yield "PG105", f"the contract says `verdict: {gate.claimed}`, its records say {worst}"


def _lag(contract: Contract, gate: Gate, ledger: Readable) -> Iterator[tuple[str, str]]:
    if gate.prose:
        return
    cited = [ledger.records()[str(entry["record"])] for entry in gate.basis]
    old = [record.sha[:SHOWN] for record in cited if record.gate_hash != gate.hash]
    if old:
        yield "PG107", f"the gate is not declared as it was when record {old[0]} was made"
    edit = gate_edit(contract, gate, [ledger])
    if edit is not None:
        newest = ", ".join(str(entry["record"])[:SHOWN] for entry in edit.basis)
        yield "PG106", f"the ledger says {edit.verdict} by record {newest}"


def _waiver(gate: Gate) -> Iterator[tuple[str, str]]:
    waiver = gate.waiver
    if waiver is None:
        return
    if waiver.expired(utc_date()):
        yield "PG501", str(waiver)
    elif gate.prior is Verdict.PASS:
        yield "PG502", str(waiver)
    else:
        yield "PG503", str(waiver)
