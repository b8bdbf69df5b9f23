"""Staging folders: where a run writes until its evidence is sealed, gone with whoever made them.

A folder's owner holds the kernel's lock on a file in it. The lock ends with its owner, however that
dies, so a folder whose lock can be taken is nobody's and is removed by the next session.
"""

from __future__ import annotations

import fcntl
import shutil
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

OWNER = "owner.lock"
DRAFT = "owner.draft"
YOUNG_S = 60.0
"""A folder this young may not hold its lock yet."""


class Staging:
    """The staging folders of one owner."""

    def __init__(self, folder: Path) -> None:
        """In `folder`, which is made if need be."""
        self._folder = folder
        self._locks: dict[Path, BinaryIO] = {}
        self._swept = False
        self._lock = threading.Lock()

    def make(self) -> Path:
        """A new folder; what dead owners left is removed first, once.

        Raises:
            OSError: the disk refuses.
        """
        with self._lock:
            self._folder.mkdir(parents=True, exist_ok=True)
            if not self._swept:
                sweep(self._folder)
                self._swept = True
            self._release_removed()
            made = Path(tempfile.mkdtemp(dir=self._folder))
            # The name is there once it is locked: between the two another session's sweep would
            # take the lock, and the folder for nobody's.
            lock = (made / DRAFT).open("wb")
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            (made / DRAFT).rename(made / OWNER)
            self._locks[made] = lock
            return made

    def close(self) -> None:
        """Let go of all folders; those that are still there are nobody's now."""
        for lock in self._locks.values():
            lock.close()
        self._locks.clear()

    def _release_removed(self) -> None:
        for made in [made for made in self._locks if not made.exists()]:
            self._locks.pop(made).close()


def sweep(folder: Path) -> None:
    """Remove the staging folders whose owners are dead."""
    for staging in folder.iterdir():
        # Another session may be sweeping, or its owner be done with it just now.
        with suppress(OSError):
            if _abandoned(staging):
                shutil.rmtree(staging, ignore_errors=True)


def _abandoned(staging: Path) -> bool:
    if time.time() - staging.stat().st_mtime < YOUNG_S and not (staging / OWNER).exists():
        return False
    try:
        with (staging / OWNER).open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return True  # old, and it never came to hold one
    except BlockingIOError:
        return False
    return True
