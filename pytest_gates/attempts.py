"""How often a gate was executed before it passed: a gate re-run until green must show it."""

from __future__ import annotations

import json
import os
from pathlib import Path

from pytest_gates.canonical import digest
from pytest_gates.checks.base import Verdict


def note_attempt(cache: Path, contract: str, gate: str, gate_hash: str, verdict: Verdict) -> int:
    """Append one attempt and count those since the last pass, this one included.

    Lines are appended with one write each, so that processes do not tear each other's. A pass at
    the first attempt, which most are, leaves no trace: there is nothing to count from it.
    """
    if verdict is Verdict.PASS and not os.path.isdir(f"{cache}/attempts"):  # noqa: PTH112 - a
        return 1  # `Path` takes longer than the question, which every gate asks
    folder = cache / "attempts"
    path = folder / f"{digest([contract, gate])[:32]}.jsonl"
    if verdict is Verdict.PASS and not path.exists():
        return 1
    folder.mkdir(parents=True, exist_ok=True)
    with path.open("a+", encoding="utf-8", errors="replace") as file:
        # The line break before it ends what a full disk has cut off, else it is a line of nothing.
        file.write("\n" + json.dumps({"gate": gate_hash, "verdict": str(verdict)}) + "\n")
        file.flush()
        file.seek(0)
        lines = [_verdict_of(line, gate_hash) for line in file]
    count = 0
    for told in reversed([one for one in lines if one is not None][:-1]):
        if told == Verdict.PASS:
            break
        count += 1
    return count + 1


def _verdict_of(line: str, gate_hash: str) -> str | None:
    """The verdict of an attempt at a gate; None of another's, and of what a full disk cut off."""
    try:
        said = json.loads(line)
        return str(said["verdict"]) if said["gate"] == gate_hash else None
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
