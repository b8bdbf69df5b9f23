"""What drivers work with: settings, the worker that starts processes, and the live line."""

from __future__ import annotations

import threading
from pathlib import Path

from pytest_gates.model.config import RecordedRun, Run
from pytest_gates.report.live import LiveLine
from pytest_gates.run.plan import Execution
from pytest_gates.run.program import Limits
from pytest_gates.run.server import Server
from pytest_gates.run.worker import Worker
from pytest_gates.settings import ASK_FIRST, Settings


class Bench:
    """One session's means to execute runs."""

    def __init__(self, settings: Settings, early: Server | None = None) -> None:
        """The worker is made when it is first needed, and takes the forkserver `early` over."""
        self.settings = settings
        self._early = early
        self._worker: Worker | None = None
        self._making = threading.Lock()
        self.live = LiveLine(settings.terminal)
        self.ended = threading.Event()
        """Set at the session's end: whoever waits for a device or a run waits no longer."""
        self._obstacles: dict[Run, str | None] = {}

    @property
    def sealed(self) -> Path:
        """Folder of evidence that no record cites yet."""
        return self.settings.cache / "evidence"

    @property
    def limit_bytes(self) -> int:
        """Largest evidence of one run."""
        return int(self.settings.evidence_limit_mib * 2**20)

    @property
    def artifacts(self) -> Path:
        """Folder of what this session's runs left for the runs that continue them."""
        return self.settings.cache / "artifacts" / self.settings.session

    def kept(self, execution: Execution) -> Path:
        """Folder of an execution's checkpoints."""
        return self.artifacts / execution.key[:24]

    @property
    def worker(self) -> Worker:
        """The one way to start a process."""
        with self._making:
            if self._worker is None:
                settings = self.settings
                limits = Limits(self.limit_bytes, int(settings.output_limit_mib * 2**20))
                self._worker = Worker(
                    cache=settings.cache, root=settings.root, limits=limits, ended=self.ended,
                    early=self._early,
                )  # fmt: skip
            return self._worker

    def obstacle(self, run: Run) -> str | None:
        """Why this machine cannot execute the run, or None."""
        if isinstance(run, RecordedRun):
            return None
        if run not in self._obstacles:
            self._obstacles[run] = self._forbidden(run) or self.worker.why_not(run)
        return self._obstacles[run]

    def _forbidden(self, run: Run) -> str | None:
        """A contract alone starts no program: pytest's configuration names the driver."""
        if run.driver not in ASK_FIRST or run.driver in self.settings.allow_drivers:
            return None
        return (
            f"driver {run.driver} starts a program and is not allowed: "
            f"`gates_allow_drivers = {run.driver}` in pytest's configuration allows it"
        )

    def close(self) -> None:
        """End the forkserver, if one was started."""
        if self._worker is not None:
            self._worker.close()
