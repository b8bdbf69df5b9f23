"""Logs that a program writes into the project itself, and whose lines they are.

Its own folder is new for each execution; a file of the project is not. So what lay there before is
remembered, and executions that tell into the project take turns, in whichever session they are.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from pytest_gates.disk import read_inside
from pytest_gates.errors import EvidenceError, RunError
from pytest_gates.model.command import OUT, CommandRun
from pytest_gates.run.bench import Bench
from pytest_gates.run.device_lock import taken, wait_for

LOCK = "project-logs.lock"


@dataclass(frozen=True)
class Before:
    """A file of the project as it was before the program began."""

    size: int
    inode: int
    changed_ns: int
    sha256: str | None
    """None: it was too large, or no file that can be read."""


Earlier = Mapping[str, Before]
"""By path relative to the project's root."""


def told_into_project(run: CommandRun) -> list[str]:
    """Paths of the project, or patterns of them, into which a run tells."""
    paths = [source.path for source in run.telemetry if source.path is not None]
    return [path for path in paths if not path.startswith(OUT)]


@contextmanager
def turn_in_project(bench: Bench, run: CommandRun, holder: str) -> Iterator[Earlier]:
    """Be the only execution that tells into the project; yields what lies there.

    A run that tells elsewhere waits for nobody.

    Raises:
        RunError: another execution told into the project for too long.
        SessionEndedError: the session ended meanwhile.
    """
    paths = told_into_project(run)
    if not paths:
        yield {}
        return
    settings = bench.settings
    lock = FileLock(settings.cache / "locks" / LOCK)
    if not wait_for(lambda: taken(lock), settings.lock_timeout_s, bench.ended):
        raise RunError(
            f"{holder}: {', '.join(paths)}: another run writes into the project for too long; "
            f"write into {OUT}, or see gates_lock_timeout_s"
        )
    try:
        yield dict(_there(settings.root, paths, bench.limit_bytes))
    finally:
        lock.release()


def _there(root: Path, paths: Sequence[str], limit: int) -> Iterator[tuple[str, Before]]:
    for path in {one for pattern in paths for one in matching(root, pattern)}:
        try:
            info = os.lstat(root / path)
            data = read_inside(root, path, limit)
        except EvidenceError:
            data = None
        except OSError:  # it went meanwhile
            continue
        sha256 = None if data is None else hashlib.sha256(data).hexdigest()
        size = info.st_size if data is None else len(data)
        yield path, Before(size, info.st_ino, info.st_mtime_ns, sha256)


def matching(root: Path, path: str) -> list[str]:
    """What a path means: itself, or the files that fit its pattern, relative to `root`."""
    if "*" not in path:
        return [path]
    return sorted(one.relative_to(root).as_posix() for one in root.glob(path) if one.is_file())


def is_old(root: Path, path: str, earlier: Earlier, limit: int) -> bool:
    """Whether a file is another run's: as it was before, or still beginning with what it held.

    Raises:
        EvidenceError: it has changed, and cannot be read.
    """
    was = earlier.get(path)
    if was is None or was.size == 0:
        return False
    try:
        info = os.lstat(root / path)
    except OSError:
        return False
    if (info.st_ino, info.st_size, info.st_mtime_ns) == (was.inode, was.size, was.changed_ns):
        return True
    begins = read_inside(root, path, limit)[: was.size]
    return was.sha256 is not None and hashlib.sha256(begins).hexdigest() == was.sha256
