"""Limits of what checkpoints may cost, on the checkpoint of one epoch."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

from pytest_gates.boundary.limits import Limit, less, limit_alone, planted, series_of
from pytest_gates.checks.artifacts import MOMENTS, Artifacts
from pytest_gates.checks.base import Verdict
from pytest_gates.evidence import Artifact, Event
from pytest_gates.model.config import PretrainRun, Run

STEM = "epoch-000"
NAMES = (f"{STEM}.safetensors", f"{STEM}.optimizer.safetensors")
HALF_MIB = 2**19
"""Two files of this size are a checkpoint of 1 MiB, so that limits in checkpoints are MiB."""
TRAINED_MS = 1.0
"""So that shares of the training are ms."""


def of_artifacts(check: Artifacts, run: Run) -> Iterator[Limit]:
    """Time that the training stood still, and memory of the host, each alone."""
    assert isinstance(run, PretrainRun), "refused when the contract was loaded"
    files = _checkpoint(check, run)
    bare: dict[str, Any] = {"source_unchanged": False, "blocked_share_below": None,
                            "host_memory_below": None}  # fmt: skip
    events = tuple(
        Event(name, None, {"at_ms": at})
        for name, at in (("training_started", 0.0), ("run_finished", TRAINED_MS))
    )

    def judged(fact: str, one: Artifacts, value: float) -> Verdict:
        epochs = series_of("epoch", [0.0], scope="epoch")
        told = planted(run, epochs=epochs, events=events, facts={fact: value}, artifacts=files)
        return one.evaluate(told).verdict

    for key, fact in (("blocked_share_below", "checkpoint_blocked_ms"),
                      ("host_memory_below", "host_peak_mib")):  # fmt: skip
        yield from limit_alone(check, key, less, partial(judged, fact), bare)


def _checkpoint(check: Artifacts, run: PretrainRun) -> tuple[Artifact, ...]:
    """Weights of one tensor, its moments, and metadata that names both."""
    word = f"F32[{run.architecture.parameters}]"
    moments = {f"w.{moment}": word if moment != "step" else "F32[]" for moment in MOMENTS}
    said = dict.fromkeys(check.fields, 1.0) | {"files": {name: {"sha256": name} for name in NAMES}}
    return (
        *(
            Artifact(f"checkpoints/{name}", HALF_MIB, name, tensors)
            for name, tensors in zip(NAMES, ({"w": word}, moments), strict=True)
        ),
        Artifact(f"checkpoints/{STEM}.metadata.json", 1, "metadata", metadata=said),
    )
