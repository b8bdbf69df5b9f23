"""The ledger: immutable records of judgements, one file each, linked to those before them.

A record is canonical JSON at `<evidence>/records/<first two>/<sha256>.json`. Its `parents` are the
heads of its gate's history when it was made, so a history is a directed acyclic graph and two
branches that both append merge by laying their files side by side.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Protocol

from pydantic import ConfigDict, StrictBool, StrictStr, TypeAdapter, ValidationError, with_config
from typing_extensions import TypedDict  # pydantic refuses typing's before Python 3.12

from pytest_gates.ancestry import Ancestry, Key
from pytest_gates.canonical import canonical, parse_canonical
from pytest_gates.checks.base import Verdict
from pytest_gates.disk import fsync_folder, read_regular, refuse_links, staged, write_durably
from pytest_gates.errors import EvidenceError, LedgerError
from pytest_gates.garbage import uncollected
from pytest_gates.manifest import Sha256
from pytest_gates.model.config import Count, Index
from pytest_gates.readers.telemetry import describe
from pytest_gates.timeline import RECORDS

RECORD_LIMIT_BYTES = 2**20
PROBLEMS_SHOWN = 20

_CLOSED = ConfigDict(extra="forbid")
_SHARD = re.compile(r"[0-9a-f]{2}")
_NAME = re.compile(r"[0-9a-f]{64}\.json")


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
    def key(self) -> Key:
        """The run's hash and the GPU: what a contract holds one verdict of."""
        return self.run["hash"], self.host["gpu"]


_record_adapter: TypeAdapter[Record] = TypeAdapter(Record)
_NO_HISTORY: Ancestry[Record] = Ancestry({})
"""That of every subject without a record."""
_FIELDS = frozenset(field.name for field in dataclasses.fields(Record))


Damage = Literal["edited", "misnamed", "malformed"]


@dataclass(frozen=True)
class Broken:
    """A file of the ledger that is no record, or no longer the one it was."""

    place: str
    """The file, relative to the project's root."""
    damage: Damage
    message: str
    """What is wrong, after the place."""
    found: str = ""
    """SHA-256 of the bytes that are there."""

    def __str__(self) -> str:
        return f"{self.place}: {self.message}"


class _BrokenRecordError(LedgerError):
    def __init__(self, broken: Broken) -> None:
        self.broken = broken
        super().__init__(str(broken))


class Readable(Protocol):
    """What can be asked for records: a ledger, or a part of one."""

    def records(self) -> Mapping[str, Record]:
        """Records by their hashes."""

    def current(self, contract: str, subject: str) -> tuple[Record, ...]:
        """The newest record for each (run hash, GPU)."""


class Ledger:
    """The records of a project, read once when first asked for."""

    def __init__(self, evidence: Path, *, tolerant: bool = False) -> None:
        """A ledger beneath the evidence folder, in `records`, which need not exist yet.

        A `tolerant` one gives the sound records although others are broken; an audit, which names
        those itself, wants that.
        """
        self._tolerant = tolerant
        self._folder = evidence / RECORDS
        self._name = evidence.name
        self._by_sha: dict[str, Record] | None = None
        self._by_subject: dict[tuple[str, str], dict[str, Record]] = defaultdict(dict)
        self._subjects: dict[str, set[str]] = defaultdict(set)
        self._histories: dict[tuple[str, str], Ancestry[Record]] = {}
        self._broken: tuple[Broken, ...] = ()

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
        return tuple(map(str, self.broken))

    @property
    def broken(self) -> tuple[Broken, ...]:
        """The same for programs."""
        self._load()
        return self._broken

    def read(self) -> None:
        """Read the records now, which else happens when they are first asked for."""
        self._load()

    def records(self) -> Mapping[str, Record]:
        """All records by their hashes.

        Raises:
            LedgerError: a record was changed or is malformed; so do all the methods below.
        """
        records = self._load()
        if self._broken and not self._tolerant:
            more = len(self._broken) - PROBLEMS_SHOWN
            shown = [*self.problems[:PROBLEMS_SHOWN], *([f"and {more} more"] if more > 0 else [])]
            raise LedgerError("\n".join(shown))
        return records

    def get(self, sha: str) -> Record:
        """The record of a hash; LedgerError if there is none."""
        record = self.records().get(sha)
        if record is None:
            raise LedgerError(f"{self._name}/{RECORDS}/{sha[:2]}/{sha}.json: no such record")
        return record

    def subjects(self, contract: str) -> Set[str]:
        """Ids of the gates and falsifiers of a contract that have records."""
        self.records()
        return self._subjects.get(contract, frozenset())

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
        return Ancestry(self.records()).missing

    def append(self, record: Record) -> str:
        """Write a record for good and return its hash; the same record twice is one.

        Raises:
            LedgerError: it cannot be written.
        """
        data = canonical(record)
        path = self._folder / record.sha[:2] / f"{record.sha}.json"
        # What is kept in memory is what a later session will read, and it must be readable.
        kept = _parse(data, record.sha, str(path))
        if len(data) > RECORD_LIMIT_BYTES:
            text = f"{len(data)} bytes, the limit is {RECORD_LIMIT_BYTES}; nothing was written"
            raise LedgerError(f"{path}: {text}")
        if not path.exists():
            try:
                refuse_links(self._folder.parent, self._folder, path.parent)
                _write(path, data)
            except EvidenceError as error:
                raise LedgerError(str(error).replace("evidence cannot", "record cannot")) from None
        if self._by_sha is not None:
            self._add(kept)
        return kept.sha

    def _history(self, contract: str, subject: str) -> Ancestry[Record]:
        self.records()
        key = contract, subject
        if key not in self._histories:
            records = self._by_subject.get(key)
            if records is None:
                return _NO_HISTORY
            self._histories[key] = Ancestry(records)
        return self._histories[key]

    def _add(self, record: Record) -> None:
        assert self._by_sha is not None
        key = record.contract, record.subject
        self._by_sha[record.sha] = self._by_subject[key][record.sha] = record
        self._subjects[record.contract].add(record.subject)
        self._histories.pop(key, None)

    def _load(self) -> dict[str, Record]:
        if self._by_sha is None:
            # All of it before any is kept: a folder that cannot be listed is no empty one.
            with uncollected():
                found = [read_record(path, self._name)
                         for path in record_files(shards_of(self._folder))]  # fmt: skip
                self._by_sha = {}
                for one in found:
                    if isinstance(one, Record):
                        self._add(one)
            self._broken = tuple(one for one in found if isinstance(one, Broken))
        return self._by_sha


def shards_of(folder: Path) -> list[str]:
    """The ledger's folders, sorted."""
    if not folder.is_dir():
        return []
    found = os.scandir(folder)
    return sorted(one.path for one in found if _SHARD.fullmatch(one.name) and one.is_dir())


def record_files(shards: Iterable[str]) -> Iterator[str]:
    """All files of these folders, sorted; what begins with a dot is nobody's record."""
    for shard in shards:
        yield from sorted(e.path for e in os.scandir(shard) if not e.name.startswith("."))


def read_record(path: str, evidence: str) -> Record | Broken:
    """One record, its bytes proven against its name; or what is wrong with the file.

    `evidence` is the name of the evidence folder, for messages.
    """
    _, shard, name = path.rsplit("/", 2)
    place = f"{evidence}/{RECORDS}/{shard}/{name}"
    try:
        data = read_regular(path, place, RECORD_LIMIT_BYTES)
    except EvidenceError as error:
        return Broken(place, "malformed", str(error).removeprefix(f"{place}: "))
    found = hashlib.sha256(data).hexdigest()
    if name != f"{found}.json":
        text = f"SHA-256 is {found[:10]}… but its name says {name.removesuffix('.json')[:10]}…"
        damage: Damage = "edited" if _NAME.fullmatch(name) else "misnamed"
        return Broken(place, damage, f"{text}: the record was changed after it was made", found)
    if shard != found[:2]:
        return Broken(place, "misnamed", f"belongs into the folder {found[:2]}", found)
    try:
        return _parse(data, found, place)
    except _BrokenRecordError as error:
        return error.broken


def _parse(data: bytes, sha: str, place: str) -> Record:
    try:
        value = parse_canonical(data)
        record = _record_adapter.validate_python(value)
    except ValidationError as error:
        raise _malformed(place, describe(error), sha) from None
    except ValueError as error:
        raise _malformed(place, str(error), sha) from None
    if missing := _FIELDS - value.keys():
        raise _malformed(place, f"lacks {', '.join(sorted(missing))}", sha)
    vars(record)["sha"] = sha  # known already; thousands of records need not be hashed again
    return record


def _malformed(place: str, message: str, sha: str) -> _BrokenRecordError:
    return _BrokenRecordError(Broken(place, "malformed", message, sha))


def _write(path: Path, data: bytes) -> None:
    with staged(path.parent) as staging:
        write_durably(staging / path.name, data)
        (staging / path.name).replace(path)
        fsync_folder(path.parent)
        fsync_folder(path.parent.parent)
