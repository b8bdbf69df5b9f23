"""Limits of checks over one run."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from pytest_gates.boundary.limits import (
    FEWEST,
    GPU,
    Limit,
    at_least,
    at_most,
    less,
    limit_alone,
    more,
    planted,
    series_of,
)
from pytest_gates.checks.anatomy import PARTS, Anatomy
from pytest_gates.checks.base import Verdict
from pytest_gates.checks.bounds import Bounded
from pytest_gates.checks.budget import Budget
from pytest_gates.checks.ceilings import device_flops
from pytest_gates.checks.fact import Fact
from pytest_gates.checks.layer_statistics import LayerStatistics
from pytest_gates.checks.memory import Memory
from pytest_gates.checks.monotone import Monotone
from pytest_gates.checks.status import EventCheck, ExitStatus
from pytest_gates.evidence import Event, Evidence, Gpu, HostInfo, Series
from pytest_gates.model.config import PretrainRun, Run
from pytest_gates.model.memory import memory_estimate
from pytest_gates.model.telemetry import METRICS

MS = 1000.0
MIB = 2**20


def _of_exit(check: ExitStatus, run: Run) -> Iterator[Limit]:
    within = check.within_s
    if within is None:
        return
    expect = check.expect if isinstance(check.expect, str) else check.expect[0]

    def judged(seconds: float) -> Verdict:
        folder = check.run_folder is not False
        told = planted(run, wall_ms=seconds * MS, status=expect, run_folder=folder)
        return check.evaluate(told).verdict

    yield Limit(f"within {within} s", float(within), partial(at_most, float(within)), judged)


def _of_budget(check: Budget, run: Run) -> Iterator[Limit]:
    by_gpu = check.limits if isinstance(check.limits, dict) else {None: check.limits}
    steps = range(check.steps[0], check.steps[1] + 1)

    def judged(gpu: str | None, value: float) -> Verdict:
        series = series_of(check.metric, [value] * len(steps), steps[0])
        return check.verdict_of(planted(run, steps=series, gpu=gpu))

    for gpu, limit in by_gpu.items():
        below = check.below is not None
        text = f"{'below' if below else 'above'} {limit}" + (f" on {gpu}" if gpu else "")
        passes = partial(less if below else more, float(limit))
        yield Limit(text, float(limit), passes, partial(judged, gpu))


def _of_bounds(check: Bounded, run: Run) -> Iterator[Limit]:
    first, last = check.steps or (0, FEWEST - 1)
    scope = METRICS[check.metric].scope

    def judged(one: Bounded, value: float) -> Verdict:
        series = series_of(check.metric, [value] * (last - first + 1), first, scope=scope)
        told = planted(
            run,
            steps=series if scope == "step" else None,
            epochs=series if scope == "epoch" else None,
            slots=series if scope == "slot" else None,
            # A status under which a finished window counts, however long the run was to be.
            status="DIVERGENCE",
        )
        return one.verdict_of(told)

    for key, passes in (("above", more), ("below", less)):
        yield from limit_alone(check, key, passes, judged, {"above": None, "below": None})


def _of_fact(check: Fact, run: Run) -> Iterator[Limit]:
    def judged(one: Fact, value: float) -> Verdict:
        return one.evaluate(planted(run, facts={check.fact: value})).verdict

    for wanted in (check.equals, *(check.one_of or ())):
        if isinstance(wanted, int | float) and not isinstance(wanted, bool):
            one = check.model_copy(update={"equals": wanted, "one_of": None})
            yield Limit(
                f"equals {wanted}", float(wanted), lambda value, wanted=wanted: value == wanted,  # type: ignore[misc]  # bound at once
                partial(judged, one),
            )  # fmt: skip
    for key, passes in (("at_least", at_least), ("at_most", at_most)):
        yield from limit_alone(check, key, passes, judged, {"at_least": None, "at_most": None})


def _of_monotone(check: Monotone, run: Run) -> Iterator[Limit]:
    """The last value against the one before, which is 0; those before lead up to it."""
    if check.metric == "step":  # the index of a line, which no other number stands for
        return
    first, last = check.steps or (0, FEWEST - 1)
    scope, slack = METRICS[check.metric].scope, float(check.slack)
    up = check.direction in {"increasing", "non_decreasing"}
    strict = not check.direction.startswith("non_") and slack == 0
    before = [float(-count if up else count) for count in reversed(range(last - first))]

    def judged(value: float) -> Verdict:
        series = series_of(check.metric, [*before, value], first, scope=scope)
        told = {"steps" if scope == "step" else "epochs": series}
        return check.evaluate(planted(run, status="DIVERGENCE", **told)).verdict  # type: ignore[arg-type]  # two fields of one type

    passes = (more if strict else at_least) if up else (less if strict else at_most)
    at = 0.0 - slack if up else slack
    yield Limit(f"{check.direction} by {slack:g}", at, partial(passes, at), judged)


def _of_event(check: EventCheck, run: Run) -> Iterator[Limit]:
    """Counts are whole: one more and one less stand for an ulp."""
    step = check.steps[0] if check.steps is not None else 0

    def judged(value: float) -> Verdict:
        count = max(0, math.ceil(value)) if math.isfinite(value) else 0
        places = [Event(check.event, step, {})] * count
        after = [Event(check.before, step, {})] if check.before is not None else []
        return check.evaluate(planted(run, events=(*places, *after))).verdict

    wanted = check.exactly if check.exactly is not None else check.at_least
    assert wanted is not None

    def passes(value: float) -> bool:
        count = max(0, math.ceil(value)) if math.isfinite(value) else 0
        return count == wanted if check.exactly is not None else count >= wanted

    for around in {max(0, wanted - 1), wanted, wanted + 1}:
        yield Limit(f"{check.event} {around} times", float(around), passes, judged)


def _of_memory(check: Memory, run: Run) -> Iterator[Limit]:
    """Bytes of each part of the state, and the peak against the estimate and its least share."""
    assert isinstance(run, PretrainRun), "refused when the contract was loaded"
    cuda = run.device != "cpu"
    estimate = memory_estimate(run, bf16=run.dtype == "bf16" or (run.dtype == "auto" and cuda))
    exact = _state_bytes(run, estimate.parameters, estimate.optimizer)
    device = "cuda:0" if cuda else "cpu"
    whole = estimate.total / MIB

    def judged(one: Memory, peak: float, **changed: float) -> Verdict:
        held = {part: {device: size} for part, size in (exact | changed).items()}
        facts = {"residency_after": held, "peak_mib": peak, "device_resolved": device}
        return one.evaluate(planted(run, facts=facts)).verdict

    bare = check.model_copy(update={"peak": "ignored", "peak_at_least": None})
    for part, size in exact.items():
        yield Limit(
            f"bytes of {part}", float(size), lambda value, size=size: value == size,  # type: ignore[misc]  # bound at once
            lambda value, part=part: judged(bare, whole, **{part: value}),  # type: ignore[misc]  # as above
        )  # fmt: skip
    if check.peak == "within":
        one = bare.model_copy(update={"peak": "within"})
        yield Limit("peak within", whole, partial(at_most, whole), partial(judged, one))
    if check.peak_at_least is not None:
        one, least = bare.model_copy(update={"peak_at_least": check.peak_at_least}), 0.0
        least = check.peak_at_least * whole
        yield Limit("peak_at_least", least, partial(at_least, least), partial(judged, one))


def _state_bytes(run: PretrainRun, parameters: int, moments: int) -> dict[str, float]:
    tensors = 9 * run.architecture.layers + 2 + (not run.architecture.tied)
    return {
        "parameters": parameters,
        "gradients": parameters,
        "optimizer": moments + 4 * tensors,  # AdamW's counters
    }


def _of_anatomy(check: Anatomy, run: Run) -> Iterator[Limit]:
    """All of the time lies in the first step of those taken apart, so that shares are exact."""
    assert isinstance(run, PretrainRun), "refused when the contract was loaded"
    count, first = run.anatomy, run.steps - run.anatomy
    bare: dict[str, Any] = {"at_most": {}, "flops_share_above": None, "covers": -math.inf}

    def told(shares: dict[str, float]) -> Evidence:
        rest = [0.0] * (count - 1)
        columns = {name: (shares.get(name, 0.0), *rest) for name in PARTS}
        columns |= {"wall_ms": (1.0, *rest)}
        columns |= {"step": tuple(float(step) for step in range(first, run.steps))}
        return planted(run, steps=Series(columns))

    def judged(one: Anatomy, part: str, value: float) -> Verdict:
        return one.evaluate(told({part: value})).verdict

    covers = check.model_copy(update=bare | {"covers": check.covers})
    low, high = float(check.covers), 2 - float(check.covers)
    for at in (low, high):
        yield Limit(
            f"covers {at:g}", at, lambda value: low <= value <= high,
            partial(judged, covers, "forward_ms"),
        )  # fmt: skip
    for name, share in check.at_most.items():
        alone = check.model_copy(update=bare | {"at_most": {name: share}})
        yield Limit(
            f"{name} at most {share:g}", float(share), partial(at_most, float(share)),
            partial(judged, alone, f"{name}_ms"),
        )  # fmt: skip
    if check.flops_share_above is not None:
        yield from _of_flops(check.model_copy(update=bare), run)


def _of_flops(bare: Anatomy, run: PretrainRun) -> Iterator[Limit]:
    """The share cannot be planted to an ulp, so the limit is moved around what was measured."""
    host = HostInfo(gpu=Gpu(GPU, None, None))
    steps = range(run.steps - run.anatomy, run.steps)

    def told(wall_ms: float) -> Evidence:
        columns = {name: (0.0,) * len(steps) for name in PARTS}
        columns |= {"wall_ms": (wall_ms,) * len(steps), "step": tuple(map(float, steps))}
        facts = {"device_resolved": "cuda:0"}
        return planted(run, steps=Series(columns), host=host, facts=facts)

    ceiling = device_flops(told(MS), {})
    assert not isinstance(ceiling, str)
    used = run.step_flops / 1.0 / ceiling

    def judged(limit: float) -> Verdict:
        if math.isnan(limit):
            moved = bare.model_copy(update={"flops_share_above": used / 2})
            return moved.evaluate(told(math.nan)).verdict
        return bare.model_copy(update={"flops_share_above": limit}).evaluate(told(MS)).verdict

    yield Limit("flops_share_above", used, partial(less, used), judged)


def _of_statistics(check: LayerStatistics, run: Run) -> Iterator[Limit]:
    assert isinstance(run, PretrainRun), "refused when the contract was loaded"
    layers, name = run.architecture.layers, check.parameter or "mlp.gate_proj.weight"

    def judged(others: float | None, one: LayerStatistics, value: float) -> Verdict:
        values = (value, *[value if others is None else others] * (layers - 1))
        columns: dict[str, tuple[float | str | None, ...]] = {
            "step": (float(check.step),) * layers,
            "layer": tuple(map(float, range(layers))),
            "name": (name,) * layers,
            check.metric: values,
        }
        return one.evaluate(planted(run, parameters=Series(columns))).verdict

    none = {"above": None, "below": None, "ratio_below": None}
    for key, passes in (("above", more), ("below", less)):
        yield from limit_alone(check, key, passes, partial(judged, None), none)
    ratio = check.ratio_below
    if ratio is not None and ratio > 1:
        alone = check.model_copy(update=none | {"ratio_below": ratio})
        yield Limit(
            f"ratio_below {ratio}", float(ratio), lambda value: abs(value) < ratio,
            partial(judged, 1.0, alone),
        )  # fmt: skip


OF_A_RUN: dict[type, Callable[[Any, Run], Iterator[Limit]]] = {
    Budget: _of_budget,
    Bounded: _of_bounds,
    Fact: _of_fact,
    ExitStatus: _of_exit,
    Monotone: _of_monotone,
    EventCheck: _of_event,
    Memory: _of_memory,
    Anatomy: _of_anatomy,
    LayerStatistics: _of_statistics,
}
"""Limits of a check over a run, by the check's class."""
