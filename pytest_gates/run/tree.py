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
        self._known: dict[int, int] = {}
        """Processes that were seen to belong to the run, with their starts: an id comes again."""

    def holds(self, pid: int) -> bool:
        """Whether a process belongs to the run; one that has ended, whether it was seen to.

        Only a yes is kept. On the way up a parent can end before it is read; its child has another
        one then, and the next look finds it.
        """
        line: dict[int, int] = {}
        at = pid
        while at not in self._roots:
            seen = born(at)
            if seen is None:
                if at not in self._known:
                    return False
                break
            parent, started = seen
            if self._known.get(at) == started:
                break
            if parent <= 1 or len(line) >= LONGEST_LINE:
                return False
            line[at] = started
            at = parent
        self._known |= line
        return True


def born(pid: int) -> tuple[int, int] | None:
    """Parent and start (clock ticks since boot) of a process as the kernel tells them.

    None where there is none to be told. proc_pid_stat(5): fields 4 and 22, the second and the
    twentieth one after the name.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        fields = stat.rpartition(")")[2].split()
        return int(fields[1]), int(fields[19])
    except (OSError, ValueError, IndexError):
        return None


def parent_of(pid: int) -> int:
    """The parent of a process; 0 where there is none to be told."""
    seen = born(pid)
    return 0 if seen is None else seen[0]
