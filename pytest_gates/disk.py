"""Files that appear whole or not at all, and are read from inside the project only."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pytest_gates.errors import EvidenceError, MissingEvidenceError

BLOCK_BYTES = 2**24


def resolve_inside(root: Path, location: str) -> str:
    """The path of a relative location, proven to lie inside `root` behind no symbolic link.

    Text, as an audit asks for it a hundred thousand times and a `Path` costs more than the proof.

    Raises:
        EvidenceError: it is absolute, climbs out, leads through a link, or is not there.
    """
    parts = location.split("/")
    if not location or location.startswith("/") or "\\" in location:
        raise EvidenceError(f"{location!r}: expected a path relative to the project's root")
    if any(part in {"", ".", ".."} or "\0" in part for part in parts):
        raise EvidenceError(f"{location!r}: expected a plain path inside the project, without '..'")
    path = str(root)
    for number, part in enumerate(parts, start=1):
        path = f"{path}/{part}"
        try:
            mode = os.lstat(path).st_mode
        except OSError as error:
            raise _unreadable(location, error) from None
        if stat.S_ISLNK(mode):
            link = "/".join(parts[:number])
            raise EvidenceError(f"{location}: {link} is a symbolic link; put the file itself there")
    return path


def read_inside(root: Path, location: str, limit_bytes: int) -> bytes:
    """The bytes of a regular file inside `root`; see `resolve_inside`.

    Raises:
        EvidenceError: also if it is no regular file, or larger than `limit_bytes`.
    """
    return read_regular(resolve_inside(root, location), location, limit_bytes)


def read_regular(path: Path | str, place: str, limit_bytes: int | None = None) -> bytes:
    """The bytes of a regular file, which `place` names in messages.

    Raises:
        EvidenceError: it is not there, no regular file, or larger than `limit_bytes`.
    """
    try:
        info = os.lstat(path)
        if not stat.S_ISREG(info.st_mode):
            raise EvidenceError(f"{place}: not a regular file")
        if limit_bytes is not None and info.st_size > limit_bytes:
            raise EvidenceError(f"{place}: {info.st_size} bytes, the limit is {limit_bytes}")
        descriptor = os.open(path, os.O_RDONLY)
        try:
            return _whole(descriptor, info.st_size)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise _unreadable(place, error) from None


def _whole(descriptor: int, size: int) -> bytes:
    """All bytes of a file. A reader object asks three times more what is known already."""
    data = os.read(descriptor, size + 1)
    while len(data) != size and (more := os.read(descriptor, BLOCK_BYTES)):
        data += more  # it grew meanwhile, or is longer than one call reads
    return data


def _unreadable(place: str, error: OSError) -> EvidenceError:
    missing = isinstance(error, FileNotFoundError)
    kind = MissingEvidenceError if missing else EvidenceError
    return kind(f"{place}: {error.strerror}")


@contextmanager
def staged(parent: Path) -> Iterator[Path]:
    """A folder next to the final one, gone afterwards whatever happens.

    Raises:
        EvidenceError: the disk refuses, in one line that names `parent`.
    """
    staging: Path | None = None
    try:
        parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=".staging-", dir=parent))
        staging.chmod(0o755)
        yield staging
    except OSError as error:
        reason = error.strerror or str(error)
        raise EvidenceError(
            f"{parent}: evidence cannot be written ({reason}); nothing was kept"
        ) from error
    finally:
        if staging is not None:
            shutil.rmtree(staging, ignore_errors=True)


def write_durably(target: Path, data: bytes) -> None:
    """Write a new file and wait until it is on the disk."""
    with target.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def fsync_folder(folder: Path) -> None:
    """Make renames inside a folder last."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
