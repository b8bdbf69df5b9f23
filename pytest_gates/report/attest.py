"""An unsigned in-toto Statement about a session: what was tested, by what, and how it went.

Statement v1 and the predicate test-result v0.1, as the in-toto attestation framework specifies
them. Signing is for CI: a signature by whoever made the evidence would prove nothing.
"""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pytest_gates import __version__
from pytest_gates.manifest import MANIFEST
from pytest_gates.results import Mode, Result, Status

STATEMENT = "https://in-toto.io/Statement/v1"
PREDICATE = "https://in-toto.io/attestation/test-result/v0.1"


def statement(results: Sequence[Result], root: Path, evidence: Mapping[str, str]) -> dict[str, Any]:
    """The statement; `evidence` has the SHA-256 of each manifest by its folder.

    Subjects are the contracts, the evidence and the commit. A gate that was judged from recorded
    evidence passes like one that was run, and its contract's annotation says REPLAYED. BLOCKED
    and waived items are warnings.
    """
    failed = [result for result in results if result.red]
    passed = [result for result in results if not result.red and _green(result)]
    warned = [result for result in results if not result.red and not _green(result)]
    contracts = [_contract(file, results, root) for file in _files(results)]
    found = [
        {"name": f"{where}/{MANIFEST}", "digest": {"sha256": sha}}
        for where, sha in sorted(evidence.items())
    ]
    return {
        "_type": STATEMENT,
        "subject": [*contracts, *found, *_commit(root)],
        "predicateType": PREDICATE,
        "predicate": {
            "result": "FAILED" if failed else "WARNED" if warned else "PASSED",
            "configuration": [*contracts, {"name": "pytest-gates", "annotations":
                                           {"version": __version__}}],
            "passedTests": _names(passed),
            "warnedTests": _names(warned),
            "failedTests": _names(failed),
        },
    }  # fmt: skip


def _green(result: Result) -> bool:
    return result.status in {Status.PASS, Status.CAUGHT}


def _names(results: Sequence[Result]) -> list[str]:
    return [f"{result.contract}::{result.subject}" for result in results]


def _files(results: Sequence[Result]) -> list[str]:
    return list(dict.fromkeys(result.contract for result in results))


def _contract(file: str, results: Sequence[Result], root: Path) -> dict[str, Any]:
    mine = [result for result in results if result.contract == file]
    return {
        "name": file,
        "digest": {"sha256": hashlib.sha256((root / file).read_bytes()).hexdigest()},
        "annotations": {result.subject: _word(result) for result in mine},
    }


def _word(result: Result) -> str:
    mode = "" if result.mode is Mode.NONE else f" {result.mode}"
    return str(result.status) + mode + (" WAIVED" if result.waived else "")


def _commit(root: Path) -> list[dict[str, Any]]:
    """The project's commit, if it is a clone; a commit says nothing of files edited since."""
    try:
        told = subprocess.run(  # noqa: S603 - fixed argv, no shell
            ["git", "-C", str(root), "rev-parse", "HEAD"],  # noqa: S607 - git is looked up on PATH like every tool of a developer
            capture_output=True,
            text=True,
            timeout=5,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    if told.returncode != 0:
        return []
    return [{"name": "commit", "digest": {"gitCommit": told.stdout.strip()}}]
