"""One run's process, as the worker sees it: its telemetry while it lasts, its end, its witness."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO

from pytest_gates.disk import open_regular
from pytest_gates.evidence import Witness
from pytest_gates.model.control_files import seen_file
from pytest_gates.model.launch import Launch
from pytest_gates.model.telemetry import STATUSES
from pytest_gates.run.server import Server
from pytest_gates.run.tree import parent_of
from pytest_gates.run.witness import Observer

GRACE_S = 2.0
"""Seconds between SIGTERM and SIGKILL for a run whose time is up."""

_POLL_S = 0.02
_ABANDON_S = 10.0
_LOG_TAIL = 65536
_STATUS_OF_CODE = {code: status for status, code in STATUSES.items() if code is not None}

OnLine = Callable[[Mapping[str, Any]], None]
"""Called with each telemetry line of rank 0 while the run lasts."""

Observe = Callable[[int, int, int], Observer | None]
"""Makes the witness of (rank, pid, start in nanoseconds of `time.monotonic_ns`), if there can be
one. A run of one process is rank 0."""


def _nobody(rank: int, pid: int, started_ns: int) -> None:
    """The witness of a run that was not started."""


class RunProcess:
    """A run from its start to its end."""

    witnesses: Mapping[int, Witness] = MappingProxyType({})
    """What was seen from outside, by rank; where one is not in it, nobody looked."""
    started: str
    """When it was started; UTC, ISO 8601."""
    log_is_ours = True
    """Whether what the launcher's log says of an end may be told: a program's own may not."""
    linger_s: float | None = None
    """How long what it started may outlive it, and is then told; None: it is killed at once."""

    def __init__(
        self,
        server: Server,
        run_id: int,
        staging: Path,
        on_line: OnLine | None,
        *,
        told: Sequence[int] = (),
        tells: Path | None = None,
        most: int | None = None,
        launch: Launch | None = None,
        imports: Sequence[str] = (),
    ) -> None:
        """Not started yet.

        Args:
            server: the forkserver that will start it.
            run_id: its number there.
            staging: folder of `run.json`, `log.txt` and `out/`.
            on_line: called with each telemetry line of rank 0.
            told: sizes the run is told to allocate.
            tells: where those lines are; None: where the program's own runs write them.
            most: bytes of them that are followed; None: all.
            imports: modules that the forkserver is to have, beside those it has preloaded.
            launch: ranks that it starts; None: it is the one rank itself, whatever it starts.
        """
        self._server = server
        self._id = run_id
        self._staging = staging
        self._told = told
        self._on_line = on_line
        self._imports = tuple(imports)
        self._launched = launch is not None
        self._meeting = None if launch is None else launch.rendezvous
        count = 1 if launch is None else launch.ranks
        telling = [staging / "out" / f"telemetry-{rank}.jsonl" for rank in range(count)]
        if tells is not None:
            telling[0] = tells
        self._tails = [_Tail(path, most) for path in telling]
        self._observers: dict[int, Observer] = {}
        self.rank_pids: list[int | None] = [None] * (count if self._launched else 0)
        """PIDs of the ranks of a run that declares `launch`, each found below its launcher."""
        self._started_ns = 0
        self._pid: int | None = None
        self._ended: dict[str, Any] | None = None
        self._observe: Observe = _nobody
        self._until: float | None = None
        self._limit_s: float | None = None
        self._timeout_s: float | None = None
        self._kill_step: int | None = None

    @property
    def ended(self) -> dict[str, Any]:
        """What the forkserver said of the end; see `model.forkserver`."""
        assert self._ended is not None
        return self._ended

    def start(self, observe: Observe, timeout_s: float | None) -> None:
        """Start the process; `observe` makes its witness.

        Raises:
            RunError: the forkserver is dead.
        """
        self.started = datetime.now(UTC).isoformat(timespec="milliseconds")
        self._observe, self._limit_s = observe, timeout_s
        self._server.send(
            id=self._id,
            request=str(self._staging / "run.json"),
            out=str(self._staging / "out"),
            log=str(self._staging / "log.txt"),
            linger_s=self.linger_s,
            imports=self._imports,
        )

    @property
    def over(self) -> bool:
        """Whether the run has ended."""
        return self._ended is not None

    def watch(self) -> None:
        """Wait a moment for news of the run, read what it says, and end it when its time is up.

        Raises:
            RunError: the forkserver is dead, and the run with it.
        """
        self._listen(_POLL_S)
        if self._pid is not None:  # whoever hears of a run can rely on its being known
            self._read_telemetry()
        if self._until is not None and time.monotonic() > self._until and not self.over:
            self._server.send(end=self._id, grace_s=GRACE_S)
            self._until, self._timeout_s = None, self._limit_s

    def hold_before(self, step: int) -> None:
        """Let the run go on up to a step, and stop before it; it says the event `held` then."""
        hold = self._staging / "control" / "hold"
        draft = hold.with_suffix(".draft")  # the run must never read half a number
        draft.write_text(str(step), encoding="utf-8")
        draft.replace(hold)

    def abandon(self) -> None:
        """End the run, whatever it does."""
        self._server.send(end=self._id, grace_s=0.0)
        until = time.monotonic() + _ABANDON_S
        while not self.over and time.monotonic() < until:
            self._listen(_POLL_S)

    def kill_group(self) -> None:
        """End what a dead forkserver left: the run died with it, what the run started did not."""
        if self._pid is not None and self._ended is None:
            with suppress(ProcessLookupError):
                os.killpg(self._pid, signal.SIGKILL)

    def close(self) -> None:
        """Close what was read, and end the witness."""
        for tail in self._tails:
            tail.close()
        self.witnesses = {rank: one.stop() for rank, one in self._observers.items()}

    def outcome(self) -> tuple[str, str | None]:
        """Status and reason of the end."""
        if self._timeout_s is not None:
            return "TIMEOUT", f"ended after {self._timeout_s:g} s, its time limit{self._unmet()}"
        if self.ended["signal"] is not None:
            by = "" if self._kill_step is None else f", its own stimulus at step {self._kill_step}"
            told = self._launched and self.log_is_ours
            said = _last_words(self._staging / "log.txt", "KILLED") if told else None
            return "KILLED", (said or f"ended by {signal.Signals(self.ended['signal']).name}") + by
        code = self.ended["exit"]
        if code == 0:
            return "COMPLETED", None
        return self._failed(code)

    def _unmet(self) -> str:
        """Behind a time limit: that a launcher waited all the time for others to meet it."""
        if self._meeting is None or any(tail.began for tail in self._tails):
            return ""
        return f"; no rank had begun: its nodes did not meet at {self._meeting}"

    def _failed(self, code: int) -> tuple[str, str | None]:
        """Status and reason of an end with an exit code that is not 0."""
        said = _last_words(self._staging / "log.txt")
        return (
            _STATUS_OF_CODE.get(code, "ERROR"),
            said or f"ended with exit code {code} and gave no reason",
        )

    def signal(self, number: int) -> None:
        """Send a signal to the run's process group.

        Raises:
            RunError: the forkserver is dead.
        """
        self._server.send(signal=self._id, number=number)

    def _listen(self, timeout_s: float) -> None:
        message = self._server.receive(timeout_s, self._id)
        if message is None:
            return
        if "started" in message:
            self._pid, self._started_ns = message["started"], message["at_ns"]
            if self._limit_s is not None:  # its time begins with it, whenever that was
                self._until = self._started_ns / 1e9 + self._limit_s
            if not self._launched:
                self._watch_rank(0, message["started"])
        else:
            self._ended = message

    def _watch_rank(self, rank: int, pid: int) -> None:
        observer = self._observe(rank, pid, self._started_ns)
        if observer is not None:
            self._observers[rank] = observer
            observer.start()

    def _read_telemetry(self) -> None:
        for rank, tail in enumerate(self._tails):
            for line in tail.read():
                self._hear(rank, line)

    def _hear(self, rank: int, line: Mapping[str, Any]) -> None:
        event = line.get("event")
        if event == "run_started" and self._launched and self.rank_pids[rank] is None:
            pid = line.get("pid")
            # A rank's word for its PID counts where the kernel says the same of its parent.
            if isinstance(pid, int) and parent_of(pid) == self._pid:
                self.rank_pids[rank] = pid
                self._watch_rank(rank, pid)
        if event == "memory_held":
            self._acknowledge(rank, line.get("index"))
        if event == "stimulus_applied" and line.get("stimulus") == "kill":
            self._kill_step = line.get("step")
        if rank == 0 and self._on_line is not None:
            self._on_line(line)

    def _acknowledge(self, rank: int, index: object) -> None:
        if not isinstance(index, int) or not 0 <= index < len(self._told):
            return  # a run that says nonsense gets no answer, and goes on after a while
        if rank in self._observers:
            self._observers[rank].held(self._told[index])
        (self._staging / "control" / seen_file(index, rank)).touch()


class _Tail:
    """The complete lines of a growing file, each once. What is no JSON object is left out."""

    def __init__(self, path: Path, most: int | None = None) -> None:
        """Of a file that a stranger writes only so many bytes are read."""
        self._path = path
        self._most = most
        self._file: BinaryIO | None = None
        self._rest = b""

    def read(self) -> Iterator[dict[str, Any]]:
        if self._file is None:
            self._file = open_regular(self._path)
        if self._file is None:
            return
        data = self._file.read(-1 if self._most is None else self._most - self._file.tell())
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            parsed = _parsed(line)
            if parsed is not None:
                yield parsed

    @property
    def began(self) -> bool:
        """Whether the file was there."""
        return self._file is not None

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


def _last_words(log: Path, status: str | None = None) -> str | None:
    """The reason that the run gave in the last JSON line of its log (that tells a status)."""
    try:
        tail = log.read_bytes()[-_LOG_TAIL:]
    except OSError:
        return None
    for line in reversed(tail.splitlines()):
        parsed = _parsed(line)
        if parsed is None or status not in {None, parsed.get("status")}:
            continue
        if isinstance(parsed.get("reason"), str):
            return str(parsed["reason"])
    return None


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        parsed = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return parsed if isinstance(parsed, dict) else None
