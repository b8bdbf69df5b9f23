"""The ledger: immutable records of judgements, one file each, linked to those before them.

A record is canonical JSON at `<evidence>/records/<first two>/<sha256>.json`. Its `parents` are the
heads of its gate's history when it was made, so a history is a directed acyclic graph and two
branches that both append merge by laying their files side by side.
"""

from __future__ import annotations

import dataclasses
import hashlib
import heapq
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, StrictBool, StrictStr, TypeAdapter, ValidationError, with_config
from typing_extensions import TypedDict  # pydantic refuses typing's before Python 3.12

from pytest_gates.canonical import canonical, parse_canonical
from pytest_gates.checks.base import Verdict
from pytest_gates.disk import fsync_folder, read_regular, staged, write_durably
from pytest_gates.errors import EvidenceError, LedgerError
from pytest_gates.evidence_store import Sha256
from pytest_gates.model.config import Count, Index
from pytest_gates.readers.telemetry import describe

RECORDS = "records"
RECORD_LIMIT_BYTES = 2**20
PROBLEMS_SHOWN = 20

_CLOSED = ConfigDict(extra="forbid")
_SHARD = re.compile(r"[0-9a-f]{2}")


@with_config(_CLOSED)
class EvidenceRef(TypedDict):
    """Evidence that a record stands on."""

    role: StrictStr
    """The name of the run in the contract; `sabotaged:<name>` for a falsifier's sabotaged side."""
    repetition: Index
    id: Sha256
    location: StrictStr


@with_config(_CLOSED)
class RecordHost(TypedDict):
    """The machine that made the evidence."""

    gpu: StrictStr | None
    driver: StrictStr | None
    torch: StrictStr | None
    declared: StrictBool


@with_config(_CLOSED)
class RunRef(TypedDict):
    """What was executed."""

    name: StrictStr
    hash: Sha256


@dataclass(frozen=True, kw_only=True)
class Record:
    """One judgement, for good."""

    __pydantic_config__ = _CLOSED
    format: Literal["pytest-gates/record/1"] = "pytest-gates/record/1"
    kind: Literal["gate", "falsifier"]
    contract: StrictStr
    """Id of the contract."""
    subject: StrictStr
    """Id of the gate or falsifier."""
    gate_hash: Sha256
    """Hash of the gate's executable part."""
    evaluator: StrictStr
    """Version of the rules that judged."""
    evidence: tuple[EvidenceRef, ...]
    observed: tuple[Mapping[str, Any], ...]
    """The outcome of each check, as JSON."""
    verdict: Verdict
    """Of a falsifier: `pass` if the gate turned red as expected."""
    reason: StrictStr | None
    host: RecordHost
    run: RunRef
    attempts: Count
    """Executions it took, this one included."""
    fault: Mapping[str, Any] | None
    """What the falsifier injected."""
    time: StrictStr
    """UTC, ISO 8601; the only "now" in a record."""
    program: StrictStr
    """Version of the program."""
    code: StrictStr | None
    """Revision of the project's code, where it is known."""
    parents: tuple[Sha256, ...] = ()
    """Heads of the subject's history before this record, sorted."""

    @cached_property
    def sha(self) -> str:
        """SHA-256 of the record's canonical bytes, which is its name."""
        return hashlib.sha256(canonical(self)).hexdigest()

    def to_json(self) -> dict[str, Any]:
        """JSON primitives, as the record's file has them."""
        fields = {name: getattr(self, name) for name in _FIELDS}
        lists = {name: list(value) for name, value in fields.items() if isinstance(value, tuple)}
        return fields | lists | {"verdict": str(self.verdict)}

    @property
    def key(self) -> tuple[str, str | None]:
        """The run's hash and the GPU: what a contract holds one verdict of."""
        return self.run["hash"], self.host["gpu"]


_record_adapter: TypeAdapter[Record] = TypeAdapter(Record)
_FIELDS = frozenset(field.name for field in dataclasses.fields(Record))


@dataclass(frozen=True)
class _History:
    """The records of one subject by their hashes."""

    records: dict[str, Record]

    @cached_property
    def heads(self) -> tuple[str, ...]:
        """Hashes of the records that are nobody's parent, sorted."""
        parents = {parent for record in self.records.values() for parent in record.parents}
        return tuple(sorted(self.records.keys() - parents))

    @cached_property
    def newest_first(self) -> tuple[str, ...]:
        """Every record before its parents; unrelated ones by their time, newest first."""
        children = dict.fromkeys(self.records, 0)
        for record in self.records.values():
            for parent in set(record.parents) & self.records.keys():
                children[parent] += 1
        ready = [self._rank(sha) for sha in self.heads]
        heapq.heapify(ready)
        order: list[str] = []
        while ready:
            sha = heapq.heappop(ready)[-1]
            order.append(sha)
            for parent in set(self.records[sha].parents) & self.records.keys():
                children[parent] -= 1
                if children[parent] == 0:
                    heapq.heappush(ready, self._rank(parent))
        return tuple(order)

    def _rank(self, sha: str) -> tuple[tuple[int, ...], str]:
        return tuple(-ord(character) for character in self.records[sha].time), sha

    @cached_property
    def current(self) -> tuple[Record, ...]:
        """For each key the record that no later one of that key replaces.

        Two branches may each have one; the worse verdict counts until the gate is judged again.
        """
        replaced: dict[str, set[tuple[str, str | None]]] = defaultdict(set)
        kept: dict[tuple[str, str | None], Record] = {}
        for sha in self.newest_first:
            record = self.records[sha]
            if record.key not in replaced[sha]:
                rival = kept.setdefault(record.key, record)
                if Verdict.worst([rival.verdict, record.verdict]) is not rival.verdict:
                    kept[record.key] = record
            for parent in record.parents:
                replaced[parent] |= replaced[sha] | {record.key}
        return tuple(kept.values())


class Ledger:
    """The records of a project, read once when first asked for."""

    def __init__(self, evidence: Path) -> None:
        """A ledger beneath the evidence folder, in `records`, which need not exist yet."""
        self._folder = evidence / RECORDS
        self._place = f"{evidence.name}/{RECORDS}"
        self._by_sha: dict[str, Record] | None = None
        self._by_subject: dict[tuple[str, str], dict[str, Record]] = defaultdict(dict)
        self._histories: dict[tuple[str, str], _History] = {}
        self._problems: tuple[str, ...] = ()

    @classmethod
    def of(cls, records: Iterable[Mapping[str, Any]]) -> Ledger:
        """Records in their JSON form as a ledger that lies on no disk."""
        ledger = cls(Path())
        ledger._by_sha = {}
        for record in records:
            ledger._add(_record_adapter.validate_python(record))
        return ledger

    @property
    def problems(self) -> tuple[str, ...]:
        """Every record that is not what it was, one line each, beginning with its file."""
        self._load()
        return self._problems

    def records(self) -> Mapping[str, Record]:
        """All records by their hashes.

        Raises:
            LedgerError: a record was changed or is malformed; so do all the methods below.
        """
        records = self._load()
        if self._problems:
            more = len(self._problems) - PROBLEMS_SHOWN
            shown = [*self._problems[:PROBLEMS_SHOWN], *([f"and {more} more"] if more > 0 else [])]
            raise LedgerError("\n".join(shown))
        return records

    def get(self, sha: str) -> Record:
        """The record of a hash; LedgerError if there is none."""
        record = self.records().get(sha)
        if record is None:
            raise LedgerError(f"{self._place}/{sha[:2]}/{sha}.json: no such record")
        return record

    def heads(self, contract: str, subject: str) -> tuple[str, ...]:
        """Hashes of the newest records of a subject; several after a merge of branches."""
        return self._history(contract, subject).heads

    def history(self, contract: str, subject: str) -> tuple[Record, ...]:
        """The records of a subject, each before its parents."""
        history = self._history(contract, subject)
        return tuple(history.records[sha] for sha in history.newest_first)

    def current(self, contract: str, subject: str) -> tuple[Record, ...]:
        """The newest record for each (run hash, GPU), by ancestry; what the contract shows."""
        return self._history(contract, subject).current

    def missing_parents(self) -> Mapping[str, tuple[str, ...]]:
        """Records whose parents are not there, with those parents."""
        records = self.records()
        missing = {
            sha: tuple(parent for parent in record.parents if parent not in records)
            for sha, record in records.items()
        }
        return {sha: parents for sha, parents in missing.items() if parents}

    def append(self, record: Record) -> str:
        """Write a record for good and return its hash; the same record twice is one.

        Raises:
            LedgerError: it cannot be written.
        """
        data = canonical(record)
        path = self._folder / record.sha[:2] / f"{record.sha}.json"
        # What is kept in memory is what a later session will read, and it must be readable.
        kept = _parse(data, record.sha, str(path))
        if not path.exists():
            try:
                _write(path, data)
            except EvidenceError as error:
                raise LedgerError(str(error).replace("evidence cannot", "record cannot")) from None
        if self._by_sha is not None:
            self._add(kept)
        return kept.sha

    def _history(self, contract: str, subject: str) -> _History:
        self.records()
        key = contract, subject
        if key not in self._histories:
            self._histories[key] = _History(self._by_subject.get(key, {}))
        return self._histories[key]

    def _add(self, record: Record) -> None:
        assert self._by_sha is not None
        key = record.contract, record.subject
        self._by_sha[record.sha] = self._by_subject[key][record.sha] = record
        self._histories.pop(key, None)

    def _load(self) -> dict[str, Record]:
        if self._by_sha is None:
            self._by_sha = {}
            problems: list[str] = []
            for path in _files(self._folder):
                place = f"{self._place}/{path.relative_to(self._folder).as_posix()}"
                try:
                    self._add(_read(path, place))
                except LedgerError as error:
                    problems.append(str(error))
            self._problems = tuple(problems)
        return self._by_sha


def _files(folder: Path) -> Iterator[Path]:
    """All files beneath the shards, sorted; what begins with a dot is nobody's record."""
    if not folder.is_dir():
        return
    for shard in sorted(folder.iterdir()):
        if _SHARD.fullmatch(shard.name):
            yield from sorted(path for path in shard.iterdir() if not path.name.startswith("."))


def _read(path: Path, place: str) -> Record:
    try:
        data = read_regular(path, place, RECORD_LIMIT_BYTES)
    except EvidenceError as error:
        raise LedgerError(str(error)) from None
    found = hashlib.sha256(data).hexdigest()
    if path.name != f"{found}.json" or path.parent.name != found[:2]:
        raise LedgerError(
            f"{place}: SHA-256 is {found[:10]}… but its name says {path.stem[:10]}…: "
            "the record was changed after it was made"
        )
    return _parse(data, found, place)


def _parse(data: bytes, sha: str, place: str) -> Record:
    try:
        value = parse_canonical(data)
        record = _record_adapter.validate_python(value)
    except ValidationError as error:
        raise LedgerError(f"{place}: {describe(error)}") from None
    except ValueError as error:
        raise LedgerError(f"{place}: {error}") from None
    if missing := _FIELDS - value.keys():
        raise LedgerError(f"{place}: lacks {', '.join(sorted(missing))}")
    vars(record)["sha"] = sha  # known already; thousands of records need not be hashed again
    return record


def _write(path: Path, data: bytes) -> None:
    with staged(path.parent) as staging:
        write_durably(staging / path.name, data)
        (staging / path.name).replace(path)
        fsync_folder(path.parent)
        fsync_folder(path.parent.parent)
