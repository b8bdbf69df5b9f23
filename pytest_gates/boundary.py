"""Boundary proof: does a verdict turn exactly at its limit?

For each numeric check of a gate the limit itself, one ulp to either side, NaN and both infinities
are tried on planted evidence, by the check's own `evaluate`. That is what PARTIAL_ALGORITHM_LEVEL
claims: judged right on planted evidence, not yet live. A gate that fails it gets no verdict.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial

from pytest_gates.checks.base import RunCheck, Verdict
from pytest_gates.checks.bounds import Bounded
from pytest_gates.checks.budget import Budget
from pytest_gates.checks.descent import Descent
from pytest_gates.checks.fact import Fact
from pytest_gates.checks.status import ExitStatus
from pytest_gates.contract.models import Gate, check_kind
from pytest_gates.evidence import Evidence, Gpu, HostInfo, Series, Telemetry, Witness, run_hash
from pytest_gates.model.config import Run
from pytest_gates.model.telemetry import METRICS

FEWEST = 40
"""Values of a series for a check that names no window."""
MS = 1000.0
NOTHING = Series({})
UNSEEN = Witness()


@dataclass(frozen=True)
class Proof:
    """One value that was tried against one limit."""

    check: str
    limit: str
    value: float
    expected: Verdict
    found: Verdict

    def __str__(self) -> str:
        return f"{self.check} {self.limit}: {self.value!r} gives {self.found}, not {self.expected}"


@dataclass(frozen=True)
class Limit:
    """A limit as a side: what passes, and how a value is judged."""

    text: str
    at: float
    passes: Callable[[float], bool]
    """Whether a value must pass, by the check's own words; never for NaN."""
    judge: Callable[[float], Verdict]


def tried(limit: float) -> tuple[float, ...]:
    """The limit, one ulp to either side, NaN and both infinities."""
    below, above = math.nextafter(limit, -math.inf), math.nextafter(limit, math.inf)
    return limit, below, above, math.nan, math.inf, -math.inf


def proofs(gate: Gate) -> Iterator[Proof]:
    """Every value against every limit of the gate's numeric checks."""
    run = gate.runs.get(gate.run) if gate.run else None
    if run is None:
        return
    for check in gate.checks:
        for limit in _limits(check, run) if isinstance(check, RunCheck) else ():
            for value in tried(limit.at):
                expected = Verdict.PASS if limit.passes(value) else Verdict.FAIL
                yield Proof(check_kind(check), limit.text, value, expected, limit.judge(value))


def flaw(gate: Gate) -> str | None:
    """Where a verdict of the gate does not turn as it must, or None."""
    return next((str(proof) for proof in proofs(gate) if proof.found != proof.expected), None)


def _limits(check: RunCheck, run: Run) -> Iterator[Limit]:
    match check:
        case Budget():
            yield from _of_budget(check, run)
        case Bounded():
            yield from _of_bounds(check, run)
        case Descent():
            yield from _of_descent(check, run)
        case Fact():
            yield from _of_fact(check, run)
        case ExitStatus(within_s=float() | int() as within):
            yield Limit(
                f"within {within} s", float(within), lambda value: value <= within,
                lambda value: check.evaluate(
                    _planted(run, wall_ms=value * MS, status=_first(check.expect),
                             run_folder=check.run_folder is not False)
                ).verdict,
            )  # fmt: skip
        case _:
            return


def _first(names: str | tuple[str, ...]) -> str:
    return names if isinstance(names, str) else names[0]


def _of_budget(check: Budget, run: Run) -> Iterator[Limit]:
    by_gpu = check.limits if isinstance(check.limits, dict) else {None: check.limits}
    steps = range(check.steps[0], check.steps[1] + 1)

    def judged(gpu: str | None, value: float) -> Verdict:
        series = _series(check.metric, (value,) * len(steps), steps[0])
        return check.evaluate(_planted(run, steps=series, gpu=gpu)).verdict

    for gpu, limit in by_gpu.items():
        below = check.below is not None
        text = f"{'below' if below else 'above'} {limit}" + (f" on {gpu}" if gpu else "")
        passes = partial(_less if below else _more, float(limit))
        yield Limit(text, float(limit), passes, partial(judged, gpu))


def _less(limit: float, value: float) -> bool:
    return value < limit


def _more(limit: float, value: float) -> bool:
    return value > limit


def _of_bounds(check: Bounded, run: Run) -> Iterator[Limit]:
    first, last = check.steps or (0, FEWEST - 1)
    scope = METRICS[check.metric].scope

    def judged(one: Bounded, value: float) -> Verdict:
        series = _series(check.metric, (value,) * (last - first + 1), first, scope=scope)
        planted = _planted(
            run,
            steps=series if scope == "step" else None,
            epochs=series if scope == "epoch" else None,
            slots=series if scope == "slot" else None,
            # A status under which a finished window counts, however long the run was to be.
            status="DIVERGENCE",
        )
        return one.evaluate(planted).verdict

    for key, passes in (("above", _more), ("below", _less)):
        limit = getattr(check, key)
        if limit is not None:
            # One bound at a time: what lies beyond the other is the other's business.
            alone = check.model_copy(update={"above": None, "below": None, key: limit})
            yield Limit(
                f"{key} {limit}", float(limit), partial(passes, float(limit)),
                partial(judged, alone),
            )  # fmt: skip


def _of_fact(check: Fact, run: Run) -> Iterator[Limit]:
    def judged(one: Fact, value: float) -> Verdict:
        return one.evaluate(_planted(run, facts={check.fact: value})).verdict

    for key, passes in (("at_least", _at_least), ("at_most", _at_most)):
        limit = getattr(check, key)
        if limit is not None:
            alone = check.model_copy(update={"at_least": None, "at_most": None, key: limit})
            yield Limit(
                f"{key} {limit}", float(limit), partial(passes, float(limit)),
                partial(judged, alone),
            )  # fmt: skip


def _at_least(limit: float, value: float) -> bool:
    return value >= limit


def _at_most(limit: float, value: float) -> bool:
    return value <= limit


def _of_descent(check: Descent, run: Run) -> Iterator[Limit]:
    """The slope cannot be planted to an ulp, so the limit is moved around what was measured."""
    # Neither is proven here, and without them many gates have the same check.
    bare = check.model_copy(update={"drop": None, "start_tolerance": None})
    slopes = _slopes(bare, run)
    yield Limit("slope_below", slopes.measured, partial(_more, slopes.measured), slopes.judged)


@dataclass(frozen=True)
class _Slopes:
    """How a check judges one planted slope when its limit is moved around that."""

    measured: float
    verdicts: Mapping[str, Verdict]

    def judged(self, limit: float) -> Verdict:
        return self.verdicts[repr(limit)]


@lru_cache(maxsize=1024)
def _slopes(bare: Descent, run: Run) -> _Slopes:
    first, last = bare.steps or (0, FEWEST - 1)
    count = last - first + 1

    def falling(by: float) -> Evidence:
        losses = tuple([-by * index for index in range(count)])
        columns = {**_series(bare.metric, losses, first).columns, "wall_ms": (1e12,) * count}
        host = HostInfo(gpu=Gpu("NVIDIA H200", None, None), cpu_flops=1e12)
        return _planted(run, steps=Series(columns), host=host)

    planted = falling(1.0)
    measured = bare.evaluate(planted).value
    assert measured is not None

    def at_slope(limit: float) -> Verdict:
        if math.isnan(limit):
            return bare.evaluate(falling(math.nan)).verdict
        return bare.model_copy(update={"slope_below": limit}).evaluate(planted).verdict

    return _Slopes(measured, {repr(limit): at_slope(limit) for limit in tried(measured)})


def _series(metric: str, values: tuple[float, ...], first: int, scope: str = "step") -> Series:
    if scope != "step":
        return Series({metric: values})
    return Series({"step": _steps(first, len(values)), metric: values})


@lru_cache
def _steps(first: int, count: int) -> tuple[float, ...]:
    return tuple(map(float, range(first, first + count)))


def _planted(
    run: Run,
    *,
    steps: Series | None = None,
    epochs: Series | None = None,
    slots: Series | None = None,
    facts: dict[str, float] | None = None,
    status: str = "COMPLETED",
    wall_ms: float | None = None,
    run_folder: bool = True,
    gpu: str | None = None,
    host: HostInfo | None = None,
) -> Evidence:
    said = Telemetry(
        steps=steps or NOTHING,
        epochs=epochs or NOTHING,
        slots=slots or NOTHING,
        facts=facts or {},
    )
    return Evidence(
        id="0" * 64,
        run=run,
        run_hash=run_hash(run),
        fault=None,
        repetition=0,
        host=host or _host(gpu),
        status=status,
        wall_ms=wall_ms,
        pid=None,
        run_folder=run_folder,
        started=None,
        declared=False,
        telemetry=(said,),
        witness=UNSEEN,
    )


@lru_cache
def _host(gpu: str | None) -> HostInfo:
    return HostInfo(gpu=Gpu(gpu, None, None) if gpu else None)
