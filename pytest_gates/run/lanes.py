"""Executions side by side: as many at a time as the machine has room for, in the session's order.

What the session's items will ask for is known before the first of them runs. So while one item
waits for its run, the CPUs that are left begin with the runs of the items behind it. Who asks only
waits; nothing here knows what an execution is made of.

Executions start in order, and none overtakes: one that needs the whole machine waits until what
runs has ended, and what comes after waits for it.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field

from pytest_gates.errors import GatesError
from pytest_gates.run.plan import Execution

Ahead = Iterable[tuple[Execution, str]]
"""Executions that will be asked for, each with who will ask, in that order."""
JOIN_S = 30.0
"""How long the end of a session waits for processes that were told to end."""


@dataclass
class _Job:
    execution: Execution
    holder: str
    room: int
    done: Future[str] = field(default_factory=Future)


class Lanes:
    """Carries executions out in threads, each of which waits for a process."""

    def __init__(
        self,
        carry_out: Callable[[Execution, str], str],
        *,
        room: int,
        needs: Callable[[Execution], int],
    ) -> None:
        """Nothing is started before something is asked for.

        Args:
            carry_out: executes, told who asks, and returns where the evidence is.
            room: CPUs that executions of this session may use at once.
            needs: how many of them an execution takes; all of them: it runs alone.
        """
        self._carry_out = carry_out
        self._free = room
        self._needs = needs
        self._lock = threading.RLock()
        self._jobs: dict[Execution, _Job] = {}
        self._asked: deque[_Job] = deque()
        self._ahead: Iterator[tuple[Execution, str]] = iter(())
        self._next: _Job | None = None
        """The first of `_ahead`, which waits for room."""
        self._threads: set[threading.Thread] = set()
        self._closed = False

    def plan(self, ahead: Ahead) -> None:
        """Begin with these where there is room, once something was asked for."""
        self._ahead = iter(ahead)

    def obtain(self, execution: Execution, holder: str) -> str:
        """Where the evidence of an execution is, once it was carried out; before all others.

        What failed fails again for whoever asks: an hour's wait for a device is not waited twice.
        """
        known = self._jobs.get(execution)
        if known is not None and known.done.done():
            return known.done.result()
        with self._lock:
            job = self._jobs.get(execution) or self._taken_from_plan(execution)
            if job is None:
                job = self._jobs[execution] = self._job(execution, holder)
                self._asked.append(job)
            self._start_what_fits()
        try:
            return job.done.result()
        except GatesError:
            raise
        except Exception:
            with self._lock:  # no answer about the execution: whoever asks next tries again
                self._jobs.pop(execution, None)
            raise

    def close(self) -> None:
        """Start nothing more, and wait for what was told to end."""
        with self._lock:
            self._closed = True
            running = list(self._threads)
        for thread in running:
            thread.join(JOIN_S)

    def _job(self, execution: Execution, holder: str) -> _Job:
        return _Job(execution, holder, self._needs(execution))

    def _taken_from_plan(self, execution: Execution) -> _Job | None:
        """The execution, if it is the one that waits for room: it has waited long enough."""
        if self._next is None or self._next.execution != execution:
            return None
        job, self._next = self._next, None
        self._jobs[execution] = job
        self._asked.append(job)
        return job

    def _start_what_fits(self) -> None:
        while not self._closed:
            job = self._asked[0] if self._asked else self._peeked()
            if job is None or job.room > self._free:
                return
            if self._asked:
                self._asked.popleft()
            else:
                self._next = None
                self._jobs[job.execution] = job
            self._free -= job.room
            thread = threading.Thread(target=self._run, args=(job,), name="execution", daemon=True)
            self._threads.add(thread)
            thread.start()

    def _peeked(self) -> _Job | None:
        if self._next is not None and self._next.execution in self._jobs:
            self._next = None
        while self._next is None:
            planned = next(self._ahead, None)
            if planned is None:
                return None
            if planned[0] not in self._jobs:
                self._next = self._job(*planned)
        return self._next

    def _run(self, job: _Job) -> None:
        try:
            location = self._carry_out(job.execution, job.holder)
        except BaseException as error:  # noqa: BLE001 - it is raised where somebody asks
            job.done.set_exception(error)
        else:
            job.done.set_result(location)
        finally:
            with self._lock:
                self._free += job.room
                self._threads.discard(threading.current_thread())
                self._start_what_fits()
