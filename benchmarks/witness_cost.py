"""What the witness costs a step: the same GPU run with and without it, in turns.

    python -m benchmarks.witness_cost [--pairs 5] [--steps 200]

Medians of the steps from 50 on, in ms, and the ratio over neighbouring pairs.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
import tempfile
from pathlib import Path

from benchmarks.measure import REPETITIONS, limited, report, spread, turns
from pytest_gates.model.config import Data, Optimizer, PretrainRun
from pytest_gates.run.gpus import Gpus, find_gpus
from pytest_gates.run.worker import Worker

FIRST_STEP = 50


def step_ms(worker: Worker, run: PretrainRun) -> list[float]:
    """Milliseconds of each counted step of one execution."""
    steps: list[float] = []

    def keep(line: object) -> None:
        if isinstance(line, dict) and line.get("kind") == "step" and line["step"] >= FIRST_STEP:
            steps.append(float(line["wall_ms"]))

    finished = worker.execute(run, timeout_s=600, on_line=keep)
    shutil.rmtree(finished.staging)
    if finished.status != "COMPLETED":
        sys.exit(f"{finished.status}: {finished.reason}")
    return steps


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--pairs", type=int, default=REPETITIONS)
    parser.add_argument("--steps", type=int, default=200)
    options = limited(parser)
    gpus = find_gpus()
    if not gpus.all:
        sys.exit("no NVIDIA GPU on this machine")
    run = PretrainRun(
        driver="pretrain",
        device="cuda:0",
        model="llama-370m",
        data=Data(corpus="python-stdlib"),
        seq_len=512,
        batch_size=16,
        steps=options.steps,
        optimizer=Optimizer(),
        validation_batches=0,
    )
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder)
        blind = Gpus(None, unavailable="switched off for the comparison")
        with (
            Worker(cache=cache, root=cache, gpus=gpus) as seen,
            Worker(cache=cache, root=cache, gpus=blind) as unseen,
        ):
            seen_ms: list[list[float]] = []
            unseen_ms: list[list[float]] = []
            for _ in turns(options.pairs, options.within):
                seen_ms.append(step_ms(seen, run))
                unseen_ms.append(step_ms(unseen, run))
                _report(seen_ms, unseen_ms)


def _report(seen_ms: list[list[float]], unseen_ms: list[list[float]]) -> None:
    pairs = zip(map(statistics.median, seen_ms), map(statistics.median, unseen_ms), strict=True)
    report(
        "witness_cost",
        {
            "with_ms": spread([value for one in seen_ms for value in one]),
            "without_ms": spread([value for one in unseen_ms for value in one]),
            "ratio": spread([a / b for a, b in pairs]),
        },
        {"with_ms": seen_ms, "without_ms": unseen_ms},
    )


if __name__ == "__main__":
    main()
