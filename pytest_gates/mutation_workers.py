"""Several mutants at a time: a process each, with runs of its own and one cache of executions."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import get_context
from multiprocessing.util import Finalize

from pytest_gates.mutation import Fate, Mutant, Trial, attempt
from pytest_gates.session import GatesSession
from pytest_gates.settings import Settings

Attempts = Callable[[Sequence[Mutant]], Iterator[tuple[int, Trial]]]
"""Tries mutants; each trial with the place of its mutant, in the order in which they end."""


class _Worker:
    """What one process has: the mutants it may be asked for, and its session."""

    mutants: Sequence[Mutant] = ()
    session: GatesSession | None = None


def trying(settings: Settings, processes: int) -> Attempts:
    """What tries mutants with so many processes.

    All processes share the session's id, and so its executions: whoever needs one first makes it,
    the others wait and read. An interrupt ends the caller, which ends them and all that they run.
    """

    def attempts(mutants: Sequence[Mutant]) -> Iterator[tuple[int, Trial]]:
        if not mutants:
            return
        # Forked, so that mutants need not be told; this process has no threads and no runs.
        context = get_context("fork")
        with context.Pool(min(processes, len(mutants)), _begin, (settings, mutants)) as pool:
            for place, fate, reason in pool.imap_unordered(_attempt, range(len(mutants))):
                yield place, Trial(mutants[place], Fate(fate), reason)
            pool.close()
            pool.join()

    return attempts


def _begin(settings: Settings, mutants: Sequence[Mutant]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _Worker.mutants, _Worker.session = mutants, GatesSession(settings)
    Finalize(None, _Worker.session.close, exitpriority=1)


def _attempt(place: int) -> tuple[int, str, str]:
    """A trial in words: a pool whose results cannot be told would wait for them for ever."""
    session = _Worker.session
    assert session is not None
    trial = attempt(_Worker.mutants[place], session)
    return place, str(trial.fate), trial.reason
