"""What only an older state can show: records deleted, history rewritten, gates loosened.

Hashes prove that what is there belongs together. That something is gone shows only against a
state that a forger cannot reach: git history, or heads that were kept elsewhere.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from pytest_gates.audit.codes import AuditFinding
from pytest_gates.audit.project import Audited
from pytest_gates.audit.records import record_place
from pytest_gates.clock import utc_date
from pytest_gates.comparing import compare
from pytest_gates.errors import GatesError
from pytest_gates.repository import Repository
from pytest_gates.states import contracts_at
from pytest_gates.timeline import RECORDS, timelines

EVIDENCE = "evidence"
CHECKPOINT = "pytest-gates/checkpoint/1"


def since(
    root: Path, revision: str, paths: Sequence[Path], audited: Audited
) -> Iterator[AuditFinding]:
    """What was deleted, modified or loosened since a revision.

    Raises:
        GatesError: there is no such revision, or a contract of it cannot be loaded.
    """
    repository = Repository(root)
    commit = repository.resolve(revision)
    if not repository.is_ancestor(commit):
        text = f"{revision} ({commit[:12]}) is no ancestor of the present commit"
        yield AuditFinding(EVIDENCE, 1, "PG404", "", text)
    for path, letter in repository.changed(commit, EVIDENCE).items():
        code = _touched(path, letter)
        if code is not None:
            told = "deleted" if letter == "D" else "modified"
            yield AuditFinding(path, 1, code, "", f"{told} since {revision}")
    yield from _clock(repository, commit, audited)
    old = contracts_at(root, revision, paths)
    for change in compare(old, audited.contracts, utc_date()):
        if change.blocking:
            what = "; ".join((change.state.lower(), *change.details))
            of = f"{change.contract}::{change.gate}"
            file = change.file.removeprefix(f"{revision}:")
            yield AuditFinding(file, change.line, "PG406", of, what)


def _touched(path: str, letter: str) -> str | None:
    if letter == "A":
        return None
    if path.startswith(f"{EVIDENCE}/{RECORDS}/"):
        return "PG401" if letter == "D" else "PG402"
    return "PG403"


def _clock(repository: Repository, commit: str, audited: Audited) -> Iterator[AuditFinding]:
    """New records that say they are older than the commit that brought their parent."""
    committed = repository.committed(commit, f"{EVIDENCE}/{RECORDS}")
    for entry in audited.entries:
        place = record_place(entry.sha)
        if place in committed:
            continue
        for parent in entry.parents:
            brought = committed.get(record_place(parent))
            if brought is not None and entry.time < brought:
                told = f"made {entry.time}, its parent {parent[:12]} was committed {brought}"
                yield AuditFinding(place, 1, "PG405", entry.of, told)


def write_checkpoint(path: Path, audited: Audited) -> None:
    """Keep the heads of every history in a file, to be stored where a forger cannot reach it.

    Raises:
        GatesError: it cannot be written.
    """
    heads = {of: list(history.heads) for of, history in timelines(audited.entries).items()}
    data = {"format": CHECKPOINT, "heads": heads}
    try:
        path.write_text(json.dumps(data, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    except OSError as error:
        raise GatesError(f"{path}: {error.strerror}") from None


def since_checkpoint(path: Path, audited: Audited) -> Iterator[AuditFinding]:
    """Heads of a checkpoint that are gone.

    Raises:
        GatesError: the file is no checkpoint.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        heads = {str(of): [str(sha) for sha in shas] for of, shas in data["heads"].items()}
        form = data["format"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        form = None
    if form != CHECKPOINT:
        raise GatesError(f"{path}: no checkpoint in format {CHECKPOINT}")
    there = {entry.sha for entry in audited.entries}
    for of, shas in sorted(heads.items()):
        for sha in shas:
            if sha not in there:
                told = f"a head of {path.name} is gone"
                yield AuditFinding(record_place(sha), 1, "PG401", of, told)
