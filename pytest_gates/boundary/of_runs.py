"""Limits of checks over several runs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

from pytest_gates.boundary.limits import FEWEST, Limit, less, more, never, planted, series_of
from pytest_gates.checks.base import Verdict
from pytest_gates.checks.equal_runs import EqualRuns
from pytest_gates.checks.ratio_of_runs import RatioOfRuns
from pytest_gates.evidence import Evidence, Series
from pytest_gates.model.config import Run
from pytest_gates.model.telemetry import METRICS

FACT = "the same on all sides"


def _of_equality(check: EqualRuns, runs: Mapping[str, Run]) -> Iterator[Limit]:
    """One value of one metric apart in the first execution, all else the same."""
    first, last = check.steps or (0, FEWEST - 1)
    count, tolerance = last - first + 1, float(check.tolerance)

    def told(need: str, number: int, metric: str, value: float) -> Evidence:
        series: dict[str, dict[str, tuple[float, ...]]] = {}
        for name in check.metrics:
            scope = METRICS[name].scope
            values = [0.0] * count
            values[0] = value if name == metric else 0.0
            columns = series.setdefault(scope, {})
            columns |= series_of(name, values, first, scope).columns  # type: ignore[arg-type]  # numbers alone
        return planted(
            runs[need],
            steps=Series(series.get("step", {})),
            epochs=Series(series.get("epoch", {})),
            slots=Series(series.get("slot", {})),
            facts=dict.fromkeys(check.facts, FACT),
            status="DIVERGENCE",
            id=f"{number:064x}",
        )

    def judged(metric: str, value: float) -> Verdict:
        sides: dict[str, list[Evidence]] = {}
        number = 0
        for need in check.needs():
            for _ in range(need.repeat):
                apart = value if number == 0 else 0.0
                sides.setdefault(need.run, []).append(told(need.run, number, metric, apart))
                number += 1
        return check.evaluate({name: tuple(many) for name, many in sides.items()}).verdict

    def same(value: float) -> bool:
        return abs(value) <= tolerance

    differ = check.expect == "differ"
    if differ and number_of(check) > 2:  # noqa: PLR2004 - every two must differ, and one is apart
        return
    for metric in check.metrics:
        for at in {tolerance, -tolerance}:
            yield Limit(
                f"{metric} {check.expect} up to {at:g}", at,
                (lambda value: not same(value)) if differ else same,
                partial(judged, metric),
                undecided=math.isnan if differ else never,
            )  # fmt: skip


def number_of(check: EqualRuns) -> int:
    """How many executions are compared."""
    return sum(need.repeat for need in check.needs())


def _of_ratio(check: RatioOfRuns, runs: Mapping[str, Run]) -> Iterator[Limit]:
    first, last = check.steps
    a, b = check.of
    below = check.below is not None
    limit = float(check.below if check.below is not None else check.above or 0)

    def told(name: str, value: float) -> tuple[Evidence, ...]:
        series = series_of(check.metric, [value] * (last - first + 1), first)
        return (planted(runs[name], steps=series, status="DIVERGENCE", group="turns"),)

    def judged(value: float) -> Verdict:
        return check.evaluate({a: told(a, value), b: told(b, 1.0)}).verdict

    yield Limit(
        f"{'below' if below else 'above'} {limit:g}", limit,
        partial(less if below else more, limit), judged,
        undecided=lambda value: not value > 0,
    )  # fmt: skip


OF_RUNS: dict[type, Callable[[Any, Mapping[str, Run]], Iterator[Limit]]] = {
    EqualRuns: _of_equality,
    RatioOfRuns: _of_ratio,
}
"""Limits of a check over runs, by the check's class."""
