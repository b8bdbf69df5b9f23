"""What every check has: a typed YAML form, refusals when loaded, and a pure evaluation."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Annotated, ClassVar, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictFloat,
    StrictInt,
    StrictStr,
    WithJsonSchema,
)

from pytest_gates.checks.strictness import Compare, FieldChange, unproven
from pytest_gates.errors import one_line
from pytest_gates.evidence import Evidence
from pytest_gates.model.config import LaunchedRun, Run
from pytest_gates.model.telemetry import EVENTS, METRICS
from pytest_gates.vocabulary import hint


class Verdict(StrEnum):
    """Verdicts, worst first; the verdict of a gate is the worst of its checks'."""

    FAIL = "fail"
    INCONCLUSIVE = "inconclusive"
    BLOCKED = "blocked"
    PENDING = "pending"
    PASS = "pass"  # noqa: S105 - no password

    @staticmethod
    def worst(verdicts: list[Verdict]) -> Verdict:
        """The worst of one or more verdicts."""
        return min(verdicts, key=_BADNESS.__getitem__)


_BADNESS = {verdict: place for place, verdict in enumerate(Verdict)}


@dataclass(frozen=True)
class Outcome:
    """What one check found."""

    check: str
    verdict: Verdict
    summary: str
    """One line for people: what was measured, against what."""
    figure: str | None = None
    """What was measured, short, for a table: `median 45.1 ms`."""
    limit: str | None = None
    """What it was held against, short: `< 60 ms`."""
    headroom_pct: float | None = None
    """How far the figure lies on the good side of the limit; negative on the bad side."""
    statistic: str | None = None
    value: float | None = None
    unit: str | None = None
    window: tuple[int, int] | None = None
    n: int | None = None
    interval: tuple[float, float] | None = None
    slot: str | None = None
    """The one place that it names: `layer 3 ffn_swigl`, `final_norm`; of inputs `tokens`."""
    detail: tuple[str, ...] = ()
    """Further lines for the failure report."""

    def __post_init__(self) -> None:
        # Words of the evidence are a stranger's; a contract and a terminal take only plain ones.
        for name in ("summary", "figure", "limit", "slot"):
            text = getattr(self, name)
            if text is not None and (plain := one_line(text)) is not text:
                object.__setattr__(self, name, plain)
        if self.detail:
            object.__setattr__(self, "detail", tuple(map(one_line, self.detail)))


@dataclass(frozen=True)
class Need:
    """Executions of a run that a check draws on beyond the gate's own."""

    run: str
    repeat: int = 1


def _pair(value: object) -> object:
    """One clear error in place of one an element."""
    whole = isinstance(value, list | tuple) and all(
        isinstance(step, int) and not isinstance(step, bool) and step >= 0 for step in value
    )
    if not whole or len(value) != 2:  # type: ignore[arg-type]  # noqa: PLR2004 - just seen; a pair
        raise ValueError("expected a window [first, last] of two steps, both included")
    return value


def _ordered(window: tuple[int, int]) -> tuple[int, int]:
    if window[0] > window[1]:
        raise ValueError(f"the window's first step {window[0]} lies after its last {window[1]}")
    return window


Window = Annotated[
    tuple[Annotated[StrictInt, Field(ge=0)], Annotated[StrictInt, Field(ge=0)]],
    BeforeValidator(_pair),
    AfterValidator(_ordered),
]
"""First and last step, both included."""


_EXACT = 2**53
"""Whole numbers beyond it have no exact form in JSON, and so none in a gate's hash."""


def number(value: object) -> int | float:
    """A number as YAML gave it, or a ValueError. Text and booleans are none, NaN is no limit."""
    if isinstance(value, str) and value.strip("+-.").lower() == "nan":
        value = math.nan
    if isinstance(value, bool) or not isinstance(value, int | float):
        # pydantic reports a ValueError at its place; a TypeError would pass through it.
        raise ValueError("expected a number")  # noqa: TRY004
    if isinstance(value, int) and abs(value) > _EXACT:
        raise ValueError("a whole number beyond 2^53 is not exact in JSON; write it as 1.0e+16")
    if math.isnan(value):
        raise ValueError("NaN is no limit: nothing is above or below it")
    return value


def _finite(value: object) -> int | float:
    if math.isinf(found := number(value)):
        raise ValueError("an infinite limit limits nothing")
    return found


Unbounded = Annotated[StrictFloat | StrictInt, BeforeValidator(number)]
"""A number that may be infinite."""
Number = Annotated[StrictFloat | StrictInt, BeforeValidator(_finite)]
"""A finite number; text, booleans, NaN and infinities are refused."""
Positive = Annotated[Number, Field(gt=0), WithJsonSchema({"type": "number", "exclusiveMinimum": 0})]
NotNegative = Annotated[Number, Field(ge=0), WithJsonSchema({"type": "number", "minimum": 0})]
Confidence = Annotated[
    StrictFloat,
    BeforeValidator(_finite),
    Field(ge=0.5, lt=1),
    WithJsonSchema({"type": "number", "minimum": 0.5, "exclusiveMaximum": 1}),
]
"""One-sided: alpha is 1 - confidence."""

STEP_METRICS = tuple(metric.name for metric in METRICS.values() if metric.scope == "step")
_LISTED = "docs/vocabulary.md and by `pytest-gates schema`"


def words(names: Collection[str]) -> WithJsonSchema:
    """The JSON Schema of one of these names, so that editors complete it."""
    return WithJsonSchema({"type": "string", "enum": list(names)})


def _registered(name: str) -> str:
    if name not in METRICS:
        raise ValueError(f"unregistered metric {name!r}; {hint(name, METRICS, _LISTED)}")
    return name


def _step_metric(name: str) -> str:
    if _registered(name) not in STEP_METRICS:
        scope = METRICS[name].scope
        raise ValueError(
            f"{name!r} is a metric of {scope}s, not of steps; {hint(name, STEP_METRICS, _LISTED)}"
        )
    return name


def _event(name: str) -> str:
    if name not in EVENTS:
        raise ValueError(f"unregistered event {name!r}; {hint(name, EVENTS)}")
    return name


MetricName = Annotated[StrictStr, AfterValidator(_registered), words(METRICS)]
"""Any registered metric."""
StepMetric = Annotated[StrictStr, AfterValidator(_step_metric), words(STEP_METRICS)]
"""A registered metric that is said once a step."""
EventName = Annotated[StrictStr, AfterValidator(_event), words(EVENTS)]
"""A registered event."""

TIME_UNITS = frozenset({"ms", "s", "tokens/s", "%"})
"""Units of what a busy machine changes."""

NO_RUNS: Mapping[str, Run] = MappingProxyType({})
NO_GPUS: Mapping[str, float] = MappingProxyType({})

Refusal = tuple[tuple[str | int, ...], str]
"""Path of keys in the check, and why it makes no sense there."""


class Check(BaseModel):
    """Base of the closed set. A concrete check adds `kind: Literal[...]` and its own fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    STRICTER: ClassVar[Mapping[str, Compare]] = MappingProxyType({})
    """Tells for a field whether another value asks for more; of the others nothing is proven."""

    def changes_from(self, older: Self) -> Iterator[FieldChange]:
        """What this check asks for otherwise than an older form of it did, field by field."""
        for name in type(self).model_fields:
            was, now = getattr(older, name), getattr(self, name)
            if was != now:
                yield FieldChange(name, was, now, self._stricter(name)(was, now))

    def _stricter(self, field: str) -> Compare:
        """How a field is compared, where it may depend on the others."""
        return self.STRICTER.get(field, unproven)

    def needs(self) -> tuple[Need, ...]:
        """Runs named by the check itself."""
        return ()

    def asks(self) -> tuple[str, ...]:
        """Metrics without which the check has nothing to look at."""
        one, many = getattr(self, "metric", None), getattr(self, "metrics", ())
        return (one,) if isinstance(one, str) else tuple(many)

    def timed(self) -> bool:
        """Whether what else the machine does could change the outcome: such a run is alone."""
        metric = getattr(self, "metric", None)
        return isinstance(metric, str) and METRICS[metric].unit in TIME_UNITS

    def over_runs(self) -> RunsCheck | None:
        """What judges several executions, where a check over one run can also be asked of two."""
        return None

    def slot_misfit(self, slot: str, runs: Mapping[str, Run]) -> str | None:
        """Why a falsifier cannot expect that this check names `slot`, or None.

        `runs` are the resolved runs that the gate draws on.
        """
        return "the check names no slot"

    def groups(self) -> tuple[tuple[str, ...], ...]:
        """Runs that must be executed in turns on one device, by name."""
        return ()

    @abstractmethod
    def refusals(
        self,
        run: Run | None,
        gpus: Collection[str] = frozenset(),
        runs: Mapping[str, Run] = NO_RUNS,
    ) -> Iterator[Refusal]:
        """Why the check makes no sense for the runs of its gate. Called when a contract is loaded.

        Args:
            run: The gate's own resolved run, or None if the gate names none.
            gpus: Names of the GPUs that the contract adds to the vocabulary.
            runs: The resolved runs that the gate draws on, by name.
        """


def _rank_list(value: object) -> object:
    """One clear error in place of one a form."""
    if value is None or value == "all":
        return value
    ranks = list(value) if isinstance(value, list | tuple) else []
    whole = all(isinstance(rank, int) and not isinstance(rank, bool) for rank in ranks)
    if not ranks or not whole or min(ranks) < 0 or len(set(ranks)) != len(ranks):
        raise ValueError("expected `all`, or a list of ranks: [0, 1]")
    return value


RankList = Annotated[
    Literal["all"] | tuple[StrictInt, ...] | None,
    BeforeValidator(_rank_list),
    WithJsonSchema({"anyOf": [{"const": "all"}, {
        "type": "array", "minItems": 1, "items": {"type": "integer", "minimum": 0},
    }]}),
]  # fmt: skip
"""Ranks of a run that declares `launch`."""


def rank_refusals(ranks: Literal["all"] | tuple[int, ...] | None, run: Run) -> Iterator[Refusal]:
    """Why these ranks are none of the run's."""
    if ranks is None:
        return
    if not isinstance(run, LaunchedRun) or run.launch is None:
        yield ("ranks",), f"the run is one process; {more_ranks(run)}"
    elif ranks != "all" and max(ranks) >= run.ranks:
        yield ("ranks",), f"rank {max(ranks)} is none of the run's {run.ranks}"


def more_ranks(run: Run) -> str:
    """What to do about a run that has no ranks to be told apart."""
    if isinstance(run, LaunchedRun):
        return "give it `launch: {processes: N}`"
    return f"ranks are those of drivers pretrain and command, not of {run.driver}"


def ranks_of(ranks: Literal["all"] | tuple[int, ...], evidence: Evidence) -> tuple[int, ...]:
    """The ranks by number."""
    assert isinstance(evidence.run, LaunchedRun)
    return tuple(range(evidence.run.ranks)) if ranks == "all" else ranks


class RunCheck(Check):
    """A check over one execution of the gate's own run."""

    ranks: RankList = None
    """Of a run that declares `launch`: the ranks that are each held to it, `all` or a list. Left
    out: rank 0, and how the group as a whole ended."""

    def refusals(
        self,
        run: Run | None,
        gpus: Collection[str] = frozenset(),
        runs: Mapping[str, Run] = NO_RUNS,
    ) -> Iterator[Refusal]:
        """See `Check.refusals`."""
        if run is None:
            yield (), "the gate names no `run` for it"
        else:
            yield from rank_refusals(self.ranks, run)
            yield from self.misfits(run, gpus)

    def of_ranks(self, evidence: Evidence) -> tuple[tuple[int | None, Evidence], ...]:
        """What is to be evaluated: the execution, or what each rank saw of it."""
        if self.ranks is None:
            return ((None, evidence),)
        return tuple((rank, evidence.of_rank(rank)) for rank in ranks_of(self.ranks, evidence))

    def misfits(self, run: Run, gpus: Collection[str]) -> Iterator[Refusal]:
        """Why the check makes no sense for this run."""
        yield from ()

    @abstractmethod
    def evaluate(self, evidence: Evidence, gpus: Mapping[str, float] = NO_GPUS) -> Outcome:
        """Judge one execution. Pure.

        Args:
            evidence: The execution.
            gpus: bf16 matmul ceilings, in TFLOP/s, of the GPUs that the contract adds.
        """

    def verdict_of(self, evidence: Evidence, gpus: Mapping[str, float] = NO_GPUS) -> Verdict:
        """The verdict of `evaluate` by the same decision, without what it says of it to people.

        Limits are proven by six planted executions each; nobody reads what is said of those.
        """
        return self.evaluate(evidence, gpus).verdict


class RunsCheck(Check):
    """A check over several executions."""

    def refusals(
        self,
        run: Run | None,
        gpus: Collection[str] = frozenset(),
        runs: Mapping[str, Run] = NO_RUNS,
    ) -> Iterator[Refusal]:
        """See `Check.refusals`. A run that is not there was said to be missing already."""
        named = [need.run for need in self.needs()]
        yield from self.misfits({name: runs[name] for name in named if name in runs})

    def misfits(self, runs: Mapping[str, Run]) -> Iterator[Refusal]:
        """Why the check makes no sense for the runs it names."""
        yield from ()

    @abstractmethod
    def evaluate(self, evidence: Mapping[str, tuple[Evidence, ...]]) -> Outcome:
        """Judge executions by the name of their run, in order of repetition. Pure."""
