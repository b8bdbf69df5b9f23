"""What looking at every slot costs: a traced forward pass over an untraced one, in one process.

    python -m benchmarks.trace_overhead [--device cuda] [--models llama-370m] [--tokens 512]

Passes alternate, so that drift cancels. Milliseconds are wall time on a GPU and the thread's own
CPU time on a CPU, which other processes disturb least; a ratio is one of neighbours.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from benchmarks.measure import report, spread
from pytest_gates.model.architecture import PRESETS
from pytest_gates.model.built import compute_dtype
from pytest_gates.model.forward import ForwardPath
from pytest_gates.model.slot_statistics import SlotStatistics
from pytest_gates.model.transformer import initialised

WARM_UPS = 3


def in_pairs(path: ForwardPath, tokens: Sequence[int], repeat: int) -> dict[str, list[float]]:
    """Milliseconds of each pass, untraced and traced in turns."""
    clock = time.thread_time if path.device.type == "cpu" else time.perf_counter

    def untraced() -> None:
        path(tokens)[-1, 0].item()

    def traced() -> None:
        look = SlotStatistics()
        path(tokens, look)
        look.rows()

    sides: dict[str, Callable[[], None]] = {"untraced": untraced, "traced": traced}
    took: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(repeat + WARM_UPS):
        for name, side in sides.items():
            started = clock()
            side()
            took[name].append((clock() - started) * 1000)
    return {name: times[WARM_UPS:] for name, times in took.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--models", help="presets, comma-separated")
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--repeat", type=int, default=40)
    parser.add_argument("--threads", type=int, default=1)
    asked, _ = parser.parse_known_args()
    if asked.device == "cuda" and not torch.cuda.is_available():
        sys.exit("no CUDA device on this machine")
    torch.set_num_threads(asked.threads)
    device = torch.device(asked.device)
    names = asked.models or ("llama-370m" if asked.device == "cuda" else "llama-1m,llama-10m")
    figures: dict[str, Any] = {"tokens": asked.tokens}
    raw = {}
    for name in names.split(","):
        model = initialised(PRESETS[name], device, 0).eval()
        path = ForwardPath(model, device, compute_dtype("auto", device))
        took = in_pairs(path, [i % 256 for i in range(asked.tokens)], asked.repeat)
        size = name.removeprefix("llama-")
        for side, times in took.items():
            figures[f"{side}_{size}_ms"] = spread(times)
            raw[f"{side}_{size}_ms"] = times
        pairs = zip(took["traced"], took["untraced"], strict=True)
        figures[f"ratio_{size}"] = spread([a / b for a, b in pairs])
    report("trace_overhead" + ("_cuda" if asked.device == "cuda" else ""), figures, raw)


if __name__ == "__main__":
    main()
