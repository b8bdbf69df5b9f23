"""One execution, once: across the gates of a session and across the workers of xdist."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable, Collection, Iterable
from pathlib import Path

from filelock import FileLock

from pytest_gates.disk import write_durably
from pytest_gates.errors import RunError
from pytest_gates.evidence import Evidence
from pytest_gates.model.config import RecordedRun, Run
from pytest_gates.run.cache import prune
from pytest_gates.run.device_lock import cpu_count, taken, wait_for
from pytest_gates.run.drivers import DRIVERS, Bench
from pytest_gates.run.lanes import Ahead, Lanes
from pytest_gates.run.plan import Execution, bears_company, threads_of
from pytest_gates.run.server import Server
from pytest_gates.settings import Settings

PRUNE_EACH = 16
"""The cache is looked through whenever a sixteenth of its limit is new, and at the end."""
MOST_AT_ONCE = 4
"""Executions of one session that go on beside each other, however many CPUs there are."""
IGNORE = "# Made by pytest-gates: evidence that no record cites, corpora, locks.\n*\n"


class Executor:
    """Obtains evidence of executions; each key is executed once a session."""

    def __init__(
        self, settings: Settings, read: Callable[[str], Evidence], early: Server | None = None
    ) -> None:
        self._settings = settings
        self._read = read
        self._bench = Bench(settings, early)
        self._room = min(settings.cpu_slots or cpu_count(), MOST_AT_ONCE)
        self._lanes = Lanes(self._locate, room=self._room, needs=self._needs)
        self._timed: Collection[str] = frozenset()
        self._lock = threading.Lock()
        self._unpruned = 0
        """Bytes sealed since the cache was last pruned."""

    def close(self) -> None:
        """End all processes of this session's runs."""
        self.stop()
        self._bench.close()
        if self._unpruned:
            self._prune()

    def stop(self) -> None:
        """End what runs, and begin nothing more."""
        self._bench.ended.set()
        self._lanes.close()

    def plan(self, ahead: Ahead, timed: Collection[str]) -> None:
        """Executions that will be asked for, in order: begun with while there is room.

        Args:
            ahead: with who will ask for each.
            timed: hashes of runs that must be alone (see `plan.timed_runs`).
        """
        self._timed = timed
        self._lanes.plan(pair for pair in ahead if bears_company(pair[0], timed))

    def _needs(self, execution: Execution) -> int:
        if isinstance(execution.run, RecordedRun):
            return 0  # files are read
        alone = not bears_company(execution, self._timed)
        return self._room if alone else min(threads_of(execution.run), self._room)

    def discard_artifacts(self) -> None:
        """Remove the checkpoints that this session's runs left; no run will continue them."""
        shutil.rmtree(self._bench.artifacts, ignore_errors=True)

    def obstacle(self, runs: Iterable[Run]) -> str | None:
        """Why this session does not execute one of the runs, or this machine cannot; or None."""
        for run in runs:
            if self._settings.recorded_only:
                return "nothing is run for this report"
            if run.driver == "recorded":
                continue
            if self._settings.replay:
                return "--gates-replay"
            obstacle = self._bench.obstacle(run)
            if obstacle is not None:
                return obstacle
        return None

    def obtain(self, execution: Execution, holder: str) -> Evidence:
        """Execute, or wait for whoever executes the same thing, or read what is there.

        Raises:
            RunError: it could not be executed, or its device stayed held by another process.
            EvidenceError: its evidence could not be kept.
        """
        return self._read(self._lanes.obtain(execution, holder))

    def _locate(self, execution: Execution, holder: str) -> str:
        marker = self._marker(execution)
        if not marker.exists():
            self._prepare()
            if execution.source is not None:
                self._locate(execution.source, holder)
            name = execution.group or execution.key
            lock = FileLock(self._settings.cache / "locks" / f"run-{name[:24]}.lock")
            if not wait_for(lambda: taken(lock), self._settings.lock_timeout_s, self._bench.ended):
                raise RunError(f"another process is executing {execution.title} for too long; "
                               "see gates_lock_timeout_s")  # fmt: skip
            try:
                if not marker.exists():
                    self._execute(execution, holder, marker)
            finally:
                lock.release()
        location: str = json.loads(marker.read_text(encoding="utf-8"))["location"]
        return location

    def _marker(self, execution: Execution) -> Path:
        folder = self._settings.cache / "sessions" / self._settings.session
        return folder / f"{execution.key[:24]}.json"

    def _execute(self, execution: Execution, holder: str, marker: Path) -> None:
        produce = DRIVERS[execution.run.driver]
        sealed = produce(self._bench, execution, holder)
        marker.parent.mkdir(parents=True, exist_ok=True)
        for one, folder in zip(execution.companions, sealed, strict=True):
            location = folder.relative_to(self._settings.root).as_posix()
            write_durably(self._marker(one), json.dumps({"location": location}).encode())
            with self._lock:
                self._unpruned += sum(file.stat().st_size for file in folder.iterdir())
        with self._lock:
            if self._unpruned > self._limit_bytes / PRUNE_EACH:
                self._prune()

    @property
    def _limit_bytes(self) -> float:
        return self._settings.cache_limit_mib * 2**20

    def _prune(self) -> None:
        prune(self._settings.cache, self._limit_bytes)
        self._unpruned = 0

    def _prepare(self) -> None:
        cache = self._settings.cache
        try:
            (cache / "locks").mkdir(parents=True, exist_ok=True)
            ignore = cache / ".gitignore"
            if not ignore.exists():
                ignore.write_text(IGNORE, encoding="utf-8")
        except OSError as error:
            raise RunError(f"{cache} cannot be written: {error.strerror}") from None
