"""What git says of a project's files; nothing is ever changed through it."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

from pytest_gates.errors import GatesError

TIMEOUT_S = 60


@dataclass(frozen=True)
class Repository:
    """The git repository that a folder lies in; every path is relative to that folder."""

    root: Path

    def resolve(self, revision: str) -> str:
        """The commit of a revision.

        Raises:
            GatesError: there is none, or no repository.
        """
        if revision.startswith("-"):
            raise GatesError(f"{revision}: no revision")
        said = self._ask("rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}", missing=True)
        if not said:
            raise GatesError(f"{revision}: no such revision in the git repository of {self.root}")
        return said.strip()

    def is_ancestor(self, commit: str) -> bool:
        """Whether the present commit descends from that one."""
        told = self._run("merge-base", "--is-ancestor", commit, "HEAD")
        return told.returncode == 0

    def files(self, commit: str, folder: str) -> list[str]:
        """Paths beneath a folder, or the file itself, as they were."""
        return _split(self._ask("ls-tree", "-r", "-z", "--name-only", commit, "--", folder))

    def text(self, commit: str, path: str) -> str:
        """A file as it was, without byte order mark."""
        return self._ask("show", f"{commit}:./{path}").removeprefix("\ufeff")

    def changed(self, commit: str, folder: str) -> dict[str, str]:
        """Files that are not as they were: `D` deleted, `M` modified, and git's other letters."""
        said = _split(
            self._ask("diff", "--no-renames", "--name-status", "-z", "--relative", commit, "--",
                      folder)
        )  # fmt: skip
        return dict(zip(said[1::2], said[::2], strict=True))

    def committed(self, commit: str, folder: str) -> dict[str, str]:
        """When each file beneath a folder first came into history: UTC, ISO 8601."""
        said = self._ask("log", "--diff-filter=A", "--no-renames", "--name-only", "--relative",
                         "--date=format-local:%Y-%m-%dT%H:%M:%SZ", "--format=%x00%cd", commit,
                         "--", folder)  # fmt: skip
        times: dict[str, str] = {}
        for block in said.split("\0")[1:]:
            time, *paths = block.split("\n")
            times |= {path: time for path in paths if path}
        return times

    def _ask(self, *arguments: str, missing: bool = False) -> str:
        told = self._run(*arguments)
        if told.returncode != 0 and not missing:
            reason = told.stderr.strip().splitlines()[-1:] or ["git failed"]
            raise GatesError(f"git {arguments[0]}: {reason[0]}")
        return told.stdout

    def _run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = ["git", "-C", str(self.root), "-c", "core.quotePath=false", *arguments]
        try:
            return subprocess.run(  # noqa: S603 - fixed command, no shell
                command,
                capture_output=True,
                encoding="utf-8",
                errors="surrogateescape",
                timeout=TIMEOUT_S,
                check=False,
                env=_environment(),
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise GatesError(f"git cannot be asked: {error}") from None


def _environment() -> dict[str, str]:
    return {**os.environ, "TZ": "UTC", "GIT_OPTIONAL_LOCKS": "0"}


def _split(said: str) -> list[str]:
    return [part for part in said.split("\0") if part]
