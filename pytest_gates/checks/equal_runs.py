"""`equal_runs`: two or more executions say the same, or differ."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Annotated, ClassVar, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictInt,
    StrictStr,
    model_validator,
)

from pytest_gates.checks.base import (
    MetricName,
    Need,
    NotNegative,
    Outcome,
    Refusal,
    RunsCheck,
    Verdict,
    Window,
)
from pytest_gates.checks.bounds import scope_misfits
from pytest_gates.checks.figures import short
from pytest_gates.checks.strictness import Change, Compare, less, more, more_of, unproven, wider
from pytest_gates.checks.window import Samples, ended, samples
from pytest_gates.evidence import Evidence
from pytest_gates.model.config import Run
from pytest_gates.model.telemetry import METRICS
from pytest_gates.vocabulary import hint

FEWEST, MOST = 2, 100
"""Executions of one run that a check can compare."""


class Repeated(BaseModel):
    """Executions of one run, each in a process of its own."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    run: StrictStr
    """Name of the run."""
    repeat: Annotated[StrictInt, Field(ge=FEWEST, le=MOST)] = 2
    """How many executions."""


@dataclass(frozen=True)
class Difference:
    """Where two executions differ."""

    place: str
    values: str
    decided: bool
    """False where a value is NaN or missing, which is neither equal nor honestly different."""


@dataclass(frozen=True)
class Compared:
    """What the comparison of several pairs gave."""

    verdict: Verdict
    text: str
    count: int
    """Differences of all pairs together."""
    firsts: tuple[str, ...]
    """The first difference of each pair that has any."""


def _compared(value: object) -> object:
    """One clear error in place of one a form."""
    if isinstance(value, Mapping):
        odd = value.keys() - {"run", "repeat"}
        repeat = value.get("repeat", 2)
        if odd:
            raise ValueError(f"unknown key `{min(odd)}`; {hint(str(min(odd)), ('run', 'repeat'))}")
        if isinstance(repeat, bool) or not isinstance(repeat, int) or not FEWEST <= repeat <= MOST:
            raise ValueError(f"repeat is a number of executions from {FEWEST} to {MOST}")
        if isinstance(value.get("run"), str):
            return value
    elif isinstance(value, list | tuple) and len(value) == 2:  # noqa: PLR2004 - a pair
        if value[0] == value[1]:
            text = f"two executions of one run are written {{run: {value[0]}, repeat: 2}}"
            raise ValueError(f"a run equals itself; {text}")
        if all(isinstance(name, str) for name in value):
            return value
    elif isinstance(value, Repeated):
        return value
    raise ValueError("expected {run: a, repeat: 2}, or two runs by name: [a, b]")


def _more_executions(was: object, now: object) -> Change:
    if isinstance(was, Repeated) and isinstance(now, Repeated) and was.run == now.run:
        return more(was.repeat, now.repeat)
    return Change.LOOSENED


class EqualRuns(RunsCheck):
    """Executions say the same of every metric and fact, bit for bit, or `differ` in at least one.

    NaN equals nothing, so it never shows that runs are equal; nor that they differ.
    """

    kind: Literal["equal_runs"]
    of: Annotated[Repeated | tuple[StrictStr, StrictStr], BeforeValidator(_compared)]
    """`{run: a, repeat: 2}`, or two runs by name."""
    metrics: tuple[MetricName, ...] = ("train_loss",)
    """Metrics of steps, epochs or slots."""
    facts: tuple[StrictStr, ...] = ()
    """Facts, compared as they are."""
    steps: Window | None = None
    """For metrics of steps: first and last step; the whole run if left out."""
    tolerance: NotNegative = 0
    """Largest difference of a value that still counts as equal; 0 compares bits."""
    expect: Literal["equal", "differ"] = "equal"
    """What must be the case."""

    STRICTER: ClassVar[Mapping[str, Compare]] = {
        "metrics": more_of,
        "facts": more_of,
        "steps": wider,
        "tolerance": less,
    }

    def _stricter(self, field: str) -> Compare:
        # Where runs must differ in something, more to look at makes it easier.
        if self.expect == "differ":
            return unproven
        return _more_executions if field == "of" else super()._stricter(field)

    @model_validator(mode="after")
    def _something(self) -> Self:
        if not self.metrics and not self.facts:
            raise ValueError("give metrics or facts to compare")
        return self

    def needs(self) -> tuple[Need, ...]:
        """The runs that are compared."""
        if isinstance(self.of, Repeated):
            return (Need(self.of.run, self.of.repeat),)
        return tuple(Need(name) for name in self.of)

    def misfits(self, runs: Mapping[str, Run]) -> Iterator[Refusal]:
        """Metrics or windows that a run does not have."""
        for run in runs.values() if self.metrics else ():
            yield from scope_misfits(run, self.metrics, self.steps)

    def evaluate(self, evidence: Mapping[str, tuple[Evidence, ...]]) -> Outcome:
        """See `RunsCheck.evaluate`. Every two executions are compared."""
        executions = [
            (need.run if need.repeat == 1 else f"{need.run}#{number}", execution)
            for need in self.needs()
            for number, execution in enumerate(evidence.get(need.run, ())[: need.repeat])
        ]
        needed = sum(need.repeat for need in self.needs())
        if len(executions) < needed:
            return self._outcome(
                Verdict.BLOCKED, f"{len(executions)} of {needed} executions are there"
            )
        if len({execution.id for _, execution in executions}) < needed:
            return self._outcome(Verdict.INCONCLUSIVE, "an execution is compared with itself")
        pairs = [(f"{a} and {b}", one, other)
                 for (a, one), (b, other) in combinations(executions, 2)]  # fmt: skip
        found = self.compare_all(pairs)
        ends = "".join(sorted({ended(execution) for _, execution in executions}))
        shown = f"{found.text}; {found.firsts[0]}" if found.firsts else found.text
        return self._outcome(found.verdict, shown + ends, found.count, found.firsts)

    def compare_all(self, pairs: Sequence[tuple[str, Evidence, Evidence]]) -> Compared:
        """Compare the two of each pair, which has a name."""
        compared = [self.compare(one, other) for _, one, other in pairs]
        differences = [found for found, _ in compared]
        gaps = [gap for _, gap in compared if gap is not None]
        verdict, text = self.decide(differences, gaps)
        firsts = tuple(
            f"{name}: {found[0].place}, {found[0].values}"
            for (name, *_), found in zip(pairs, differences, strict=True)
            if found
        )
        return Compared(verdict, text, sum(map(len, differences)), firsts)

    def decide(self, pairs: Sequence[Sequence[Difference]], gaps: list[str]) -> tuple[Verdict, str]:
        """The verdict over the differences of each pair, and the reasons for more of them."""
        count = sum(map(len, pairs))
        if self.expect == "equal":
            if count:
                return Verdict.FAIL, f"{count} values differ"
            return (Verdict.INCONCLUSIVE, gaps[0]) if gaps else (Verdict.PASS, "all values equal")
        if gaps:
            return Verdict.INCONCLUSIVE, gaps[0]
        if all(any(one.decided for one in found) for found in pairs):
            return Verdict.PASS, f"{count} values differ"
        if not all(pairs):
            return Verdict.FAIL, "all values equal, and they should differ"
        return Verdict.INCONCLUSIVE, "they differ in NaN alone"

    def compare(self, a: Evidence, b: Evidence) -> tuple[list[Difference], str | None]:
        """All differences in order, and why there may be more."""
        differences: list[Difference] = []
        gap = None
        for metric in self.metrics:
            left, right = (samples(one, metric, self.steps) for one in (a, b))
            gap = gap or left.gap or right.gap
            differences += self._metric(left, right)
        for fact in self.facts:
            mine, theirs = a.main.facts.get(fact), b.main.facts.get(fact)
            if mine is None or theirs is None:
                gap = gap or f"no fact {fact}; there are {', '.join(a.main.facts) or 'none'}"
            elif mine != theirs or type(mine) is not type(theirs):
                differences.append(
                    Difference(place=f"fact {fact}", values=f"{mine} and {theirs}", decided=True)
                )
        return differences, gap

    def _metric(self, left: Samples, right: Samples) -> Iterator[Difference]:
        scope = METRICS[left.metric].scope
        if left.gap is None and right.gap is None and left.at != right.at:
            text = f"{len(left.at)} and {len(right.at)} values"
            yield Difference(place=f"{left.metric} over its {scope}s", values=text, decided=False)
        right_at: Mapping[int, float] = dict(zip(right.at, right.values, strict=True))
        for at, a in zip(left.at, left.values, strict=True):
            b = right_at.get(at)
            if b is not None and not self._same(a, b):
                yield Difference(
                    place=f"{left.metric} at {scope} {at}",
                    values=f"{a!r} and {b!r} (difference {short(b - a)})",
                    decided=not (math.isnan(a) or math.isnan(b)),
                )

    def _same(self, a: float, b: float) -> bool:
        if self.tolerance == 0:
            return a == b and math.copysign(1, a) == math.copysign(1, b)
        return a == b or abs(a - b) <= self.tolerance

    def _outcome(
        self, verdict: Verdict, text: str, count: int | None = None, lines: Sequence[str] = ()
    ) -> Outcome:
        return Outcome(
            check="equal_runs",
            verdict=verdict,
            summary=text,
            figure=None if count is None else f"{count} differences",
            limit="0" if self.expect == "equal" else "> 0",
            window=self.steps,
            detail=tuple(lines),
        )
