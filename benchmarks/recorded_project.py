"""A project of N gates over recorded runs, and its twin of N plain parametrised test items."""

from __future__ import annotations

import json
import math
from pathlib import Path

GATES_A_FILE = 500
GATES_A_RUN = 100
STEPS = 100

INI = "[pytest]\naddopts = -p no:cacheprovider\n"

HEAD = """\
contract_id: C-SCALE-{file:04d}
version: 1.0.0
runs:
"""
RUN = """\
  log-{run}:
    driver: recorded
    files: [{{path: logs/{file:04d}-{run}.jsonl, format: jsonl}}]
    declares:
      {{model: llama-370m, device: "cuda:0", seq_len: 512, batch_size: 16, steps: 100,
        host: {{gpu: NVIDIA H200}}}}
"""
CHECKS = (
    "{{kind: budget, metric: wall_ms, steps: [20, 99], statistic: median, below: {limit}}}",
    "{{kind: bounded, metric: train_loss, below: {limit}}}",
    "{{kind: finite, metrics: [train_loss]}}",
    "{{kind: descent, metric: train_loss, steps: [0, 99], drop: 0.1}}",
)
GATE = """\
  - id: GATE-{gate:06d}
    rule: Step {gate} keeps what it promises.
    run: log-{run}
    checks:
      - {check}
    verdict: pending
"""
PLAIN = """\
import pytest


@pytest.mark.parametrize("gate", range({first}, {last}))
def test_gate(gate):
    assert gate >= 0
"""


def write_project(root: Path, gates: int, *, a_file: int = GATES_A_FILE) -> None:
    """`contracts/`, `logs/` and `plain/` beneath `root`, with so many gates a file."""
    for folder in ("contracts", "logs", "plain"):
        (root / folder).mkdir(parents=True)
    (root / "pytest.ini").write_text(INI, encoding="utf-8")
    for file, first in enumerate(range(0, gates, a_file)):
        last = min(first + a_file, gates)
        runs = math.ceil((last - first) / GATES_A_RUN)
        for run in range(runs):
            _write_log(root / "logs" / f"{file:04d}-{run}.jsonl", seed=file * 10 + run)
        text = HEAD.format(file=file) + "".join(RUN.format(file=file, run=i) for i in range(runs))
        text += "gates:\n" + "".join(_gate(gate, first) for gate in range(first, last))
        (root / "contracts" / f"c{file:04d}.yaml").write_text(text, encoding="utf-8")
        plain = PLAIN.format(first=first, last=last)
        (root / "plain" / f"test_p{file:04d}.py").write_text(plain, encoding="utf-8")


def _gate(gate: int, first: int) -> str:
    check = CHECKS[gate % len(CHECKS)].format(limit=500 + gate)
    return GATE.format(gate=gate, run=(gate - first) // GATES_A_RUN, check=check)


def _write_log(path: Path, seed: int) -> None:
    # Losses fall from ln(50257) and wobble, so that the descent gates have something to judge.
    lines = [
        json.dumps(
            {
                "step": step,
                "train_loss": 10.8 - 0.02 * step + 0.01 * math.sin(seed + 7.0 * step),
                "wall_ms": 45.0 + math.sin(seed * 1.3 + step * step),
            }
        )
        for step in range(STEPS)
    ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
