"""Limits of the layers of residency: bytes told and seen, gaps, utilisation, operations."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from pytest_gates.boundary.limits import GPU, Limit, at_least, at_most, planted, series_of
from pytest_gates.checks.base import Verdict
from pytest_gates.checks.ceilings import gpu_flops
from pytest_gates.checks.declared import shape_of
from pytest_gates.checks.layers import (
    BUSY_PCT,
    GRANULARITY_MIB,
    LONGEST_GAP_MS,
    LONGEST_GAP_SHARE,
    MIB,
    canonical_device,
)
from pytest_gates.checks.residency import Residency
from pytest_gates.evidence import (
    Allocation,
    Event,
    Evidence,
    Gpu,
    HostInfo,
    Sample,
    Series,
    Witness,
)
from pytest_gates.model.config import Run

PID = 4711
TOLD_MIB = 512
Judge = Callable[..., Verdict]


def of_residency(check: Residency, run: Run) -> Iterator[Limit]:
    """Each required layer alone, on evidence that proves it but for one value."""
    names = {name for one in check.require for name in ([one] if isinstance(one, str) else one)}
    shape = shape_of(run)
    for name, limits in LAYER_LIMITS.items():
        if name not in names:
            continue
        # Without a census, or operations of a step, the layer decides nothing at any value.
        needs = shape.step_flops if name == "L5" else shape.census_bytes
        if name == "L4" or needs is not None:
            alone = check.model_copy(update={"require": (name,)})
            yield from limits(run, lambda told, alone=alone: alone.evaluate(told).verdict)


def _held_bytes(run: Run, judge: Judge) -> Iterator[Limit]:
    """L1. Bytes are whole: one more and one less stand for an ulp."""
    floor = shape_of(run).census_bytes
    assert floor is not None
    device = canonical_device(shape_of(run).device or "cuda")

    def judged(before: float, after: float) -> Verdict:
        def parts(size: float) -> dict[str, dict[str, float]]:
            return {"parameters": {device: _whole(size)}, "gradients": {}, "optimizer": {device: 0}}

        facts = {"residency_before": parts(before), "residency_after": parts(after)}
        return judge(_ended(run, facts=facts))

    def reaches(least: int) -> Callable[[float], bool]:
        return lambda value: math.isfinite(value) and _whole(value) >= least

    def no_count(value: float) -> bool:
        return not math.isfinite(value)

    for around in (floor - 1, floor, floor + 1):
        yield Limit(
            f"L1 {around} bytes held", float(around), reaches(floor),
            lambda value: judged(1.0, value), no_count,
        )  # fmt: skip
    for around in (0, 1):
        yield Limit(
            f"L1 {around} bytes of parameters before", float(around), reaches(1),
            lambda value: judged(value, float(floor)), no_count,
        )  # fmt: skip


def _whole(size: float) -> float:
    return math.ceil(size) if math.isfinite(size) else size


def _allocated(run: Run, judge: Judge) -> Iterator[Limit]:
    """L2: what the allocator holds after one of the steps."""
    least = _floor_mib(run)

    def judged(value: float) -> Verdict:
        steps = series_of("memory_mib", [least + 1, value])
        return judge(_ended(run, steps=steps, facts={"device_resolved": "cuda:0"}))

    yield Limit("L2 MiB", least, partial(at_least, least), judged)


def _witnessed(run: Run, judge: Judge) -> Iterator[Limit]:
    """L3: what NVML says of the process, and how long it may say nothing."""
    least = _floor_mib(run)

    def judged(value: float) -> Verdict:
        seen = [_sample(at, used_mib=mib) for at, mib in ((0, least + 1), (500, value), (900, 1e9))]
        return judge(_trained(run, 1000.0, seen))

    yield Limit("L3 MiB of the process", least, partial(at_least, least), judged)

    def all_alike(value: float) -> Verdict:
        seen = [_sample(at, used_mib=value) for at in (0, 500, 900)]
        return judge(_trained(run, 1000.0, seen))

    yield Limit("L3 MiB in every sample", least, partial(at_least, least), all_alike)
    yield from _gaps(run, judge, lambda at: _sample(at, used_mib=1e9))


def _gaps(run: Run, judge: Judge, sample: Callable[[float], Sample]) -> Iterator[Limit]:
    """The longest time without a sample: in ms, and as a share of a longer training."""
    for whole_ms in (2 * LONGEST_GAP_MS, 10 * LONGEST_GAP_MS):
        longest = max(LONGEST_GAP_MS, LONGEST_GAP_SHARE * whole_ms)
        later = [longest * 1.5 + index * longest / 2 for index in range(30)]

        def judged(value: float, later: list[float] = later, whole_ms: float = whole_ms) -> Verdict:
            times = [0.0, value, *(at for at in later if at < whole_ms)]
            return judge(_trained(run, whole_ms, [sample(at) for at in times]))

        def seldom(value: float, longest: float = longest) -> bool:
            return not 0 <= value <= longest

        text = f"gap of {longest:g} ms in {whole_ms:g}"
        yield Limit(text, longest, partial(at_most, longest), judged, undecided=seldom)


def _allocations(run: Run, judge: Judge) -> Iterator[Limit]:
    """L3b: a told allocation as it was seen, and what the device holds beyond what it held."""
    least = _floor_mib(run)

    def judged(seen_mib: float, risen_mib: float) -> Verdict:
        held = ((-1.0, 0.0), (0.0, 1e9), (500.0, risen_mib), (900.0, 1e9))
        seen = [_sample(at, device_used_mib=mib) for at, mib in held]
        evidence = _trained(run, 1000.0, seen)
        told = (Allocation(TOLD_MIB, float(TOLD_MIB)), Allocation(TOLD_MIB, seen_mib))
        return judge(replace(evidence, witness=replace(evidence.witness, allocations=told)))

    low, high = TOLD_MIB - GRANULARITY_MIB, TOLD_MIB + GRANULARITY_MIB
    for at in (low, high):
        yield Limit(
            f"L3b {at:g} MiB seen of {TOLD_MIB}", at, lambda value: low <= value <= high,
            lambda value: judged(value, 1e9),
        )  # fmt: skip
    yield Limit("L3b MiB risen", least, partial(at_least, least),
                lambda value: judged(float(TOLD_MIB), value))  # fmt: skip


def _busy(run: Run, judge: Judge) -> Iterator[Limit]:
    """L4: the process's share of the SMs, or of its steps' time."""

    def utilised(value: float) -> Verdict:
        return judge(_trained(run, 1000.0, [_sample(at, sm_util_pct=value) for at in (0, 500)]))

    def filled(value: float) -> Verdict:
        # Shares of 100 ms are percentages.
        columns = series_of("wall_ms", [100.0] * 2).columns
        return judge(_ended(run, steps=Series({**columns, "gpu_ms": (value,) * 2})))

    reached = partial(at_least, BUSY_PCT)
    yield Limit("L4 % of the SMs", BUSY_PCT, reached, utilised)
    yield Limit("L4 % of the steps' time", BUSY_PCT, reached, filled)


def _speed(run: Run, judge: Judge) -> Iterator[Limit]:
    """L5: a step no faster than the GPU can, and faster than the CPU can."""
    flops = shape_of(run).step_flops
    assert flops is not None

    def told(wall_ms: float, cpu_flops: float) -> Evidence:
        host = HostInfo(gpu=Gpu(GPU, None, None), cpu_flops=cpu_flops)
        return _ended(run, steps=series_of("wall_ms", [wall_ms] * 3), host=host)

    ceiling = gpu_flops(told(1.0, 1.0), {})
    assert not isinstance(ceiling, str)
    fastest = flops * 1000 / ceiling
    # The first time whose operations the ceiling covers; rounding is a matter of an ulp or two.
    while flops <= ceiling * fastest / 1000:
        fastest = math.nextafter(fastest, 0.0)
    while not flops <= ceiling * fastest / 1000:
        fastest = math.nextafter(fastest, math.inf)
    yield Limit(
        "L5 ms of a step", fastest, partial(at_least, fastest),
        lambda value: judge(told(value, 0.0)), undecided=lambda value: value == math.inf,
    )  # fmt: skip
    wall_ms = 10 * fastest
    speed = flops / wall_ms * 1000

    def faster(value: float) -> bool:
        return value < speed

    # A CPU that could have done it too refutes nothing, and proves nothing.
    yield Limit("L5 FLOP/s of the CPU", speed, faster,
                lambda value: judge(told(wall_ms, value)),
                undecided=lambda value: not faster(value))  # fmt: skip


LAYER_LIMITS: Mapping[str, Callable[[Run, Judge], Iterator[Limit]]] = {
    "L1": _held_bytes,
    "L2": _allocated,
    "L3": _witnessed,
    "L3b": _allocations,
    "L4": _busy,
    "L5": _speed,
}
"""Limits of a layer; L0 compares names and has none."""


def _floor_mib(run: Run) -> float:
    floor = shape_of(run).census_bytes
    assert floor is not None
    return floor / MIB


def _sample(at_ms: float, **seen: Any) -> Sample:
    return Sample(**({"at_ms": at_ms, "pid": PID, "used_mib": None} | seen))


def _ended(run: Run, **said: Any) -> Evidence:
    """Evidence under a status with which a finished window counts, however long the run was."""
    return planted(run, status="DIVERGENCE", **said)


def _trained(run: Run, whole_ms: float, seen: list[Sample]) -> Evidence:
    """A training from 0 to `whole_ms`, its first step taking no time, as the witness saw it."""
    begun = Event("training_started", None, {"at_ms": 0.0})
    steps = series_of("wall_ms", [0.0, whole_ms])
    return _ended(run, steps=steps, events=(begun,), pid=PID, witness=Witness(tuple(seen)))
