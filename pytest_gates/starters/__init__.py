"""Contracts to begin with: filled in, checked like any contract, and written by `new`."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from string import Template

from pytest_gates.errors import GatesError
from pytest_gates.readers.sources import READERS

HERE = Path(__file__).parent
KINDS: Mapping[str, str] = {
    "training": "the built-in trainer on a CPU: finite, falling, reproducible",
    "gpu": "the built-in trainer on a GPU: no silent fallback, residency, step budget, descent",
    "forward": "the forward path: causality, bounded activations",
    "recorded": "a log that your own program wrote already",
}
"""What a new contract can be about."""
WARM_UP = 0.2
"""Share of a log's steps that a budget leaves out at the start."""
SLOWER = 4
"""A falsifier makes each step this many budgets long."""


@dataclass(frozen=True, kw_only=True)
class Answers:
    """What a starter needs to know."""

    name: str
    kind: str
    model: str = ""
    gpu: str = ""
    budget_ms: float | None = None
    file: str = ""
    format: str = "jsonl"
    root: Path = Path()


def filled(answers: Answers) -> str:
    """The text of a contract.

    Raises:
        GatesError: an answer is missing or makes no sense; the message names it.
    """
    prefix = re.sub(r"[^A-Z0-9]+", "-", answers.name.upper()).strip("-")
    if not prefix:
        raise GatesError(f"{answers.name!r} has no letter or digit to make a name of")
    words = {"prefix": prefix, "contract_id": f"C-{prefix}", **_words(answers)}
    if answers.kind == "recorded":
        words |= _recorded(answers)
        words["budget"] = _template("recorded-budget", words) if answers.budget_ms else ""
    return _template(answers.kind, words).rstrip() + "\n"


def _template(name: str, words: Mapping[str, str]) -> str:
    return Template((HERE / f"{name}.yaml").read_text(encoding="utf-8")).substitute(words)


def _words(answers: Answers) -> dict[str, str]:
    if answers.kind == "gpu" and (not answers.gpu or answers.budget_ms is None):
        raise GatesError("a GPU contract needs --gpu (its name in NVML) and --budget-ms")
    budget = answers.budget_ms or 0.0
    model = answers.model or ("llama-370m" if answers.kind == "gpu" else "llama-1m")
    return {
        "model": json.dumps(model),
        "tokenizer": "bpe-50257" if model == "llama-370m" else "bytes",
        "gpu": json.dumps(answers.gpu) if answers.gpu else "null",
        "budget_ms": f"{budget:g}",
        "slow_ms": f"{min(max(budget * SLOWER, 1), 60_000):g}",
    }


def _recorded(answers: Answers) -> dict[str, str]:
    if not answers.file:
        raise GatesError("a contract over a log needs --file, relative to the project")
    path = answers.root / answers.file
    try:
        data = path.read_bytes()
    except OSError as error:
        raise GatesError(f"{answers.file}: {error.strerror}") from None
    contents = READERS[answers.format](data, answers.file)
    steps = sum(line.get("kind") == "step" for line in contents.lines)
    if not steps:
        raise GatesError(f"{answers.file}: tells no steps")
    return {
        "file": json.dumps(answers.file),
        "format": answers.format,
        "steps": str(steps),
        "first": str(int(steps * WARM_UP)),
        "last": str(steps - 1),
    }
