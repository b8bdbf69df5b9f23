"""Records as one line each: what a timeline shows, read without proving anything.

An audit proves; a timeline of thousands of records has to be quick, so nothing is hashed here.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

from pytest_gates.ancestry import Ancestry, Key
from pytest_gates.disk import read_regular
from pytest_gates.errors import EvidenceError, LedgerError
from pytest_gates.garbage import uncollected

if TYPE_CHECKING:
    from pytest_gates.ledger import Record

RECORDS = "records"
"""The ledger's folder beneath the evidence."""
ALONE = 20_000
"""Records that one process reads before others are worth their start."""


class Entry(NamedTuple):
    """One record, less its evidence and all but the deciding figure."""

    sha: str
    contract: str
    subject: str
    verdict: str
    time: str
    parents: tuple[str, ...]
    gate_hash: str
    evaluator: str
    run: str
    run_hash: str
    gpu: str | None
    driver: str | None
    torch: str | None
    declared: bool
    code: str | None
    attempts: int
    figure: str
    limit: str
    value: float | None
    headroom_pct: float | None
    reason: str
    kind: str

    @property
    def said(self) -> str:
        """The outcome in the words of a session: of a falsifier, whether its gate went red."""
        if self.kind != "falsifier":
            return self.verdict
        return "CAUGHT" if self.verdict == "pass" else "SURVIVED"

    @property
    def key(self) -> Key:
        """What it is the verdict of."""
        return self.run_hash, self.gpu

    @property
    def of(self) -> str:
        """Contract and gate."""
        return f"{self.contract}::{self.subject}"


_TEXT: set[type] = {str}
_MAYBE: set[type] = {str, NoneType}
_NUMBER: set[type] = {int, float, NoneType}
_TYPES: dict[str, set[type]] = {
    "parents": {tuple}, "declared": {bool}, "attempts": {int}, "value": _NUMBER,
    "headroom_pct": _NUMBER, **dict.fromkeys(("gpu", "driver", "torch", "code"), _MAYBE),
}  # fmt: skip
"""What fields of an entry may be, where they are more or other than text."""


def _typed(entry: Entry) -> Entry:
    """The entry as it is; TypeError if a field is something else, as a stranger's may be."""
    for kind, allowed in zip(map(type, entry), _ALLOWED, strict=True):
        if kind not in allowed:
            raise TypeError
    if not _TEXT.issuperset(map(type, entry.parents)):
        raise TypeError
    return entry


_ALLOWED = tuple(_TYPES.get(name, _TEXT) for name in Entry._fields)


def entry_of(sha: str, record: Mapping[str, Any]) -> Entry:
    """The entry of a record's fields."""
    host, run = record["host"], record["run"]
    decided = _deciding(record["observed"], record["verdict"])
    value = decided.get("value")
    return Entry(
        sha=sha,
        contract=record["contract"],
        subject=record["subject"],
        verdict=str(record["verdict"]),
        time=record["time"],
        parents=tuple(record["parents"]),
        gate_hash=record["gate_hash"],
        evaluator=record["evaluator"],
        run=run["name"],
        run_hash=run["hash"],
        gpu=host["gpu"],
        driver=host["driver"],
        torch=host["torch"],
        declared=host["declared"],
        code=record["code"],
        attempts=record["attempts"],
        figure=decided.get("figure") or "",
        limit=decided.get("limit") or "",
        value=value if isinstance(value, int | float) else None,
        headroom_pct=decided.get("headroom_pct"),
        reason=record["reason"] or "",
        kind=record["kind"],
    )


def entries_of(records: Iterable[Record]) -> list[Entry]:
    """Entries of records that are at hand."""
    return [entry_of(record.sha, vars(record)) for record in records]


def _deciding(observed: Sequence[Mapping[str, Any]], verdict: str) -> Mapping[str, Any]:
    """The first check with the verdict of the whole; preferably one with a headroom."""
    same = [one for one in observed if one.get("verdict") == verdict]
    for one in same:
        if one.get("figure") and one.get("headroom_pct") is not None:
            return one
    return same[0] if same else {}


def read_entries(evidence: Path, subject: str | None = None) -> list[Entry]:
    """The entries of a project, or of one gate or falsifier; in no order.

    Raises:
        LedgerError: a file is no record; an audit says more.
    """
    folder = evidence / RECORDS
    if not folder.is_dir():
        return []
    shards = sorted(entry.path for entry in os.scandir(folder) if entry.is_dir())
    needle = None if subject is None else b'"subject":%b' % orjson.dumps(subject)
    half = len(shards) // 2
    if half == 0 or sum(1 for _ in os.scandir(shards[0])) * len(shards) < ALONE:
        return _read(shards, needle)
    # Forked: this process has no threads, and a fresh one would spend its time on imports.
    with uncollected(), ProcessPoolExecutor(1, get_context("fork")) as pool:
        other = pool.submit(_read_plain, shards[half:], needle)
        mine = _read(shards[:half], needle)
        return mine + [Entry._make(values) for values in other.result()]


def _read_plain(shards: list[str], needle: bytes | None) -> list[tuple[Any, ...]]:
    return [tuple(entry) for entry in _read(shards, needle)]


def _read(shards: Sequence[str], needle: bytes | None) -> list[Entry]:
    found = []
    for shard in shards:
        with os.scandir(shard) as files:
            for file in files:
                if file.name.startswith("."):
                    continue
                try:
                    data = read_regular(file.path, file.path)
                    if needle is None or needle in data:
                        found.append(_typed(entry_of(file.name[:-5], orjson.loads(data))))
                except (EvidenceError, ValueError, KeyError, TypeError, AttributeError):
                    place = f"{Path(shard).parent.name}/{Path(shard).name}/{file.name}"
                    raise LedgerError(
                        f"{place}: no record; `pytest-gates audit` says what is wrong with it"
                    ) from None
    return found


def timelines(entries: Iterable[Entry]) -> dict[str, Ancestry[Entry]]:
    """The history of each `<contract>::<gate>`."""
    grouped: dict[str, dict[str, Entry]] = {}
    for entry in entries:
        grouped.setdefault(entry.of, {})[entry.sha] = entry
    return {of: Ancestry(records) for of, records in grouped.items()}
