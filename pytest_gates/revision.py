"""Which code made the evidence: the git revision of this program's own sources."""

from __future__ import annotations

import functools
import hashlib
import re
import subprocess
from pathlib import Path

_REVISION = re.compile(r"[0-9a-f]{40}")
_DIGITS = 12


@functools.cache
def code_revision() -> str:
    """Commit of the checkout that this program runs from, with `+` if its sources were edited.

    Installed, or copied without its history: `sources:` and a hash over the program's own files.
    """
    here = Path(__file__).resolve().parent
    return commit_of(here) or f"sources:{_sources(here)[:16]}"


def shortened(code: str) -> str:
    """A revision by its first digits, and whether it was edited."""
    edited = code.endswith("+") and not code[:_DIGITS].endswith("+")
    return code[:_DIGITS] + "+" * edited


def _sources(here: Path) -> str:
    files = sorted([*here.rglob("*.py"), *(here / "model").glob("*.py")])
    total = hashlib.sha256()
    for file in dict.fromkeys(files):
        total.update(file.relative_to(here).as_posix().encode() + b"\0" + file.read_bytes() + b"\0")
    return total.hexdigest()


def commit_of(here: Path) -> str | None:
    """Commit of the checkout that the package in this folder belongs to; `+`: it was edited since.

    Verdicts that were written back, and whatever else lies beside the sources, are no edits. None
    if there is no checkout, or it is somebody's whose environment the package is installed in.
    """
    if not _git(here, "ls-files", "--", "__init__.py"):
        return None
    head = _git(here, "rev-parse", "HEAD")
    edits = _git(here, "--no-optional-locks", "status", "--porcelain", "--", *_own(here))
    if head is None or edits is None:
        return None
    return head.strip() + "+" * bool(edits)


def _own(here: Path) -> list[str]:
    """The folders of the program's sources."""
    return [str(here), str((here / "model").resolve())]


def _git(here: Path, *arguments: str) -> str | None:
    try:
        told = subprocess.run(  # noqa: S603 - fixed argv, no shell
            ["git", "-C", str(here), *arguments],  # noqa: S607 - git is looked up on PATH like every tool of a developer
            capture_output=True,
            text=True,
            timeout=5,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return told.stdout if told.returncode == 0 else None


@functools.cache
def commits_between(old: str, new: str) -> tuple[str, ...] | None:
    """Commits to this program's sources between two of its revisions, newest first.

    None if this checkout cannot tell: a revision is no commit, was edited, or is not known here.
    """
    here = Path(__file__).resolve().parent
    if old.endswith("+") or new.endswith("+"):
        return None
    if not (_REVISION.fullmatch(old) and _REVISION.fullmatch(new)):
        return None
    told = _git(here, "log", "--format=%h %s", f"{old}..{new}", "--", *_own(here))
    return None if told is None else tuple(told.splitlines())
