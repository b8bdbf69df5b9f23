"""What the witness costs a step: the same GPU run with and without it, in turns.

    python benchmarks/witness_cost.py [--pairs 3] [--steps 200]

Prints one line of JSON: medians of the steps from 50 on, in ms, and the ratio. The bound is 1.01.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import tempfile
from pathlib import Path

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
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--steps", type=int, default=200)
    options = parser.parse_args()
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
            times: dict[str, list[float]] = {"with": [], "without": []}
            for _ in range(options.pairs):
                times["with"] += step_ms(seen, run)
                times["without"] += step_ms(unseen, run)
    medians = {name: statistics.median(values) for name, values in times.items()}
    ratio = medians["with"] / medians["without"]
    print(json.dumps({"gpu": gpus.all[0].name, "median_ms": medians, "ratio": round(ratio, 4)}))


if __name__ == "__main__":
    main()
