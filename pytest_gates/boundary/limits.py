"""What a boundary proof is made of: a limit, the values that are tried, and planted evidence."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from typing import Any

from pytest_gates.checks.base import Check, Verdict
from pytest_gates.evidence import (
    Event,
    Evidence,
    Gpu,
    HostInfo,
    Series,
    Telemetry,
    Witness,
    run_hash,
)
from pytest_gates.model.config import ProbeRun, Run

FEWEST = 40
"""Values of a series for a check that names no window."""


GPU = "NVIDIA H200"
"""A GPU whose ceiling is in the table."""


Trial = tuple[float, Verdict, Verdict]
"""A value, the verdict that is expected of it, and the one that is found."""


def never(_: float) -> bool:
    """No value is undecided."""
    return False


@dataclass(frozen=True)
class Limit:
    """A limit as a side: what passes, and how a value is judged."""

    text: str
    at: float
    passes: Callable[[float], bool]
    """Whether a value must pass, by the check's own words; never for NaN."""
    judge: Callable[[float], Verdict]
    undecided: Callable[[float], bool] = never
    """Whether a value is no measurement at all, so that it must decide nothing."""

    def expected(self, value: float) -> Verdict:
        """What the check must say of a value."""
        if self.undecided(value):
            return Verdict.INCONCLUSIVE
        return Verdict.PASS if self.passes(value) else Verdict.FAIL

    @cached_property
    def trials(self) -> tuple[Trial, ...]:
        """Every value that is tried, what must be said of it and what is; done once a limit."""
        return tuple((value, self.expected(value), self.judge(value)) for value in tried(self.at))


def tried(limit: float) -> tuple[float, ...]:
    """The limit, one ulp to either side, NaN and both infinities."""
    below, above = math.nextafter(limit, -math.inf), math.nextafter(limit, math.inf)
    return limit, below, above, math.nan, math.inf, -math.inf


def less(limit: float, value: float) -> bool:
    """Strictly below."""
    return value < limit


def more(limit: float, value: float) -> bool:
    """Strictly above."""
    return value > limit


def at_least(limit: float, value: float) -> bool:
    """At the limit or above."""
    return value >= limit


def at_most(limit: float, value: float) -> bool:
    """At the limit or below."""
    return value <= limit


def limit_alone(
    check: Check,
    key: str,
    passes: Callable[[float, float], bool],
    judged: Callable[[Any, float], Verdict],
    without: Mapping[str, Any],
) -> Iterator[Limit]:
    """The limit under one key of a check, if it has one, tried without those in `without`.

    One at a time: what lies beyond another limit is that one's business.
    """
    limit = getattr(check, key)
    if limit is not None:
        alone = check.model_copy(update={**without, key: limit})
        yield Limit(
            f"{key} {limit}", float(limit), partial(passes, float(limit)), partial(judged, alone)
        )


def series_of(metric: str, values: Sequence[float], first: int = 0, scope: str = "step") -> Series:
    """A column of a metric, with the steps it was told at."""
    if scope != "step":
        return Series({metric: tuple(values)})
    return Series({"step": _steps(first, len(values)), metric: tuple(values)})


@lru_cache
def _steps(first: int, count: int) -> tuple[float, ...]:
    return tuple(float(step) for step in range(first, first + count))


def planted(
    run: Run,
    *,
    steps: Series | None = None,
    epochs: Series | None = None,
    slots: Series | None = None,
    parameters: Series | None = None,
    events: tuple[Event, ...] = (),
    facts: dict[str, Any] | None = None,
    status: str = "COMPLETED",
    gpu: str | None = None,
    host: HostInfo | None = None,
    **further: Any,
) -> Evidence:
    """Evidence of a run that never took place; `further` are fields of `Evidence`."""
    # Thousands of gates are tried at six values each: what is the same for all is made once.
    said = object.__new__(Telemetry)
    vars(said).update(
        steps=steps or NOTHING, epochs=epochs or NOTHING, slots=slots or NOTHING,
        parameters=parameters or NOTHING, events=events, facts=facts or {}, properties={},
    )  # fmt: skip
    if host is None:
        host = HostInfo(gpu=Gpu(gpu, None, None)) if gpu else NO_HOST
    made = object.__new__(Evidence)
    own = vars(made)
    own.update(_PLANTED, run=run, run_hash=run_hash(run), host=host, status=status)
    own.update(telemetry=(said,))
    own.update(further)
    return made


NOTHING = Series({})
NO_HOST = HostInfo(gpu=None)
_PLANTED = vars(
    Evidence(
        id="0" * 64, run=ProbeRun(driver="probe"), run_hash="", fault=None, repetition=0,
        host=NO_HOST, status="", wall_ms=None, pid=None, run_folder=True, started=None,
        declared=False, telemetry=(), witness=Witness(),
    )
)  # fmt: skip
"""What planted evidence says where nothing else is said."""
