"""Everything at once: contracts, ledger, evidence, and what they say of each other."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pytest_gates.ancestry import Ancestry
from pytest_gates.audit.claims import claim_findings
from pytest_gates.audit.codes import AuditFinding
from pytest_gates.audit.records import lineage_findings, record_place
from pytest_gates.audit.shards import Proven, prove
from pytest_gates.checks.base import Verdict
from pytest_gates.contract.load import load_contract
from pytest_gates.contract.models import Contract, Falsifier, Gate
from pytest_gates.contract.runs import Caps
from pytest_gates.errors import ContractError
from pytest_gates.ledger import Record, read_record
from pytest_gates.revision import commits_between
from pytest_gates.staleness import causes, newest_by_gpu
from pytest_gates.timeline import RECORDS, Entry, timelines
from pytest_gates.verdict import EVALUATOR

Histories = Mapping[str, Ancestry[Entry]]
"""The history of each `<contract>::<gate>`."""
BROKEN = {"edited": "PG201", "misnamed": "PG202", "malformed": "PG203"}


@dataclass(frozen=True)
class Audited:
    """What an audit looked at and what it found."""

    findings: tuple[AuditFinding, ...]
    """In order of their places; notes among them."""
    contracts: tuple[Contract, ...]
    entries: tuple[Entry, ...]
    """Every sound record."""

    def with_findings(self, findings: Iterable[AuditFinding]) -> Audited:
        """The same with more of them."""
        return dataclasses.replace(self, findings=tuple(sorted({*self.findings, *findings})))

    @property
    def clean(self) -> bool:
        """Whether there are notes at most."""
        return all(found.meaning.grade == "note" for found in self.findings)


def audit(root: Path, files: Sequence[Path], caps: Caps = Caps()) -> Audited:  # noqa: B008 - frozen
    """Audit contracts and the whole ledger of their project."""
    findings: list[AuditFinding] = []
    contracts: list[Contract] = []
    for path in files:
        shown = path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)
        try:
            contracts.append(load_contract(path, shown, caps))
        except ContractError as error:
            findings += [
                AuditFinding(one.place.file, one.place.line, "PG108", "", one.message)
                for one in error.findings
            ]
    proven = prove(root, root / "evidence", contracts)
    histories = timelines(proven.entries)
    findings += proven.findings
    findings += _broken(proven, contracts)
    findings += _between(proven.entries)
    known = _Known(root / "evidence", contracts, histories)
    for contract in contracts:
        for gate in contract.gates:
            findings += claim_findings(contract, gate, known)
    findings += _states(contracts, proven.entries, histories)
    return Audited(tuple(sorted(set(findings))), tuple(contracts), tuple(proven.entries))


def _broken(proven: Proven, contracts: Sequence[Contract]) -> Iterator[AuditFinding]:
    """Renamed if somebody still looks for the bytes under their true name, else edited."""
    sought = {parent for entry in proven.entries for parent in entry.parents} | _cited(contracts)
    for one in proven.broken:
        renamed = one.damage == "edited" and one.found in sought
        told = dataclasses.replace(one, damage="misnamed") if renamed else one
        yield AuditFinding(one.place, 1, BROKEN[told.damage], "", one.message)


def _cited(contracts: Sequence[Contract]) -> set[str]:
    """Hashes of the records that contracts speak of."""
    return {str(entry["record"]) for one in contracts for gate in one.gates for entry in gate.basis}


def _between(entries: Sequence[Entry]) -> Iterator[AuditFinding]:
    times = {entry.sha: entry.time for entry in entries}
    for entry in entries:
        place = record_place(entry.sha)
        yield from lineage_findings(place, entry.of, entry.time, entry.parents, times)


class _Known:
    """The few records that contracts speak of, read anew: other processes read all of them."""

    def __init__(self, evidence: Path, contracts: Sequence[Contract], histories: Histories) -> None:
        self._histories = histories
        needed = _cited(contracts)
        for contract in contracts:
            for item in contract.items:
                needed |= {entry.sha for entry in self._current(contract.id, item.id)}
        self._records: dict[str, Record] = {}
        for sha in needed:
            found = read_record(f"{evidence / RECORDS}/{sha[:2]}/{sha}.json", evidence.name)
            if isinstance(found, Record):
                self._records[sha] = found

    def _current(self, contract: str, subject: str) -> tuple[Entry, ...]:
        history = self._histories.get(f"{contract}::{subject}")
        return history.current if history else ()

    def records(self) -> Mapping[str, Record]:
        """See `Ledger.records`; only those that are spoken of."""
        return self._records

    def current(self, contract: str, subject: str) -> tuple[Record, ...]:
        """See `Ledger.current`."""
        return tuple(self._records[entry.sha] for entry in self._current(contract, subject))


def _states(
    contracts: Sequence[Contract], entries: Sequence[Entry], histories: Histories
) -> Iterator[AuditFinding]:
    newest = newest_by_gpu(entries)
    for contract in contracts:
        for item in contract.items:
            history = histories.get(f"{contract.id}::{item.id}")
            if history is None:
                continue
            for code, what in _state(item, history, newest):
                of = f"{contract.id}::{item.id}"
                yield AuditFinding(contract.file, item.place.line, code, of, what)


def _state(
    item: Gate | Falsifier, history: Ancestry[Entry], newest: Mapping[str | None, Entry]
) -> Iterator[tuple[str, str]]:
    if len(history.heads) > 1:
        names = ", ".join(sha[:12] for sha in history.heads)
        yield "PG208", f"{len(history.heads)} heads: {names}"
    for entry in history.current:
        told = f"record {entry.sha[:12]}"
        if entry.evaluator != EVALUATOR:
            yield "PG209", f"{told} is of evaluator {entry.evaluator}, this is {EVALUATOR}"
        if entry.attempts > 1 and isinstance(item, Gate) and entry.verdict == Verdict.PASS:
            yield "PG210", f"{told} passed at attempt {entry.attempts}"
        for cause in causes(entry, None, newest, commits_between):
            yield "PG211", f"{told}: {cause}"
    if isinstance(item, Falsifier):
        yield from _survived(item, history)


def _survived(falsifier: Falsifier, history: Ancestry[Entry]) -> Iterator[tuple[str, str]]:
    """A falsifier that survived although its gate is said to pass; waived gates are PG504's."""
    gate = falsifier.gate
    if gate is None or falsifier.prose or gate.prior is not Verdict.PASS or gate.waiver is not None:
        return
    for entry in history.current:
        if entry.verdict == Verdict.PASS:
            continue
        told = f"record {entry.sha[:12]} says SURVIVED on {entry.gpu or 'the CPU'}"
        if entry.gate_hash == falsifier.hash:
            yield "PG109", f"{gate.id} claims pass, {told}: {entry.reason}"
        elif entry is history.current[0]:  # an older one was answered by what came after it
            yield "PG212", f"{gate.id} claims pass, {told}"
