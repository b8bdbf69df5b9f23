"""Limits of checks over a trace of slots."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from pytest_gates.boundary.limits import Limit, at_most, more, planted
from pytest_gates.checks.base import Verdict
from pytest_gates.checks.tolerances import GRADIENT, OWN_ERROR
from pytest_gates.checks.trace_parity import TraceParity
from pytest_gates.checks.trace_spike import TraceSpike
from pytest_gates.evidence import Series
from pytest_gates.model.config import Run

LAYERS = 8
SIDES = ("tokens", "positions", "shapes")
DTYPE = "float32"


def _of_spike(check: TraceSpike, run: Run) -> Iterator[Limit]:
    """One slot, the same in every layer but the last."""

    def judged(value: float) -> Verdict:
        columns: dict[str, tuple[Any, ...]] = {
            "layer": tuple(map(float, range(LAYERS))),
            "slot": ("ffn_out",) * LAYERS,
            check.statistic: (*[1.0] * (LAYERS - 1), value),
        }
        return check.evaluate(planted(run, slots=Series(columns))).verdict

    yield from _of_deviations(check, run)
    ratio = float(check.ratio)
    yield Limit(
        f"ratio {ratio:g}", ratio, lambda value: math.isfinite(value) and value < ratio, judged
    )


def _of_deviations(check: TraceSpike, run: Run) -> Iterator[Limit]:
    """Deviations cannot be planted to an ulp, so their limit is moved around what was measured.

    Layers that are all 100 have a spread of 1, so the last one lies 64 deviations off.
    """
    rest, last, measured = 100.0, 164.0, 64.0

    def judged(limit: float) -> Verdict:
        columns: dict[str, tuple[Any, ...]] = {
            "layer": tuple(map(float, range(LAYERS))),
            "slot": ("ffn_out",) * LAYERS,
            check.statistic: (*[rest] * (LAYERS - 1), math.nan if math.isnan(limit) else last),
        }
        moved = check.model_copy(update={"ratio": 0.0, "deviations": limit})
        return moved.evaluate(planted(run, slots=Series(columns))).verdict

    yield Limit("deviations", measured, partial(more, measured), judged)


def _of_parity(check: TraceParity, run: Run) -> Iterator[Limit]:
    """The first slot, or gradient, of the table for fp32."""
    backward = check.direction == "backward"
    table = (GRADIENT if backward else OWN_ERROR)[DTYPE]
    name, tolerance = next(iter(table.items()))
    metric = "rel_l2" if backward else "own_rel_l2"
    facts: dict[str, Any] = {f"{side}_sha256": side for side in SIDES}
    facts |= {f"reference_{side}_sha256": side for side in SIDES}
    facts |= {"tokens": 1, "reference_tokens": 1, "compute_dtype": DTYPE, "parameter_dtype": DTYPE}

    def judged(value: float) -> Verdict:
        columns: dict[str, tuple[Any, ...]] = {
            "layer": (0.0,),
            "slot": (f"grad {name}.weight" if backward else name,),
            metric: (value,),
        }
        if backward:
            columns["grad_cosine"] = (1.0,)
        return check.evaluate(planted(run, slots=Series(columns), facts=facts)).verdict

    limit = float(check.factor) * tolerance
    yield Limit(f"{metric} of {name}", limit, partial(at_most, limit), judged)


OF_TRACES: dict[type, Callable[[Any, Run], Iterator[Limit]]] = {
    TraceSpike: _of_spike,
    TraceParity: _of_parity,
}
"""Limits of a check over a trace, by the check's class."""
