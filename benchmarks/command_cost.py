"""What driver `command` adds to a program's own wall time: the same program with and without it.

    python -m benchmarks.command_cost [--repetitions 5]

*First* begins with nothing started; *warm* has the session's forkserver. Both go from the request
to evidence that was sealed and read back; the program sleeps for a second and tells a hundred
steps.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

from benchmarks.measure import REPETITIONS, report, scratch, spread
from pytest_gates.evidence_store import read_evidence
from pytest_gates.model.config import CommandRun
from pytest_gates.run.executor import Executor
from pytest_gates.run.plan import Execution
from pytest_gates.settings import Settings

PROGRAM = """
import json, sys, time
time.sleep(1)
for step in range(100):
    print(json.dumps({"step": step, "train_loss": 5 - step / 100}))
"""


def alone_ms(folder: Path) -> float:
    begun = time.perf_counter()
    subprocess.run(
        [sys.executable, "program.py"], cwd=folder, stdout=subprocess.DEVNULL, check=True
    )
    return (time.perf_counter() - begun) * 1000


def under_contract_ms(folder: Path) -> tuple[float, float]:
    """The first execution of a session, and the next one."""
    settings = Settings(
        root=folder, session=str(time.monotonic_ns()), allow_drivers=frozenset({"command"})
    )
    executor = Executor(settings, partial(read_evidence, folder))
    run = CommandRun.model_validate({
        "driver": "command", "argv": ["python", "program.py"], "device": "cpu",
        "telemetry": [{"stdout": True, "format": "jsonl"}],
    })  # fmt: skip
    taken = []
    try:
        for repetition in range(2):
            begun = time.perf_counter()
            evidence = executor.obtain(Execution(run, repetition=repetition), "benchmark")
            taken.append((time.perf_counter() - begun) * 1000)
            if len(evidence.main.steps) != 100:
                sys.exit(f"{evidence.status}: {evidence.reason}")
    finally:
        executor.close()
    return taken[0], taken[1]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--repetitions", type=int, default=REPETITIONS)
    options, _ = parser.parse_known_args()
    alone, first, warm = [], [], []
    with scratch() as folder:
        (folder / "program.py").write_text(PROGRAM, encoding="utf-8")
        alone_ms(folder)
        under_contract_ms(folder)
        for _ in range(options.repetitions):
            alone.append(alone_ms(folder))
            one, two = under_contract_ms(folder)
            first.append(one)
            warm.append(two)
    report(
        "command_cost",
        {
            "alone_ms": spread(alone),
            "first_added_ms": spread([a - b for a, b in zip(first, alone, strict=True)]),
            "warm_added_ms": spread([a - b for a, b in zip(warm, alone, strict=True)]),
        },
        {"alone_ms": alone, "first_ms": first, "warm_ms": warm},
    )


if __name__ == "__main__":
    main()
