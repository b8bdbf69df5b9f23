"""The part of the audit that is the same for every record, done by as many processes as help.

Each process takes some folders of the ledger: it proves each record's bytes, re-hashes its evidence
and derives its verdict again. What spans records is left to `project`.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from pytest_gates.audit.codes import AuditFinding
from pytest_gates.audit.records import Reader, record_findings
from pytest_gates.contract.models import Contract, Falsifier, Gate
from pytest_gates.errors import EvidenceError
from pytest_gates.evidence import Evidence
from pytest_gates.evidence_store import read_evidence
from pytest_gates.ledger import Broken, Record, read_record, record_files, shards_of
from pytest_gates.timeline import RECORDS, Entry, entry_of

ALONE = 100
"""Records that one process audits before others are worth their start."""
KEPT = 256
"""Evidence kept in memory, for records that share it."""
AT_ONCE = 32
"""Records that are read, then their evidence, then all judged: a fifth less time than one after
another, since a processor is quick at what it has just done."""
PIECES = 8
"""Portions of work a process, so that none waits long for the last."""

Declared = Mapping[tuple[str, str], Gate | Falsifier]


@dataclass
class Proven:
    """What came of some records."""

    entries: list[Entry] = field(default_factory=list)
    broken: list[Broken] = field(default_factory=list)
    findings: list[AuditFinding] = field(default_factory=list)


def declared_by(contracts: Iterable[Contract]) -> Declared:
    """Gates and falsifiers by contract and id."""
    return {(contract.id, item.id): item for contract in contracts for item in contract.items}


def prove(root: Path, evidence: Path, contracts: Sequence[Contract]) -> Proven:
    """Prove every record of a project."""
    shards = shards_of(evidence / RECORDS)
    processes = os.cpu_count() or 1
    if processes == 1 or _few(shards):
        return _prove(root, evidence.name, declared_by(contracts), shards, {})
    size = max(1, len(shards) // (processes * PIECES))
    portions = [shards[start : start + size] for start in range(0, len(shards), size)]
    total = Proven()
    # Forked: the contracts are loaded already, and the command has no threads.
    _SHARED.update(root=root, evidence=evidence.name, declared=declared_by(contracts))
    gc.freeze()  # or every collection of a child would copy the parent's pages
    with ProcessPoolExecutor(processes, get_context("fork"), gc.disable) as pool:
        for entries, broken, findings in pool.map(_prove_shared, portions):
            total.entries += [Entry(*values) for values in entries]
            total.broken += broken
            total.findings += findings
    return total


def _few(shards: Sequence[str]) -> bool:
    return sum(1 for _ in islice(record_files(shards), ALONE + 1)) <= ALONE


_SHARED: dict[str, Any] = {}
"""What forked processes find in their memory."""
_KEPT: dict[str, Evidence] = {}
"""Evidence that a forked process has read, for its next portion too."""


def _prove_shared(
    shards: Sequence[str],
) -> tuple[list[tuple[Any, ...]], list[Broken], list[AuditFinding]]:
    found = _prove(_SHARED["root"], _SHARED["evidence"], _SHARED["declared"], shards, _KEPT)
    return [tuple(entry) for entry in found.entries], found.broken, found.findings


def _prove(
    root: Path, evidence: str, declared: Declared, shards: Sequence[str], kept: dict[str, Evidence]
) -> Proven:
    proven: set[str] = set()

    def read(location: str) -> Evidence:
        if location not in kept:
            if len(kept) >= KEPT:
                kept.pop(next(iter(kept)))
            kept[location] = read_evidence(root, location, proven)
        return kept[location]

    found = Proven()
    paths = record_files(shards)
    while batch := [read_record(path, evidence) for path in islice(paths, AT_ONCE)]:
        records = [one for one in batch if isinstance(one, Record)]
        found.broken += [one for one in batch if isinstance(one, Broken)]
        found.entries += [entry_of(record.sha, vars(record)) for record in records]
        _read_ahead(records, read)
        for record in records:
            item = declared.get((record.contract, record.subject))
            found.findings += record_findings(record, item, read)
    return found


def _read_ahead(records: Iterable[Record], read: Reader) -> None:
    """Read what records cite; what is wrong with it is met again, and told, record by record."""
    for record in records:
        for reference in record.evidence:
            try:
                read(reference["location"])
            except EvidenceError:
                continue
