"""The directed acyclic graph that records form: heads, order, and what is current."""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Mapping
from functools import cached_property
from typing import Generic, Protocol, TypeVar

Key = tuple[str, str | None]
"""The run's hash and the GPU: what a contract holds one verdict of."""

# Sorting by the inverted characters is sorting by time, newest first.
_INVERTED = {code: 127 - code for code in range(128)}


class Descendant(Protocol):
    """What the graph reads of a record."""

    @property
    def sha(self) -> str:
        """Its name."""

    @property
    def parents(self) -> tuple[str, ...]:
        """Names of the heads before it."""

    @property
    def time(self) -> str:
        """UTC, ISO 8601."""

    @property
    def verdict(self) -> str:
        """What was judged; one of the words of `checks.base.Verdict`."""

    @property
    def key(self) -> Key:
        """What it is the verdict of."""


Kind = TypeVar("Kind", bound=Descendant)


class Ancestry(Generic[Kind]):
    """The records of one subject by their hashes."""

    def __init__(self, records: Mapping[str, Kind]) -> None:
        self.records = records

    @cached_property
    def heads(self) -> tuple[str, ...]:
        """Hashes of the records that are nobody's parent, sorted."""
        if len(self.records) == 1:
            return tuple(self.records)
        parents = {parent for record in self.records.values() for parent in record.parents}
        return tuple(sorted(self.records.keys() - parents))

    @cached_property
    def newest_first(self) -> tuple[str, ...]:
        """Every record before its parents; unrelated ones by their time, newest first."""
        if len(self.records) == 1:  # as of most subjects
            return tuple(self.records)
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

    def _rank(self, sha: str) -> tuple[str, str]:
        return self.records[sha].time.translate(_INVERTED), sha

    @cached_property
    def current(self) -> tuple[Kind, ...]:
        """For each key the record that no later one of that key replaces.

        Two branches may each have one; the worse verdict counts until the gate is judged again.
        """
        if len(self.heads) == 1 and len({record.key for record in self.records.values()}) == 1:
            return (self.records[self.heads[0]],)  # of every other one it is a descendant
        from pytest_gates.checks.base import Verdict  # noqa: PLC0415 - loads every check

        replaced: dict[str, set[Key]] = defaultdict(set)
        kept: dict[Key, Kind] = {}
        for sha in self.newest_first:
            record = self.records[sha]
            if record.key not in replaced[sha]:
                rival = kept.setdefault(record.key, record)
                if (
                    Verdict.worst([Verdict(rival.verdict), Verdict(record.verdict)])
                    != rival.verdict
                ):
                    kept[record.key] = record
            for parent in record.parents:
                replaced[parent] |= replaced[sha] | {record.key}
        return tuple(kept.values())

    @property
    def missing(self) -> Mapping[str, tuple[str, ...]]:
        """Records whose parents are not there, with those parents."""
        lacking = {
            sha: tuple(parent for parent in record.parents if parent not in self.records)
            for sha, record in self.records.items()
        }
        return {sha: parents for sha, parents in lacking.items() if parents}
