"""A 28-layer, 7B-shaped model in bf16, built from a seed and traced: time and memory from outside.

    python -m benchmarks.trace_7b [--tokens 512] [--repeat 3]

A run's process as a contract would start it, CUDA's own start included: wall time from the
process's start to its end, and the most that tensors held on the device.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.measure import limited, report, spread, turns
from pytest_gates.model.architecture import Architecture
from pytest_gates.model.config import ForwardRun
from pytest_gates.run.gpus import find_gpus
from pytest_gates.run.worker import Worker

SHAPE = Architecture(
    hidden=3584, layers=28, heads=28, kv_heads=4, intermediate=18944, vocab=152064,
    rope_theta=1e6, attention_bias=True,
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=512, help="bytes of the prompt")
    parser.add_argument("--repeat", type=int, default=3)
    asked = limited(parser)
    if not find_gpus().all:
        sys.exit("no NVIDIA GPU on this machine")
    prompt = ("def main():\n    return 0\n" * asked.tokens)[: asked.tokens]
    run = ForwardRun(
        driver="forward", device="cuda:0", model=SHAPE, dtype="bf16", parameter_dtype="bf16",
        prompt=prompt,
    )  # fmt: skip
    walls: list[float] = []
    peaks: list[float] = []
    slots = 0
    lines: list[dict[str, Any]] = []
    with (
        tempfile.TemporaryDirectory() as folder,
        Worker(cache=Path(folder), root=Path(folder)) as worker,
    ):
        for _ in turns(asked.repeat, asked.within):
            lines.clear()
            finished = worker.execute(run, timeout_s=120, on_line=lambda one: lines.append({**one}))
            shutil.rmtree(finished.staging)
            if finished.status != "COMPLETED":
                sys.exit(f"{finished.status}: {finished.reason}")
            facts = {one["name"]: one["value"] for one in lines if one["kind"] == "fact"}
            slots = sum(one["kind"] == "slot" for one in lines)
            peaks.append(facts["peak_mib"])
            walls.append(finished.wall_ms / 1000)
            report(
                "trace_7b",
                {"wall_s": spread(walls), "peak_mib": spread(peaks), "slots": slots,
                 "parameters": SHAPE.parameters, "tokens": asked.tokens},
                {"wall_s": walls, "peak_mib": peaks},
            )  # fmt: skip


if __name__ == "__main__":
    main()
