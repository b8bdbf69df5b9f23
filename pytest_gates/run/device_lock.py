"""Locks across processes: one run a GPU, and on the CPU no more threads than cores.

The locks lie where every project of one user finds them, since a GPU is shared by all of them. They
are the kernel's own (flock), so a holder that was killed holds nothing.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock, Timeout

from pytest_gates.errors import RunError, SessionEndedError
from pytest_gates.evidence import Gpu

_POLL_S = 0.05

T = TypeVar("T")


def lock_folder() -> Path:
    """Where the locks of this user lie."""
    return Path(tempfile.gettempdir()) / f"pytest-gates-locks-{os.getuid()}"


@contextmanager
def gpu_lock(
    gpus: Sequence[Gpu],
    *,
    needed: int = 1,
    name: str,
    running: str,
    timeout_s: float,
    folder: Path | None = None,
    ended: threading.Event | None = None,
) -> Iterator[tuple[Gpu, ...]]:
    """Hold GPUs for a run, all at once; yields those that were free first, in the order given.

    Args:
        gpus: those that would do; their UUIDs are the keys.
        needed: how many of them.
        name: what the run calls it, `cuda:0`.
        running: what runs, for whoever waits.
        timeout_s: seconds to wait for it.
        folder: where the locks lie; None: `lock_folder()`.
        ended: set once nobody asks for the run any more.

    Raises:
        SessionEndedError: `ended` was set while it was waited for.
        RunError: somebody else holds it still; the message names the holder.
    """
    several = f", {needed} of {len(gpus)}" if len(gpus) > 1 else ""
    device = f"{name} ({gpus[0].name}{several})"
    home = _folder(folder)
    by_path = {home / f"{re.sub('[^A-Za-z0-9-]', '_', str(gpu.uuid))}.lock": gpu for gpu in gpus}
    paths = list(by_path)
    with ExitStack() as held:
        got = wait_for(lambda: _take(held, paths, needed, running), timeout_s, ended)
        if not got:
            raise _held_still(device, timeout_s, paths)
        yield tuple(by_path[path] for path in got)


@contextmanager
def cpu_lock(
    threads: int,
    *,
    running: str,
    timeout_s: float,
    folder: Path | None = None,
    slots: int | None = None,
    ended: threading.Event | None = None,
) -> Iterator[None]:
    """Hold as many of the machine's CPUs as a run has threads, or all of them.

    Args:
        threads: CPU threads of the run, those of all its processes.
        slots: how many there are; None: as many as this process may use.
        running: what runs, for whoever waits.
        timeout_s: seconds to wait for them.
        folder: where the locks lie; None: `lock_folder()`.
        ended: set once nobody asks for the run any more.

    Raises:
        SessionEndedError: `ended` was set while they were waited for.
        RunError: others hold too many of them still; the message names one of the holders.
    """
    home = _folder(folder)
    cpus = slots or cpu_count()
    paths = [home / f"cpu-{number}.lock" for number in range(cpus)]
    needed = min(threads, cpus)
    with ExitStack() as held:
        if not wait_for(lambda: _take(held, paths, needed, running), timeout_s, ended):
            raise _held_still(f"cpu ({needed} of {cpus} threads)", timeout_s, paths)
        yield


def cpu_count() -> int:
    """CPUs that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def wait_for(take: Callable[[], T], timeout_s: float, ended: threading.Event | None = None) -> T:
    """Try until what comes is true, or the time is up; returns what came last.

    Raises:
        SessionEndedError: `ended` was set meanwhile.
    """
    ended = ended or threading.Event()
    until = time.monotonic() + timeout_s
    while not (got := take()) and time.monotonic() <= until:
        if ended.wait(_POLL_S):
            raise SessionEndedError
    return got


def taken(lock: FileLock) -> bool:
    """Take a lock if nobody holds it."""
    try:
        lock.acquire(blocking=False)
    except Timeout:
        return False
    return True


def _held_still(device: str, timeout_s: float, paths: Sequence[Path]) -> RunError:
    holders = "; ".join(sorted({_holder(path) for path in paths if path.exists()}))
    return RunError(
        f"{device} was not free within {timeout_s:g} s: it is held by {holders}; "
        f"wait for that, or end it"
    )


def _take(held: ExitStack, paths: Sequence[Path], needed: int, running: str) -> list[Path]:
    """Take so many of the locks, or none: half of what two runs need would block both for ever."""
    with ExitStack() as attempt:
        held_now: list[Path] = []
        for path in paths:
            lock = FileLock(path)
            if not taken(lock):
                continue
            attempt.callback(lock.release)
            _say_holder(path, running)
            held_now.append(path)
            if len(held_now) == needed:
                held.push(attempt.pop_all())
                return held_now
    return []


def _say_holder(path: Path, running: str) -> None:
    said = {
        "pid": os.getpid(),
        "running": running,
        "since": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    path.with_suffix(".json").write_text(json.dumps(said), encoding="utf-8")


def _holder(path: Path) -> str:
    try:
        said: dict[str, Any] = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        return f"pid {said['pid']} running {said['running']} since {said['since']}"
    except (OSError, ValueError, KeyError):  # it has the lock and is about to say so
        return "another process"


def _folder(folder: Path | None) -> Path:
    home = lock_folder() if folder is None else folder
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"{home}: cannot be made for the locks: {error.strerror}") from error
    if home.stat().st_uid != os.getuid():
        raise RunError(f"{home}: belongs to another user; remove it, it holds only locks")
    return home
