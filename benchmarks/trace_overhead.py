"""What looking at every slot costs: a traced forward pass over an untraced one, in one process.

    python -m benchmarks.trace_overhead --device cuda --model llama-370m --tokens 512

Passes alternate, so that drift cancels; the ratio is that of the medians.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time

import torch

from pytest_gates.model.built import compute_dtype
from pytest_gates.model.config import PRESETS
from pytest_gates.model.forward import ForwardPath
from pytest_gates.model.slot_statistics import SlotStatistics
from pytest_gates.model.transformer import initialised


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--model", default="llama-10m", choices=PRESETS)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--repeat", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    device = torch.device(asked.device)
    model = initialised(PRESETS[asked.model], device, 0).eval()
    path = ForwardPath(model, device, compute_dtype("auto", device))
    tokens = [i % 256 for i in range(asked.tokens)]
    took: dict[str, list[float]] = {"untraced": [], "traced": []}
    for _ in range(asked.repeat + 3):
        for name, times in took.items():
            started = time.perf_counter()
            if name == "traced":
                look = SlotStatistics()
                path(tokens, look)
                look.rows()
            else:
                path(tokens)[-1, 0].item()
            times.append((time.perf_counter() - started) * 1000)
    medians = {name: statistics.median(times[3:]) for name, times in took.items()}
    ratio = medians["traced"] / medians["untraced"]
    print(json.dumps({**vars(asked), "median_ms": medians, "ratio": round(ratio, 3)}))


if __name__ == "__main__":
    main()
