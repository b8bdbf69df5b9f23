"""What an emitter costs a step: the same loop with and without it, in turns, in one process.

    python -m benchmarks.emit_cost [--pairs 5] [--steps 40]

A stack of matrices on the GPU, or a smaller one on the CPU; the mean step of each side, between
marks that wait for the device, and the ratio over neighbouring pairs.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import torch
from torch import nn

from benchmarks.measure import REPETITIONS, limited, report, spread, turns
from pytest_gates.emit import training


def mean_step_ms(steps: int, out: Path | None) -> float:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    width, layers = (4096, 16) if device.type == "cuda" else (512, 4)
    model = nn.Sequential(*(nn.Linear(width, width) for _ in range(layers))).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    batch = torch.randn(width, width, device=device)
    begun = 0.0
    with training(model, optimizer, out=out) as told:
        for step in range(steps + 5):
            if step == 5:
                _wait(device)
                begun = time.perf_counter()
            loss = model(batch).square().mean()
            optimizer.zero_grad()
            loss.backward()
            norm = nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            told.step(loss, lr=1e-4, tokens=len(batch), grad_norm=norm)
        _wait(device)
        taken = time.perf_counter() - begun
    return taken / steps * 1000


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--pairs", type=int, default=REPETITIONS)
    parser.add_argument("--steps", type=int, default=40)
    options = limited(parser)
    told: list[float] = []
    silent: list[float] = []
    mean_step_ms(5, None)
    for _ in turns(options.pairs, options.within):
        with tempfile.TemporaryDirectory() as folder:
            told.append(mean_step_ms(options.steps, Path(folder)))
        silent.append(mean_step_ms(options.steps, None))
        report(
            "emit_cost",
            {
                "with_ms": spread(told),
                "without_ms": spread(silent),
                "ratio": spread([a / b for a, b in zip(told, silent, strict=True)]),
            },
            {"with_ms": told, "without_ms": silent},
        )


if __name__ == "__main__":
    main()
