"""The ignored cache of evidence that no record cites: what must go when it grows too large."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

DAY_S = 86_400.0
YOUNG_S = 5.0
"""Evidence this young may be of a session that has not yet said that it uses it."""


def prune(cache: Path, limit_bytes: float) -> None:
    """Drop the oldest evidence beyond the limit, and what sessions of other days left.

    Evidence that a session of the last day uses stays, however much it is. Other sessions may be
    pruning at the same time: what is gone already is fine.
    """
    sessions, evidence = cache / "sessions", cache / "evidence"
    artifacts = _older(cache / "artifacts")
    for old in (
        *_older(sessions),
        *artifacts,
        *(one for one in _older(evidence) if one.name.startswith(".")),
    ):
        shutil.rmtree(old, ignore_errors=True)
    for log in (cache / "logs").glob("*.txt"):
        with suppress(OSError):
            if time.time() - log.stat().st_mtime > DAY_S:
                log.unlink()
    in_use = set(_in_use(sessions))
    found = [(*_age_and_size(one), one) for one in _folders(evidence) if one.name[0] != "."]
    total = sum(size for _, size, _ in found)
    for made, size, folder in sorted(found):
        if total <= limit_bytes:
            return
        if folder.name not in in_use and time.time() - made > YOUNG_S:
            shutil.rmtree(folder, ignore_errors=True)
            total -= size


def _folders(parent: Path) -> list[Path]:
    return [one for one in parent.iterdir() if one.is_dir()] if parent.is_dir() else []


def _older(parent: Path) -> Iterator[Path]:
    for folder in _folders(parent):
        with suppress(OSError):
            if time.time() - folder.stat().st_mtime > DAY_S:
                yield folder


def _in_use(sessions: Path) -> Iterator[str]:
    for marker in sessions.glob("*/*.json"):
        with suppress(OSError, ValueError, KeyError):
            yield json.loads(marker.read_text(encoding="utf-8"))["location"].rpartition("/")[2]


def _age_and_size(folder: Path) -> tuple[float, int]:
    try:
        size = sum(file.stat().st_size for file in folder.iterdir())
        return folder.stat().st_mtime, size
    except OSError:
        return 0.0, 0
