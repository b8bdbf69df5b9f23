"""Our own step in a plain loop that tells, reads and watches nothing; prints one JSON object.

    python -m benchmarks.peers.bare_step run.json

The same model, data and schedule as the request's run; what the trainer adds to the step (a line of
telemetry with loss, memory and utilisation) is left out. Times are between marks at the ends of two
steps, as in telemetry.
"""

from __future__ import annotations

import argparse
import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from benchmarks.measure import scratch
from pytest_gates.model.clock import Clock, clock_for
from pytest_gates.model.config import PretrainRun, Request
from pytest_gates.model.data import Batches, Windows, open_corpus
from pytest_gates.model.parallel.group import ALONE
from pytest_gates.model.resolve import prepare_environment, resolve
from pytest_gates.model.schedule import learning_rate
from pytest_gates.model.seams import Seams
from pytest_gates.model.step import OptimizerStep
from pytest_gates.model.step_choice import step_for
from pytest_gates.model.transformer import initialised
from pytest_gates.model.writer import TelemetryWriter


def built(run: PretrainRun, device: torch.device) -> OptimizerStep:
    """The step that the trainer would take."""
    model = initialised(run.architecture, device, run.seed)
    with scratch() as folder, TelemetryWriter(folder) as unread:
        return step_for(run, model, device, unread, seams=Seams(), group=ALONE)


def loop(run: PretrainRun, batches: Batches, step: OptimizerStep, clock: Clock[Any]) -> list[Any]:
    """Launch every step; the marks of their ends."""
    pinned = step.tokens.is_cuda
    dealt = [torch.zeros_like(step.tokens, device="cpu", pin_memory=pinned) for _ in range(2)]
    marks: list[Any] = []
    for number in range(run.steps):
        if number > 1:
            clock.wait(marks[number - 2])  # its tokens are overwritten now
        dealt[number % 2].copy_(torch.from_numpy(batches.batch(number)))
        step.tokens.copy_(dealt[number % 2], non_blocking=True)
        step.lr.fill_(learning_rate(number, run.steps, run.optimizer))
        step()
        marks.append(clock.mark())
    clock.wait(marks[-1])
    return marks


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("request", type=Path)
    request = Request.model_validate_json(parser.parse_args().request.read_bytes())
    run = request.run
    assert isinstance(run, PretrainRun)
    prepare_environment(run.host, deterministic=False, visible=request.visible)
    torch.set_num_threads(run.threads)
    device = resolve(run.device, run.host)
    corpus = open_corpus(run, Path(request.root), Path(request.cache))
    batches = Batches(
        Windows(corpus.train, run.seq_len),
        batch_size=run.batch_size,
        vocab=run.architecture.vocab,
        seed=run.seed,
        end_step=None,
    )
    clock: Clock[Any] = clock_for(device)
    marks = loop(run, batches, built(run, device), clock)
    print(json.dumps({"wall_ms": [clock.wall_ms(a, b) for a, b in pairwise(marks)]}))


if __name__ == "__main__":
    main()
