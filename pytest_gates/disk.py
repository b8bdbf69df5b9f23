"""Files that appear whole or not at all, and are read from inside the project only."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from pytest_gates.errors import EvidenceError, MissingEvidenceError

CHUNK_BYTES = 2**20

_NO_PARTS = frozenset({"", ".", ".."})
_OPENED = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
"""A link is refused where it is opened, and nobody waits for a pipe."""


def resolve_inside(root: Path, location: str) -> str:
    """The path of a relative location, proven to lie inside `root` behind no symbolic link.

    Text, as an audit asks for it a hundred thousand times and a `Path` costs more than the proof.

    Raises:
        EvidenceError: it is absolute, climbs out, leads through a link, or is not there.
    """
    return _resolved(root, location, None)[0]


def folder_inside(root: Path, location: str, proven: set[str] | None = None) -> str | None:
    """The same of a folder; None if something else lies there.

    `proven` are folders on the way that were seen to be no links, and become more: who asks for
    thousands of neighbours keeps them as long as it is one look at the project.
    """
    path, mode = _resolved(root, location, proven)
    return path if stat.S_ISDIR(mode) else None


def _resolved(root: Path, location: str, proven: set[str] | None) -> tuple[str, int]:
    """Path and mode of what lies at a location."""
    parts = location.split("/")
    if not location or location.startswith("/") or "\\" in location:
        raise EvidenceError(f"{location!r}: expected a path relative to the project's root")
    if "\0" in location or not _NO_PARTS.isdisjoint(parts):
        raise EvidenceError(f"{location!r}: expected a plain path inside the project, without '..'")
    path, mode, number = str(root), 0, 0
    if proven is not None and (before := f"{path}/{'/'.join(parts[:-1])}") in proven:
        path, number = before, len(parts) - 1
    for part in parts[number:]:
        if proven is not None and number:
            proven.add(path)
        path, number = f"{path}/{part}", number + 1
        try:
            mode = os.lstat(path).st_mode
        except OSError as error:
            raise _unreadable(location, error) from None
        if stat.S_ISLNK(mode):
            link = "/".join(parts[:number])
            raise EvidenceError(f"{location}: {link} is a symbolic link; put the file itself there")
    return path, mode


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
        descriptor = os.open(path, _OPENED)
    except OSError as error:
        if error.errno in {errno.ELOOP, errno.ENXIO}:  # a link, a socket
            raise EvidenceError(f"{place}: not a regular file") from None
        raise _unreadable(place, error) from None
    try:
        info = os.fstat(descriptor)
        if not stat.S_ISREG(info.st_mode):
            raise EvidenceError(f"{place}: not a regular file")
        if limit_bytes is not None and info.st_size > limit_bytes:
            raise EvidenceError(f"{place}: {info.st_size} bytes, the limit is {limit_bytes}")
        return _to_its_end(descriptor, info.st_size)
    except OSError as error:
        raise _unreadable(place, error) from None
    finally:
        os.close(descriptor)


def open_regular(path: Path | str) -> BinaryIO | None:
    """A regular file, opened to be read while another process writes it; None: there is none.

    Nobody waits for whoever would write into a pipe of that name, and no link is followed.
    """
    try:
        descriptor = os.open(path, _OPENED)
    except OSError:
        return None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        return None
    return os.fdopen(descriptor, "rb")


def _to_its_end(descriptor: int, size: int) -> bytes:
    # A byte more than there should be, so that the end is seen without another call.
    data = os.read(descriptor, size + 1)
    if len(data) == size:
        return data
    parts = [data]
    while parts[-1]:
        parts.append(os.read(descriptor, CHUNK_BYTES))
    return b"".join(parts)


def _unreadable(place: str, error: OSError) -> EvidenceError:
    missing = isinstance(error, FileNotFoundError)
    kind = MissingEvidenceError if missing else EvidenceError
    return kind(f"{place}: {error.strerror}")


def refuse_links(*folders: Path) -> None:
    """Nothing is written through a link, since nothing would be read through it.

    Raises:
        EvidenceError: one of these is a symbolic link.
    """
    for folder in folders:
        if folder.is_symlink():
            raise EvidenceError(
                f"{folder}: is a symbolic link; put the folder itself there; nothing was written"
            )


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
