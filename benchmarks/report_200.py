"""The HTML report of 200 gates with pictures: at most 10 s and 6 MiB.

    python -m benchmarks.report_200 [--keep FOLDER]

Makes a project of recorded runs with made-up logs, judges it once with pytest (not timed), and
times `pytest-gates report` over what was recorded.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import sys
from pathlib import Path

from benchmarks.measure import (
    REPETITIONS,
    cost,
    environment,
    pytest_command,
    report,
    scratch,
    spread,
)

GATES = 200
STEPS = 300
FORWARD_RUNS = 10
"""Heat maps are of runs that are executed; a recording has no slots."""


def make_project(root: Path, gates: int = GATES) -> None:
    """A contract of `gates` gates: budgets, descents, residencies and heat maps in turn."""
    (root / "contracts").mkdir(parents=True)
    (root / "logs").mkdir()
    (root / "pytest.ini").write_text("[pytest]\n", encoding="utf-8")
    runs = [
        f"  forward-{index}: {{driver: forward, device: cpu, model: llama-1m, seed: {index}}}"
        for index in range(FORWARD_RUNS)
    ]
    listed = []
    for index in range(gates):
        log = root / "logs" / f"{index}.jsonl"
        log.write_text("\n".join(map(json.dumps, _log(index))) + "\n", encoding="utf-8")
        (root / "logs" / f"{index}.csv").write_text(_samples(index), encoding="utf-8")
        runs.append(_run(index))
        listed.append(_gate(index))
    text = "\n".join(["contract_id: C-MANY", "runs:", *runs, "gates:", *listed]) + "\n"
    (root / "contracts" / "many.yaml").write_text(text, encoding="utf-8")


def _log(index: int) -> list[dict[str, object]]:
    chance = random.Random(index)
    steps: list[dict[str, object]] = [
        {"step": step, "wall_ms": 45 + chance.gauss(0, 0.6) + 90 * (step == 0),
         "train_loss": 4.2 + 6.63 * math.exp(-step / 80) + chance.gauss(0, 0.05)}
        for step in range(STEPS)
    ]  # fmt: skip
    return steps


def _samples(index: int) -> str:
    chance = random.Random(-index)
    rows = ["timestamp, pid, used_gpu_memory [MiB]"]
    rows += [
        f"2026/01/01 00:00:{second:02d}.000, 4711, {6636 + chance.randint(0, 40)} MiB"
        for second in range(1, 31)
    ]
    return "\n".join(rows) + "\n"


def _run(index: int) -> str:
    steps, memory = f"logs/{index}.jsonl", f"logs/{index}.csv"
    files = f"{{path: {steps}, format: jsonl}}, {{path: {memory}, format: nvidia-smi-csv}}"
    declares = "model: llama-370m, device: 'cuda:0', seq_len: 512, batch_size: 16, pid: 4711"
    return (
        f"  run-{index}:\n    driver: recorded\n    files: [{files}]\n"
        f"    declares: {{{declares}, steps: {STEPS}, host: {{gpu: NVIDIA H200}}}}"
    )


def _gate(index: int) -> str:
    check = (
        "{kind: budget, metric: wall_ms, steps: [20, 299], statistic: p95, below: 60}",
        "{kind: descent, metric: train_loss, steps: [0, 299]}",
        "{kind: residency, require: [L3]}",
        "{kind: bounded, metric: rms, below: 1000.0}",
    )[index % 4]
    run = f"forward-{index // 4 % FORWARD_RUNS}" if index % 4 == 3 else f"run-{index}"
    return (
        f"  - id: GATE-MANY-{index:03d}\n    rule: Claim {index} of many holds.\n"
        f"    run: {run}\n    checks: [{check}]\n    verdict: pending"
    )


def main() -> None:
    """Make, judge, time."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keep", type=Path, help="leave the project in this folder")
    options, _ = parser.parse_known_args()
    with scratch() as folder:
        root = options.keep or folder / "project"
        make_project(root)
        env = environment(folder / "bytecode")
        judge = pytest_command("-q", "-p", "pytest_gates.plugin", "--gates", "contracts")
        cost([*judge, "--gates-record", "changed"], root, env)
        command = [sys.executable, "-m", "pytest_gates.cli", "report", "contracts"]
        costs = [cost([*command, "-o", "gates.html"], root, env) for _ in range(REPETITIONS)]
        size = (root / "gates.html").stat().st_size / 2**20
    figures = {
        "wall_s": spread([one.wall_s for one in costs]),
        "cpu_s": spread([one.cpu_s for one in costs]),
        "mib": round(size, 2),
    }
    report("report_200", figures, {"report": costs})


if __name__ == "__main__":
    main()
