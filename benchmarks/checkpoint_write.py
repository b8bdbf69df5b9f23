"""A checkpoint of 4.5 GB on its way to disk: each stage by itself, and all of them at once.

On a GPU the state of the 370M; without one an eighth of it. Goal: as long as the slowest stage,
which is mostly the disk.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from benchmarks.measure import report, scratch, spread
from pytest_gates.model.blocks import BLOCK, Buffers
from pytest_gates.model.tensor_file import write_tensors

TURNS = 3
PARAMETERS = 373_509_120
LAYERS = 22


def main() -> None:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    count = PARAMETERS // LAYERS // (1 if device.type == "cuda" else 8)
    files = {
        "weights": {f"{i}": torch.randn(count, device=device) for i in range(LAYERS)},
        "moments": {f"{i}": torch.randn(count, device=device) for i in range(2 * LAYERS)},
    }
    size = sum(t.nbytes for tensors in files.values() for t in tensors.values()) / 2**30
    buffers = [Buffers(device) if device.type == "cuda" else None for _ in files]
    host = torch.randint(256, (BLOCK,), dtype=torch.uint8).numpy().data
    blocks = int(size * 2**30 / BLOCK)

    def copy() -> None:
        target = torch.empty(BLOCK // 4, pin_memory=device.type == "cuda")
        for tensors in files.values():
            for tensor in tensors.values():
                for part in tensor.split(BLOCK // 4):
                    target[: len(part)].copy_(part, non_blocking=True)
        if device.type == "cuda":
            torch.cuda.synchronize()

    def hashing() -> None:
        """The larger file, two thirds of all, is the longer."""
        digest = hashlib.sha256()
        for _ in range(2 * blocks // 3):
            digest.update(host)

    def write(folder: Path) -> None:
        with (folder / "plain").open("wb") as file:
            for _ in range(blocks):
                file.write(host)
            file.flush()
            os.fsync(file.fileno())
        (folder / "plain").unlink()

    def whole(folder: Path) -> None:
        with ThreadPoolExecutor(len(files)) as beside:
            jobs = [
                beside.submit(write_tensors, folder / name, tensors, stage)
                for (name, tensors), stage in zip(files.items(), buffers, strict=True)
            ]
        for job in jobs:
            job.result()
        for name in files:
            (folder / name).unlink()

    with scratch() as folder:
        stages: dict[str, Callable[[], None]] = {
            "copy": copy, "hash": hashing,
            "write": lambda: write(folder), "whole": lambda: whole(folder),
        }  # fmt: skip
        raw: dict[str, list[float]] = {name: [] for name in stages}
        for _ in range(TURNS):
            for name, stage in stages.items():
                begun = time.perf_counter()
                stage()
                raw[name].append(time.perf_counter() - begun)
            over = [w / max(parts) for w, *parts in zip(*reversed(raw.values()), strict=True)]
            figures = {f"{name} s": spread(times) for name, times in raw.items()}
            more = {"GiB": round(size, 2), "whole over slowest stage": spread(over)}
            report("checkpoint_write", figures | more, raw)  # kept also of turns that are cut off


if __name__ == "__main__":
    main()
