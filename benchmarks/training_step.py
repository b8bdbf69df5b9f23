"""The 370M training step against `transformers` with torch.compile, in turns on one GPU.

    python -m benchmarks.training_step [--repetitions 5] [--shapes 16x512,1x2048]

Each side is a process of its own. The first turn of each finds no cache at all: no compiled code,
no tokenizer, no corpus; the later ones find what that turn left. A time is the median of the steps
from 20 on, from one step's end to the next one's, by events on the device. Ours is the trainer
itself, telemetry included; `deterministic` is the same run with `deterministic: true`.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

from benchmarks.measure import REPETITIONS, ROOT, limited, output, report, scratch, spread, turns
from pytest_gates.model.config import Optimizer, PretrainRun, Request

FIRST_STEP = 20
STEPS = 100
PEER_STEPS = 60


def environment(caches: Path) -> dict[str, str]:
    """Caches of compiled code in a folder of their own."""
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path[1:]]),
        "TORCHINDUCTOR_CACHE_DIR": str(caches / "inductor"),
        "TRITON_CACHE_DIR": str(caches / "triton"),
        "CUDA_CACHE_PATH": str(caches / "cuda"),
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
    }


def peer(batch: int, length: int, caches: Path) -> dict[str, Any]:
    told = output(
        [
            sys.executable, "-m", "benchmarks.peers.transformers_step", "--batch-size", str(batch),
            "--seq-len", str(length), "--steps", str(PEER_STEPS),
        ],
        environment(caches),
    )  # fmt: skip
    said: dict[str, Any] = json.loads(told.splitlines()[-1])
    return {**said, "median_ms": statistics.median(said["wall_ms"][FIRST_STEP - 1 :])}


def ours(
    batch: int, length: int, caches: Path, *, place: Path, **settings: object
) -> dict[str, Any]:
    run = PretrainRun.model_validate(
        {
            "driver": "pretrain",
            "device": "cuda:0",
            "model": "llama-370m",
            "data": {"corpus": "python-stdlib", "tokenizer": "bpe-50257"},
            "seq_len": length,
            "batch_size": batch,
            "steps": STEPS,
            "optimizer": Optimizer(lr=6e-4, warmup_steps=20),
            "validation_batches": 0,
            **settings,
        }
    )
    request = Request(run=run, root=str(place), cache=str(caches / "corpus"))
    file = place / "run.json"
    file.write_text(request.model_dump_json(), encoding="utf-8")
    out = place / "out"
    output([sys.executable, "-m", "pytest_gates.model", str(file), str(out)], environment(caches))
    lines = [json.loads(line) for line in (out / "telemetry-0.jsonl").open(encoding="utf-8")]
    facts = {one["name"]: one["value"] for one in lines if one["kind"] == "fact"}
    (done,) = (one for one in lines if one.get("event") == "first_step_done")
    wall_ms = [one["wall_ms"] for one in lines if one["kind"] == "step"]
    return {
        "step0_s": done["at_ms"] / 1000,
        "wall_ms": wall_ms,
        "median_ms": statistics.median(wall_ms[FIRST_STEP:]),
        "peak_mib": facts["peak_mib"],
        "execution": facts["execution"],
        "attention_backend": facts["attention_backend"],
        "step_flops": facts["step_flops"],
    }


def measured(batch: int, length: int, options: argparse.Namespace) -> None:
    """One turn without caches and as many as asked for with, of each side; reported after each."""
    sides: dict[str, list[dict[str, Any]]] = defaultdict(list)
    with scratch() as folder:
        for turn in turns(options.repetitions + 1, options.within):
            for name, settings in (("ours", {}), ("deterministic", {"deterministic": True})):
                place = folder / f"{turn}-{name}"
                place.mkdir()
                sides[name].append(ours(batch, length, folder / name, place=place, **settings))
            if options.peer:
                sides["peer"].append(peer(batch, length, folder / "peer"))
            print({k: round(v[-1]["median_ms"], 2) for k, v in sides.items()}, flush=True)
            report(f"training_step_{batch}x{length}", figures(sides), sides)


def figures(sides: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Ratios of neighbours, so that drift of the machine cancels.

    Caches say nothing of the steps from 20 on: until there is a warm turn, the first one counts.
    """
    warm = {name: many[1:] or many for name, many in sides.items()}

    def all_of(name: str, key: str) -> list[float]:
        return [one[key] for one in warm[name]]

    def ratio(a: str, b: str, key: str) -> Any:
        return spread([x / y for x, y in zip(all_of(a, key), all_of(b, key), strict=True)])

    flops = sides["ours"][0]["step_flops"]
    found = {
        "warm_turns": len(sides["ours"]) - 1,
        "ours_ms": spread(all_of("ours", "median_ms")),
        "deterministic_ms": spread(all_of("deterministic", "median_ms")),
        "deterministic_ratio": ratio("deterministic", "ours", "median_ms"),
        "ours_peak_mib": spread(all_of("ours", "peak_mib")),
        "step0_nothing_cached_s": sides["ours"][0]["step0_s"],
        "execution": sides["ours"][0]["execution"],
        "deterministic_execution": sides["deterministic"][0]["execution"],
    }
    if len(sides["ours"]) > 1:
        found["step0_caches_warm_s"] = spread(all_of("ours", "step0_s"))
    if not sides.get("peer"):
        return found
    shares = [
        flops / one["median_ms"] / 1e9 / other["ceiling_tflops"] * 100
        for one, other in zip(warm["ours"], warm["peer"], strict=True)
    ]
    found |= {
        "peer_ms": spread(all_of("peer", "median_ms")),
        "ratio": ratio("ours", "peer", "median_ms"),
        "memory_ratio": ratio("ours", "peer", "peak_mib"),
        "peer_peak_mib": spread(all_of("peer", "peak_mib")),
        "share_of_ceiling_pct": spread(shares),
        "ceiling_tflops": spread(all_of("peer", "ceiling_tflops")),
        "peer_step0_nothing_cached_s": sides["peer"][0]["step0_s"],
    }
    if len(sides["peer"]) > 1:
        found["peer_step0_caches_warm_s"] = spread(all_of("peer", "step0_s"))
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--repetitions", type=int, default=REPETITIONS)
    parser.add_argument("--shapes", default="16x512,1x2048")
    options = limited(parser)
    options.peer = importlib.util.find_spec("transformers") is not None
    if not options.peer:
        print("transformers is not there: no peer, no ratio to it")
    shapes = options.shapes.split(",")
    if options.within is not None:
        options.within /= len(shapes)
    for shape in shapes:
        batch, length = map(int, shape.split("x"))
        measured(batch, length, options)


if __name__ == "__main__":
    main()
