"""A copy of this project as a fresh checkout has it: sources, contracts and evidence, no cache."""

from __future__ import annotations

import shutil
from pathlib import Path

from benchmarks.measure import ROOT

PARTS = (".ci", "contracts", "evidence", "model", "pytest_gates", "benchmarks")
FILES = ("conftest.py", "pyproject.toml", "Makefile", "constraints.txt", "README.md")


def copy_project(target: Path) -> Path:
    """Copy and return `target`; it has no git history."""
    target.mkdir(parents=True)
    ignore = shutil.ignore_patterns("__pycache__", ".staging-*")
    for part in PARTS:
        if (ROOT / part).is_dir():
            # The link pytest_gates/model -> ../model stays one, or there would be two models.
            shutil.copytree(ROOT / part, target / part, symlinks=True, ignore=ignore)
    for name in FILES:
        if (ROOT / name).is_file():
            shutil.copy2(ROOT / name, target / name)
    return target
