"""Real evidence on disk for tests: a sealed run with telemetry and a witness."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pytest_gates.evidence import Gpu, HostInfo, Sample, Witness
from pytest_gates.evidence_store import seal
from pytest_gates.model.config import Data, PretrainRun
from pytest_gates.model.telemetry import encode_line
from pytest_gates.readers.witness_csv import write_witness

H200 = HostInfo(gpu=Gpu("NVIDIA H200", "GPU-1", 143_771), driver="570.1", torch="2.11.0")
DATA = Data(corpus="python-stdlib")


def small_run(**changes: Any) -> PretrainRun:
    """A declared run of the ~1M preset."""
    settings: dict[str, Any] = {
        "driver": "pretrain", "device": "cpu", "model": "llama-1m", "data": DATA,
        "seq_len": 64, "batch_size": 2, "steps": 20,
    }  # fmt: skip
    return PretrainRun(**(settings | changes))


def step_lines(count: int = 20, **columns: Any) -> list[dict[str, Any]]:
    """Step lines with a falling loss; a column may be a constant or a function of the step."""
    given: dict[str, Any] = {"train_loss": lambda step: 5.0 - step / 7, "wall_ms": 12.5} | columns
    return [
        {"kind": "step", "step": step}
        | {name: value(step) if callable(value) else value for name, value in given.items()}
        for step in range(count)
    ]


def seal_run(
    parent: Path,
    *,
    run: PretrainRun | None = None,
    lines: Iterable[Mapping[str, Any]] | None = None,
    samples: tuple[Sample, ...] = (),
    scratch: Path | None = None,
    **changes: Any,
) -> Path:
    """Seal one execution beneath `parent`; `changes` go to `seal`."""
    run = small_run() if run is None else run
    scratch = parent.parent / "scratch" if scratch is None else scratch
    scratch.mkdir(parents=True, exist_ok=True)
    telemetry, witness = scratch / "telemetry-0.jsonl", scratch / "witness.csv"
    telemetry.write_text(
        "".join(encode_line(dict(line)) for line in (step_lines() if lines is None else lines)),
        encoding="utf-8",
    )
    write_witness(witness, Witness(samples=samples))
    settings: dict[str, Any] = {
        "host": H200, "status": "COMPLETED", "reason": None, "wall_ms": 1500.0, "pid": 4711,
        "run_folder": True, "started": "2026-01-02T03:04:05Z",
        "files": {"telemetry-0.jsonl": telemetry, "witness.csv": witness},
    }  # fmt: skip
    return seal(parent, run=run, **(settings | changes))
