"""Evidence built in memory, for tests of everything that judges it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pytest_gates.evidence import (
    Allocation,
    Event,
    Evidence,
    Gpu,
    HostInfo,
    PropertyResult,
    Sample,
    Series,
    Telemetry,
    Witness,
    run_hash,
)
from pytest_gates.model.config import Data, PretrainRun, Run

H200 = HostInfo(gpu=Gpu("NVIDIA H200", "GPU-1", 143_771), cpu_flops=4e12)


def pretrain_run(**settings: Any) -> PretrainRun:
    """A 100-step run of the 370M on cuda:0, unless told otherwise."""
    said: dict[str, Any] = {
        "driver": "pretrain",
        "device": "cuda:0",
        "model": "llama-370m",
        "data": Data(corpus="python-stdlib", tokenizer="bpe-50257"),
        "seq_len": 512,
        "batch_size": 16,
        "steps": 100,
    }
    return PretrainRun.model_validate(said | settings)


def steps_series(first: int = 0, **columns: Sequence[float | None]) -> Series:
    """Step lines from step `first`; each column has the values of one metric."""
    count = max(len(column) for column in columns.values())
    numbered = {"step": tuple(float(step) for step in range(first, first + count))}
    return Series(numbered | {name: tuple(values) for name, values in columns.items()})


def evidence(
    run: Run | None = None,
    *,
    id: str = "0" * 64,  # noqa: A002 - the field's name
    status: str = "COMPLETED",
    steps: Series | None = None,
    epochs: Series | None = None,
    slots: Series | None = None,
    events: Sequence[Event] = (),
    facts: Mapping[str, Any] | None = None,
    properties: Sequence[PropertyResult] = (),
    samples: Sequence[Sample] = (),
    allocations: Sequence[Allocation] = (),
    host: HostInfo = H200,
    **other: Any,
) -> Evidence:
    """One execution of `run`."""
    run = run if run is not None else pretrain_run()
    said = Telemetry(
        steps=steps or Series({}),
        epochs=epochs or Series({}),
        slots=slots or Series({}),
        events=tuple(events),
        facts=facts or {},
        properties={one.name: one for one in properties},
    )
    settings: dict[str, Any] = {
        "fault": None,
        "repetition": 0,
        "wall_ms": 9000.0,
        "pid": 4711,
        "run_folder": True,
        "started": "2026-01-01T00:00:00Z",
        "declared": run.driver == "recorded",
        "telemetry": (said,),
        "witness": Witness(tuple(samples), tuple(allocations)),
    }
    return Evidence(
        id=id,
        run=run,
        run_hash=run_hash(run),
        host=host,
        status=status,
        **(settings | other),
    )


def event(name: str, step: int | None = None, **detail: Any) -> Event:
    """An event with its detail."""
    return Event(name, step, detail)
