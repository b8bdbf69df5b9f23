"""What being watched costs a step: one GPU run with witness and telemetry, with telemetry alone,
and as a plain loop that has neither (`peers/bare_step.py`), in turns.

    python -m benchmarks.witness_cost [--repetitions 5] [--steps 200]

Medians of the steps from 50 on, in ms; ratios are of neighbours.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
from collections import defaultdict
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from benchmarks.measure import (
    REPETITIONS,
    ROOT,
    in_order,
    limited,
    output,
    report,
    scratch,
    spread,
    turns,
)
from pytest_gates.model.config import Data, Optimizer, PretrainRun, Request
from pytest_gates.run.gpus import Gpus, find_gpus
from pytest_gates.run.worker import Worker

FIRST_STEP = 50

Side = Callable[[PretrainRun], list[float]]
"""Carries out a run; the milliseconds of each counted step."""


def told_by(worker: Worker) -> Side:
    """The steps as telemetry has them."""

    def step_ms(run: PretrainRun) -> list[float]:
        steps: list[float] = []

        def keep(line: object) -> None:
            if isinstance(line, dict) and line.get("kind") == "step" and line["step"] >= FIRST_STEP:
                steps.append(float(line["wall_ms"]))

        finished = worker.execute(run, timeout_s=600, on_line=keep)
        shutil.rmtree(finished.staging)
        if finished.status != "COMPLETED":
            sys.exit(f"{finished.status}: {finished.reason}")
        return steps

    return step_ms


def bare(folder: Path) -> Side:
    """The steps of a loop that tells nothing; it finds the corpus that the others cached."""

    def step_ms(run: PretrainRun) -> list[float]:
        file = folder / "bare.json"
        request = Request(run=run, root=str(folder), cache=str(folder))
        file.write_text(request.model_dump_json(), encoding="utf-8")
        path = os.pathsep.join([str(ROOT), *sys.path[1:]])
        told = output(
            [sys.executable, "-m", "benchmarks.peers.bare_step", str(file)],
            {**os.environ, "PYTHONPATH": path},
        )
        # Between the ends of two steps: the first number is that of step 1.
        every: list[float] = json.loads(told.splitlines()[-1])["wall_ms"]
        return every[FIRST_STEP - 1 :]

    return step_ms


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--repetitions", type=int, default=REPETITIONS)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--model", default="llama-370m")
    options = limited(parser)
    gpus = find_gpus()
    if not gpus.all and options.device.startswith("cuda"):
        sys.exit("no NVIDIA GPU on this machine")
    run = PretrainRun(
        driver="pretrain",
        device=options.device,
        model=options.model,
        data=Data(corpus="python-stdlib"),
        seq_len=512,
        batch_size=16,
        steps=options.steps,
        optimizer=Optimizer(),
        validation_batches=0,
    )
    blind = Gpus(None, unavailable="switched off for the comparison")
    with scratch() as cache, ExitStack() as workers:
        seen, unseen = (
            workers.enter_context(Worker(cache=cache, root=cache, gpus=watch))
            for watch in (gpus, blind)
        )
        sides = {
            "watched_ms": told_by(seen),
            "without_witness_ms": told_by(unseen),
            "without_both_ms": bare(cache),
        }
        _measure(sides, run, options)


def _measure(sides: dict[str, Side], run: PretrainRun, options: argparse.Namespace) -> None:
    measured: dict[str, list[list[float]]] = defaultdict(list)
    for turn in turns(options.repetitions, options.within):
        for name in in_order(sides, turn):
            measured[name].append(sides[name](run))
        medians = {name: list(map(statistics.median, many)) for name, many in measured.items()}
        watched = medians["watched_ms"]
        figures = {name: spread(many) for name, many in medians.items()} | {
            ratio: spread([a / b for a, b in zip(watched, medians[under], strict=True)])
            for ratio, under in (
                ("ratio", "without_both_ms"),
                ("witness_ratio", "without_witness_ms"),
            )
        }
        report("witness_cost", figures, measured)


if __name__ == "__main__":
    main()
