"""One execution, once: across the gates of a session and across the workers of xdist."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock, Timeout

from pytest_gates.disk import write_durably
from pytest_gates.errors import RunError
from pytest_gates.evidence import Evidence
from pytest_gates.model.config import Run
from pytest_gates.run.drivers import DRIVERS, Bench
from pytest_gates.run.plan import Execution
from pytest_gates.settings import Settings

DAY_S = 86_400.0
IGNORE = "# Made by pytest-gates: evidence that no record cites, corpora, locks.\n*\n"


class Executor:
    """Obtains evidence of executions; each key is executed once a session."""

    def __init__(self, settings: Settings, read: Callable[[str], Evidence]) -> None:
        self._settings = settings
        self._read = read
        self._bench = Bench(settings)

    def close(self) -> None:
        """End all processes of this session's runs."""
        self._bench.close()

    def discard_artifacts(self) -> None:
        """Remove the checkpoints that this session's runs left; no run will continue them."""
        shutil.rmtree(self._bench.artifacts, ignore_errors=True)

    def obstacle(self, run: Run) -> str | None:
        """Why this machine cannot execute the run, or None."""
        return self._bench.obstacle(run)

    def obtain(self, execution: Execution, holder: str) -> Evidence:
        """Execute, or wait for whoever executes the same thing, or read what is there.

        Raises:
            RunError: it could not be executed, or its device stayed held by another process.
            EvidenceError: its evidence could not be kept.
        """
        marker = self._marker(execution)
        if not marker.exists():
            self._prepare()
            if execution.source is not None:
                self.obtain(execution.source, holder)
            name = execution.group or execution.key
            lock = FileLock(self._settings.cache / "locks" / f"run-{name[:24]}.lock")
            try:
                with lock.acquire(timeout=self._settings.lock_timeout_s):
                    if not marker.exists():
                        self._execute(execution, holder, marker)
            except Timeout:
                raise RunError(f"another process is executing {execution.title} for too long; "
                               "see gates_lock_timeout_s") from None  # fmt: skip
        location = json.loads(marker.read_text(encoding="utf-8"))["location"]
        return self._read(location)

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
        self._prune(keep=sealed[-1])

    def _prepare(self) -> None:
        cache = self._settings.cache
        try:
            (cache / "locks").mkdir(parents=True, exist_ok=True)
            ignore = cache / ".gitignore"
            if not ignore.exists():
                ignore.write_text(IGNORE, encoding="utf-8")
        except OSError as error:
            raise RunError(f"{cache} cannot be written: {error.strerror}") from None

    def _prune(self, keep: Path) -> None:
        """Drop the oldest evidence beyond the cache's size limit, and sessions of other days."""
        newest = keep.stat().st_mtime
        sessions = self._settings.cache / "sessions"
        kept = self._bench.artifacts.parent
        for session in (*sessions.iterdir(), *(kept.iterdir() if kept.is_dir() else ())):
            if newest - session.stat().st_mtime > DAY_S:
                shutil.rmtree(session, ignore_errors=True)
        in_use = {
            Path(json.loads(marker.read_text(encoding="utf-8"))["location"]).name
            for marker in sessions.glob("*/*.json")
        }
        folders = [folder for folder in keep.parent.iterdir() if not folder.name.startswith(".")]
        sizes = {one: sum(file.stat().st_size for file in one.iterdir()) for one in folders}
        total = sum(sizes.values())
        for folder in sorted(folders, key=lambda one: one.stat().st_mtime):
            if total <= self._settings.cache_limit_mib * 2**20:
                break
            if folder.name not in in_use:
                shutil.rmtree(folder, ignore_errors=True)
                total -= sizes[folder]
