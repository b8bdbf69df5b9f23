"""Limits of what a training says of its learning: the fall of a loss, the rates it followed."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache, partial
from typing import Any

from pytest_gates.boundary.limits import (
    FEWEST,
    GPU,
    Limit,
    at_least,
    at_most,
    more,
    planted,
    series_of,
)
from pytest_gates.checks.base import Verdict
from pytest_gates.checks.ceilings import device_flops
from pytest_gates.checks.declared import shape_of
from pytest_gates.checks.descent import Descent
from pytest_gates.checks.schedule import Schedule
from pytest_gates.evidence import Evidence, Gpu, HostInfo, Series, run_hash
from pytest_gates.model.config import PretrainRun, Run
from pytest_gates.model.schedule import learning_rate

CPU_FLOPS = 1e12
KEPT = 1024
"""Limits remembered of one kind."""
SLOW_MS = 1e12
"""No step has so many operations that it could not do them in this time."""


def _of_descent(check: Descent, run: Run) -> tuple[Limit, ...]:
    """A slope and a fall cannot be planted to an ulp: limits move around what was measured.

    Many gates have the same check over the same run, so its limits are made and tried once.
    """
    key = check, run_hash(run)  # by its hash, for a run's own is taken over all that it holds
    if key not in _descents:
        if len(_descents) >= KEPT:
            _descents.clear()
        _descents[key] = tuple(_descent_limits(check, run))
    return _descents[key]


_descents: dict[tuple[Descent, str], tuple[Limit, ...]] = {}


def _descent_limits(check: Descent, run: Run) -> Iterator[Limit]:
    bare = check.model_copy(update={"drop": None, "start_tolerance": None})
    yield _slope(bare, run)
    if check.drop is not None:
        yield _drop(bare.model_copy(update={"slope_below": math.inf}), run)
    vocab = shape_of(run).vocab
    if check.start_tolerance is not None and check.metric == "train_loss" and vocab is not None:
        yield _start(bare.model_copy(update={"slope_below": math.inf}), run)
    if shape_of(run).step_flops is not None:
        yield _floor(bare, run)


@lru_cache(maxsize=KEPT)
def _slope(bare: Descent, run: Run) -> Limit:
    measured = bare.evaluate(_falling(bare, run)).value
    assert measured is not None

    def judged(limit: float) -> Verdict:
        if math.isnan(limit):
            return bare.evaluate(_falling(bare, run, by=math.nan)).verdict
        moved = bare.model_copy(update={"slope_below": limit})
        return moved.evaluate(_falling(bare, run)).verdict

    return Limit("slope_below", measured, partial(more, measured), judged)


@lru_cache(maxsize=KEPT)
def _drop(bare: Descent, run: Run) -> Limit:
    beyond = bare.model_copy(update={"drop": math.inf})
    # A check that asks for more than any fall says how large this one is.
    fall = beyond.evaluate(_falling(bare, run)).value
    assert fall is not None

    def judged(limit: float) -> Verdict:
        if math.isnan(limit):
            return bare.evaluate(_falling(bare, run, by=math.nan)).verdict
        return bare.model_copy(update={"drop": limit}).evaluate(_falling(bare, run)).verdict

    return Limit("drop", fall, partial(at_most, fall), judged)


@lru_cache(maxsize=KEPT)
def _start(bare: Descent, run: Run) -> Limit:
    expected = math.log(shape_of(run).vocab or 0)
    start = expected * 1.01
    off = abs(start - expected) / expected

    def judged(limit: float) -> Verdict:
        moved = bare.model_copy(update={"start_tolerance": limit})
        return moved.evaluate(_falling(bare, run, start=start)).verdict

    return Limit("start_tolerance", off, partial(at_least, off), judged)


@lru_cache(maxsize=KEPT)
def _floor(bare: Descent, run: Run) -> Limit:
    steady = _falling(bare, run)
    ceiling, flops = device_flops(steady, {}), shape_of(run).step_flops
    assert flops is not None
    assert not isinstance(ceiling, str)
    floor_ms = flops / ceiling * 1000

    def judged(value: float) -> Verdict:
        return bare.evaluate(_falling(bare, run, wall_ms=value)).verdict

    return Limit("ms of a step", floor_ms, partial(at_least, floor_ms), judged)


def _falling(
    check: Descent, run: Run, *, by: float = 1.0, start: float = 0.0, wall_ms: float = SLOW_MS
) -> Evidence:
    """A loss that falls by the same amount each step of the check's window, from step 0 on."""
    last = check.steps[1] if check.steps else (shape_of(run).steps or FEWEST) - 1
    losses = [start - by * index for index in range(last + 1)]
    columns = {**series_of(check.metric, losses).columns, "wall_ms": (wall_ms,) * len(losses)}
    host = HostInfo(gpu=Gpu(GPU, None, None), cpu_flops=CPU_FLOPS)
    return planted(run, steps=Series(columns), host=host, status="DIVERGENCE")


def _of_schedule(check: Schedule, run: Run) -> Iterator[Limit]:
    """A rate cannot be planted to an ulp of a difference, so the tolerance is moved around it."""
    assert isinstance(run, PretrainRun), "refused when the contract was loaded"
    first, last = check.steps or (0, run.steps - 1)
    bare = check.model_copy(update={"warmup_at_most": None, "last_at_most": None})
    rates = [learning_rate(step, run.steps, run.optimizer) for step in range(first, last + 1)]

    def told(rates: Sequence[float]) -> Evidence:
        return planted(run, steps=series_of("lr", rates, first), status="DIVERGENCE")

    off = [rates[0] * 1.001, *rates[1:]]
    measured = bare.model_copy(update={"tolerance": 1.0}).evaluate(told(off)).value
    assert measured is not None

    def judged(tolerance: float) -> Verdict:
        if math.isnan(tolerance):
            return bare.evaluate(told([math.nan, *rates[1:]])).verdict
        return bare.model_copy(update={"tolerance": tolerance}).evaluate(told(off)).verdict

    yield Limit("tolerance", measured, partial(at_least, measured), judged)
    # What the declared schedule comes to is a number of the run; the limits move around it.
    shape = {
        "warmup_at_most": run.optimizer.warmup_steps / run.steps,
        "last_at_most": (
            learning_rate(run.steps - 1, run.steps, run.optimizer) / float(run.optimizer.lr)
        ),
    }
    for key, share in shape.items():
        if getattr(check, key) is not None:
            yield Limit(
                key, share, partial(at_least, share),
                lambda value, key=key: bare.model_copy(  # type: ignore[misc]  # bound at once
                    update={key: value}
                ).evaluate(told(rates)).verdict,
            )  # fmt: skip


OF_TRAINING: Mapping[type, Callable[[Any, Run], Iterable[Limit]]] = {
    Descent: _of_descent,
    Schedule: _of_schedule,
}
"""Limits of a check over a training, by the check's class."""
