"""Pictures of every kind over evidence in memory, for tests of what they say and how they look."""

from __future__ import annotations

from typing import Any

from builders import evidence, pretrain_run, steps_series

from pytest_gates.contract.load import CHECK_KINDS
from pytest_gates.evidence import Evidence
from pytest_gates.report.comparisons import pictures_of_runs
from pytest_gates.report.draw import Picture
from pytest_gates.report.pictures import pictures

PARAMETERS = 373_509_120
HELD = {
    "parameters": {"cuda:0": 4 * PARAMETERS},
    "gradients": {"cuda:0": 4 * PARAMETERS},
    "optimizer": {"cuda:0": 8 * PARAMETERS},
}


def falling(by: float = 0.05, **other: Any) -> Evidence:
    losses = [10.8 - step * by for step in range(100)]
    return evidence(steps=steps_series(train_loss=losses), **other)


def ratios(limit: dict[str, float]) -> list[Picture]:
    """Of two runs that took turns, the first one a third as quick but for two steps before 20."""
    slow = [30.0 + step % 5 for step in range(100)]
    quick = [9.0 * value if step in {3, 4} else value / 3 for step, value in enumerate(slow)]
    sides = {"fast": quick, "eager": [value + step % 3 for step, value in enumerate(slow)]}
    said = {"kind": "ratio_of_runs", "of": ["fast", "eager"], "steps": [20, 99], **limit}
    executions = {
        name: (evidence(steps=steps_series(wall_ms=walls), group="turns"),)
        for name, walls in sides.items()
    }
    check = CHECK_KINDS["ratio_of_runs"].model_validate(said)
    return list(pictures_of_runs(check, {"summary": "as it was judged"}, executions))  # type: ignore[arg-type]  # one of them


def side_by_side(said: dict[str, Any], **executions: tuple[Evidence, ...]) -> list[Picture]:
    check = CHECK_KINDS["equal_runs"].model_validate({"kind": "equal_runs"} | said)
    return list(pictures_of_runs(check, {}, executions))  # type: ignore[arg-type]  # one of them


def memory(**facts: Any) -> list[Picture]:
    said = {"residency_after": HELD, "device_resolved": "cuda:0", "peak_mib": 12_393.0}
    steps = steps_series(memory_mib=[5500.0 + step % 3 for step in range(100)])
    check = CHECK_KINDS["memory"].model_validate({"kind": "memory", "peak": "within"})
    return list(pictures(check, {}, evidence(steps=steps, facts=said | facts)))


def anatomy(count: int = 10) -> list[Picture]:
    parts = {"gap_ms": 1.0, "data_ms": 0.5, "forward_ms": 30.0, "backward_ms": 60.0,
             "clip_ms": 2.0, "optimizer_ms": 5.0}  # fmt: skip
    columns = {name: [None] * (100 - count) + [ms] * count for name, ms in parts.items()}
    steps = steps_series(**columns, wall_ms=[100.0] * 100)
    check = CHECK_KINDS["anatomy"].model_validate({"kind": "anatomy"})
    return list(pictures(check, {}, evidence(pretrain_run(anatomy=count), steps=steps)))
