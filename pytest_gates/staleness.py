"""SUSPECT: what a verdict depends on has changed since it was judged.

Measured against the newest record for the same GPU, never against the machine that looks: an
auditor's laptop has another torch and no driver, and that says nothing about a verdict.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import cached_property

from pytest_gates.contract.models import Gate
from pytest_gates.ledger import Ledger, Record
from pytest_gates.revision import commits_between, shortened
from pytest_gates.timeline import Entry, entries_of, entry_of

Commits = Callable[[str, str], tuple[str, ...] | None]
"""Commits to the program between two revisions, one line each; None where nobody can tell."""

_TOLD_COMMITS = 3
"""Commits that a cause names; the others are counted."""


class Suspicion:
    """Asks for the causes of one session's replayed verdicts; the ledger is read once."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    @cached_property
    def _newest(self) -> dict[str | None, Entry]:
        return newest_by_gpu(entries_of(self._ledger.records().values()))

    def causes(self, record: Record, gate: Gate) -> tuple[str, ...]:
        """Why the verdict of a record is suspect; see `causes`."""
        entry = entry_of(record.sha, vars(record))
        return causes(entry, gate.hash, self._newest, commits_between)


def newest_by_gpu(entries: Iterable[Entry]) -> dict[str | None, Entry]:
    """The newest record of each GPU, by its time; a declared host is nobody's measurement."""
    newest: dict[str | None, Entry] = {}
    for entry in entries:
        if not entry.declared:
            kept = newest.get(entry.gpu)
            if kept is None or (entry.time, entry.sha) > (kept.time, kept.sha):
                newest[entry.gpu] = entry
    return newest


def causes(
    entry: Entry,
    gate_hash: str | None,
    newest: Mapping[str | None, Entry],
    commits: Commits,
) -> tuple[str, ...]:
    """Why a verdict is suspect, one line a cause; nothing if it is not.

    Args:
        entry: The record that carries the verdict.
        gate_hash: Hash of the gate as it is declared now; None: it is not declared any more.
        newest: See `newest_by_gpu`.
        commits: Tells what happened to the program between two revisions.
    """
    found = []
    if gate_hash is not None and gate_hash != entry.gate_hash:
        found.append(f"gate: changed since record {entry.sha[:12]}")
    latest = newest.get(entry.gpu)
    if latest is None or entry.declared:
        return tuple(found)
    if entry.evaluator != latest.evaluator:
        found.append(f"evaluator: {entry.evaluator} -> {latest.evaluator}")
    if entry.code != latest.code and entry.code and latest.code:
        told = commits(entry.code, latest.code)
        if told is None:
            found.append(f"code: {shortened(entry.code)} -> {shortened(latest.code)}")
        elif told:
            more = len(told) - _TOLD_COMMITS
            tail = f"; and {more} more" if more > 0 else ""
            found.append(f"code: {len(told)} commits: {'; '.join(told[:_TOLD_COMMITS])}{tail}")
    for name in ("torch", "driver"):
        was, now = getattr(entry, name), getattr(latest, name)
        if was != now and now is not None:  # one that said nothing contradicts nothing
            found.append(f"{name}: {was or 'none'} -> {now or 'none'}")
    return tuple(found)
