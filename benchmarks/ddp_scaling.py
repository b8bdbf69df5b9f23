"""Two Gloo processes over one: tokens a second of ~10M parameters, both runs taking turns.

    python -m benchmarks.ddp_scaling [--steps 40]

Each process has one thread and the same share of the batch, so two processes do twice the work a
step. Ratios are of neighbouring steps, from step 10 on.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from pathlib import Path

from benchmarks.measure import report, spread
from pytest_gates.model.config import Data, Optimizer, PretrainRun
from pytest_gates.model.launch import Launch
from pytest_gates.run.gpus import Gpus
from pytest_gates.run.worker import Finished, Order, Worker

FIRST_STEP = 10
SEQUENCES = 8
"""Of each process, a step."""


def run_of(processes: int, steps: int) -> PretrainRun:
    return PretrainRun(
        driver="pretrain",
        device="cpu",
        model="llama-10m",
        data=Data(corpus="python-stdlib"),
        seq_len=64,
        batch_size=SEQUENCES * processes,
        steps=steps,
        optimizer=Optimizer(),
        validation_batches=0,
        launch=None if processes == 1 else Launch(processes=processes),
    )


def column(finished: Finished, name: str) -> list[float]:
    """A metric of rank 0, from the first step that counts."""
    if finished.status != "COMPLETED":
        sys.exit(f"{finished.status}: {finished.reason}")
    text = (finished.out / "telemetry-0.jsonl").read_text(encoding="utf-8")
    lines = [json.loads(line) for line in text.splitlines()]
    return [
        float(line[name])
        for line in lines
        if line["kind"] == "step" and line["step"] >= FIRST_STEP and name in line
    ]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=40)
    options, _ = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder)
        nobody = Gpus(None, unavailable="switched off for the comparison")
        with Worker(cache=cache, root=cache, gpus=nobody) as worker:
            orders = [Order(run_of(2, options.steps)), Order(run_of(1, options.steps))]
            pair = worker.execute_in_turns(orders, timeout_s=1200)
            two, one = (column(finished, "tokens_per_sec") for finished in pair)
            share = column(pair[0], "comm_share_pct")
            for finished in pair:
                shutil.rmtree(finished.staging)
    report(
        "ddp_scaling",
        {
            "ratio": spread([a / b for a, b in zip(two, one, strict=True)]),
            "two_tokens_per_sec": spread(two),
            "one_tokens_per_sec": spread(one),
            "comm_share_pct": spread(share),
        },
        {"two_tokens_per_sec": two, "one_tokens_per_sec": one, "comm_share_pct": share},
    )


if __name__ == "__main__":
    main()
