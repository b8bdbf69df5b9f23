"""Which processes are a run: its own and all that descend from it, as /proc tells."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

LONGEST_LINE = 64
"""Generations between a process and its run; more are a loop of our own making."""


class Tree:
    """The process tree of one run."""

    def __init__(self, roots: Iterable[int]) -> None:
        """Processes from which all of the run descends: its own, and whoever adopts orphans."""
        self._roots = frozenset(roots)
        self._known: dict[int, bool] = dict.fromkeys(self._roots, True)

    def holds(self, pid: int) -> bool:
        """Whether a living process belongs to the run."""
        line: list[int] = []
        at = pid
        while at not in self._known and at > 1 and len(line) < LONGEST_LINE:
            line.append(at)
            at = parent_of(at)
        found = self._known.get(at, False)
        self._known.update(dict.fromkeys(line, found))
        return found


def parent_of(pid: int) -> int:
    """The parent of a process as the kernel tells it; 0 where there is none to be told.

    proc_pid_stat(5): field 4, the second one after the name.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        return int(stat.rpartition(")")[2].split()[1])
    except (OSError, ValueError, IndexError):
        return 0
