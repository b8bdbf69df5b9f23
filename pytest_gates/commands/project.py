"""Where a project is, as pytest would find it."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from pytest_gates.errors import GatesError

MARKS = ("pytest.ini", "pyproject.toml", "tox.ini", "setup.cfg", ".git")


def offer_root(parser: argparse.ArgumentParser) -> None:
    """Add `--root` to a command."""
    parser.add_argument(
        "--root",
        type=Path,
        metavar="DIR",
        help=f"the project's folder (default: the nearest above that holds {' or '.join(MARKS)})",
    )


def project_root(root: Path | None, paths: Sequence[Path] = ()) -> Path:
    """The project's folder: the one that is named, else the nearest one with a mark of one.

    Raises:
        GatesError: the folder that is named is none.
    """
    if root is not None:
        if not root.is_dir():
            raise GatesError(f"{root}: there is no such folder")
        return root.resolve()
    start = (paths[0] if paths else Path()).resolve()
    for folder in (start, *start.parents):
        if any((folder / mark).exists() for mark in MARKS):
            return folder
    return Path().resolve()
