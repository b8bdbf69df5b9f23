"""Limits of checks over several executions: of runs, or of the ranks of one run."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

from pytest_gates.boundary.limits import FEWEST, Limit, less, more, never, planted, series_of
from pytest_gates.checks.base import Verdict
from pytest_gates.checks.equal_ranks import EqualRanks
from pytest_gates.checks.equal_runs import EqualRuns
from pytest_gates.checks.ratio_of_runs import RatioOfRuns
from pytest_gates.evidence import Event, Evidence, Series, Telemetry
from pytest_gates.model.config import LaunchedRun, Run
from pytest_gates.model.telemetry import METRICS

FACT = "the same on all sides"


def _said(check: EqualRuns | EqualRanks, metric: str, value: float) -> Telemetry:
    """0 in every place, and another first value of one metric."""
    first, last = check.steps or (0, FEWEST - 1)
    series: dict[str, dict[str, tuple[float | str | None, ...]]] = {}
    for name in check.metrics:
        scope = METRICS[name].scope
        values = [0.0] * (last - first + 1)
        values[0] = value if name == metric else 0.0
        columns = series.setdefault(scope, {})
        columns |= series_of(name, values, first, scope).columns
    return Telemetry(
        steps=Series(series.get("step", {})),
        epochs=Series(series.get("epoch", {})),
        slots=Series(series.get("slot", {})),
        facts=dict.fromkeys(check.facts, FACT),
        # A rank tells its own end; under this one a finished window counts.
        events=(Event("rank_ended", None, {"status": "DIVERGENCE"}),),
    )


def _both_sides(
    check: EqualRuns | EqualRanks, count: int, judged: Callable[[str, float], Verdict]
) -> Iterator[Limit]:
    """The tolerance to both sides of 0, for each metric; `judged` sets one execution apart."""
    tolerance, differ = float(check.tolerance), check.expect == "differ"

    def same(value: float) -> bool:
        return abs(value) <= tolerance

    if differ and count > 2:  # noqa: PLR2004 - every two must differ, and one alone is apart
        return
    for metric in check.metrics:
        for at in {tolerance, -tolerance}:
            yield Limit(
                f"{metric} {check.expect} up to {at:g}", at,
                (lambda value: not same(value)) if differ else same,
                partial(judged, metric),
                undecided=math.isnan if differ else never,
            )  # fmt: skip


def _of_equality(check: EqualRuns, runs: Mapping[str, Run]) -> Iterator[Limit]:
    """One value of one metric apart in the first execution, all else the same."""
    executions = [need.run for need in check.needs() for _ in range(need.repeat)]

    def judged(metric: str, value: float) -> Verdict:
        sides: dict[str, list[Evidence]] = {}
        for number, name in enumerate(executions):
            said = _said(check, metric, value if number == 0 else 0.0)
            one = planted(runs[name], status="DIVERGENCE", id=f"{number:064x}", telemetry=(said,))
            sides.setdefault(name, []).append(one)
        return check.evaluate({name: tuple(many) for name, many in sides.items()}).verdict

    yield from _both_sides(check, len(executions), judged)


def _of_ranks(check: EqualRanks, run: Run) -> Iterator[Limit]:
    """One value of one metric apart in the first of the ranks that are compared."""
    assert isinstance(run, LaunchedRun), "refused when the contract was loaded"
    assert check.ranks is not None
    compared = range(run.ranks) if check.ranks == "all" else check.ranks

    def judged(metric: str, value: float) -> Verdict:
        telemetry = tuple(
            _said(check, metric, value if rank == compared[0] else 0.0) for rank in range(run.ranks)
        )
        return check.evaluate(planted(run, status="DIVERGENCE", telemetry=telemetry)).verdict

    yield from _both_sides(check, len(compared), judged)


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

OF_RANKS: dict[type, Callable[[Any, Run], Iterator[Limit]]] = {EqualRanks: _of_ranks}
"""Limits of a check over the ranks of a run, by the check's class."""
