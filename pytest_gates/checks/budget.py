"""`budget`: a quantile of a metric under or over a limit, decided by the binomial rule."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from fractions import Fraction
from functools import lru_cache
from typing import Annotated, ClassVar, Literal, NamedTuple, Self

from pydantic import (
    BeforeValidator,
    Field,
    StrictFloat,
    StrictInt,
    StrictStr,
    WithJsonSchema,
    model_validator,
)

from pytest_gates.checks.base import (
    NO_GPUS,
    Confidence,
    Outcome,
    Refusal,
    RunCheck,
    StepMetric,
    Verdict,
    Window,
    number,
)
from pytest_gates.checks.binomial import QuantileTest, bare_minimum, in_order, quantile_test
from pytest_gates.checks.declared import first_unknown, shape_of, window_misfits
from pytest_gates.checks.figures import headroom, short
from pytest_gates.checks.strictness import Compare, less, limits, more
from pytest_gates.checks.window import Samples, ended, samples, samples_during
from pytest_gates.evidence import CONTAMINATING_REASONS, Evidence, Sample
from pytest_gates.model.config import Run
from pytest_gates.model.telemetry import METRICS
from pytest_gates.vocabulary import GPUS, hint, reason_names

QUANTILES: dict[str, Fraction] = {
    "median": Fraction(1, 2),
    "p90": Fraction(9, 10),
    "p95": Fraction(19, 20),
    "p99": Fraction(99, 100),
}
RESERVE = Fraction(17, 10)
"""A window holds this many times the bare minimum, since correlated steps count for fewer."""

SLOWED = {"ms": "up", "tokens/s": "down"}
"""Where a slower device pushes metrics of a unit; contamination pushes no other one."""


def _limits(value: object) -> object:
    if not isinstance(value, dict):
        return _limit(value)
    if not value:
        raise ValueError("expected a limit for at least one GPU")
    for gpu, limit in value.items():
        try:
            _limit(limit)
        except ValueError as error:
            found = "" if "NaN" in str(error) else f", found {limit!r}"
            raise ValueError(f"{gpu}: {error}{found}") from None
    return value


def _limit(value: object) -> int | float:
    if math.isinf(found := number(value)):
        raise ValueError("an infinite limit limits nothing")
    return found


_BY_GPU = {
    "type": "object",
    "minProperties": 1,
    "properties": {name: {"type": "number"} for name in GPUS},
    "additionalProperties": {"type": "number"},
}
Limits = Annotated[
    StrictFloat | StrictInt | dict[StrictStr, StrictFloat | StrictInt],
    BeforeValidator(_limits),
    WithJsonSchema({"anyOf": [{"type": "number"}, _BY_GPU]}),
]


class _Count(NamedTuple):
    """What was counted: the samples on the bad side of the limit, and what their count means."""

    limit: float
    bad: int
    test: QuantileTest
    dirt: tuple[str, ...]
    """What slowed the device meanwhile."""
    verdict: Verdict


class Budget(RunCheck):
    """A quantile of a metric over a window of steps is below, or above, a limit.

    With K samples on the bad side of the limit, or at it: `pass` iff so few are significant,
    `fail` iff so many are, both at alpha = 1 - confidence; else `inconclusive`. Steps that were
    slowed from outside turn a `fail` into `inconclusive`, where slowness is what fails.
    """

    kind: Literal["budget"]
    metric: StepMetric
    """What is measured once a step."""
    steps: Window
    """First and last step of the window, both included, fixed in advance."""
    statistic: Literal["median", "p90", "p95", "p99"] = "median"
    """The quantile that is held against the limit."""
    below: Limits | None = None
    """Upper limit in the metric's unit: one number, or one for each GPU by name."""
    above: Limits | None = None
    """Lower limit in the metric's unit: one number, or one for each GPU by name."""
    confidence: Confidence = 0.95
    """One-sided confidence of a pass and of a fail."""
    looks: Annotated[StrictInt, Field(ge=1, le=2)] = 1
    """2: a second, longer execution may be looked at too; each look has half of alpha."""

    @model_validator(mode="after")
    def _one_limit(self) -> Self:
        if (self.below is None) == (self.above is None):
            raise ValueError("give either below or above")
        return self

    STRICTER: ClassVar[Mapping[str, Compare]] = {
        "below": limits(less),
        "above": limits(more),
        "confidence": more,
    }

    def _stricter(self, field: str) -> Compare:
        if field != "statistic":
            return super()._stricter(field)
        # Below a limit the higher quantile is harder to keep, above one the lower.
        harder = more if self.below is not None else less
        return lambda was, now: harder(float(QUANTILES[was]), float(QUANTILES[now]))

    @property
    def alpha(self) -> Fraction:
        """Probability of error that one look may spend, exact."""
        return _alpha(self.confidence, self.looks)

    @property
    def bad_rate(self) -> Fraction:
        """Share of samples on the bad side when the quantile is at the limit."""
        return _bad_rate(self.statistic, below=self.below is not None)

    @property
    def limits(self) -> int | float | dict[str, int | float]:
        """The limit, or the limits by GPU."""
        limits = self.below if self.below is not None else self.above
        assert limits is not None
        return limits

    def misfits(self, run: Run, gpus: Collection[str]) -> Iterator[Refusal]:
        """Windows too short or too long, unknown GPUs, absolute times of a CPU."""
        yield from window_misfits(run, self.steps)
        yield from first_unknown(run, self.metric, self.steps)
        n = self.steps[1] - self.steps[0] + 1
        least = bare_minimum(self.bad_rate, self.alpha)
        needed = math.ceil(RESERVE * least)
        if n < needed:
            looks = f" and {self.looks} looks" if self.looks > 1 else ""
            text = f"{self.statistic} at confidence {self.confidence}{looks} needs {needed} steps"
            yield ("steps",), f"{text} (1.7 times the bare {least}); the window has {n}"
        device = shape_of(run).device
        if device in {"cpu", "auto"} and run.driver != "recorded" and self._timed:
            text = f"device {device}: absolute CPU times are no claim; compare two runs"
            yield ("metric",), f"{text} (`ratio_of_runs`), or ask for cuda"
        yield from self._unknown_gpus({*GPUS, *gpus})

    def _unknown_gpus(self, known: Collection[str]) -> Iterator[Refusal]:
        key = "below" if self.below is not None else "above"
        for name in self.limits if isinstance(self.limits, dict) else ():
            if name not in known:
                text = f"unknown GPU {name!r}; {hint(name, sorted(known))}"
                yield (key, name), f"{text} (a new one gets a row in the contract's `gpus:`)"

    @property
    def _timed(self) -> bool:
        return METRICS[self.metric].unit in SLOWED

    def evaluate(self, evidence: Evidence, gpus: Mapping[str, float] = NO_GPUS) -> Outcome:
        """See `RunCheck.evaluate`."""
        found, count = self._decided(evidence)
        if isinstance(count, Verdict):
            return Outcome("budget", count, found.gap or "", window=self.steps)
        return self._outcome(evidence, found, count)

    def verdict_of(self, evidence: Evidence, gpus: Mapping[str, float] = NO_GPUS) -> Verdict:
        """See `RunCheck.verdict_of`."""
        _, count = self._decided(evidence)
        return count if isinstance(count, Verdict) else count.verdict

    def _decided(self, evidence: Evidence) -> tuple[Samples, _Count | Verdict]:
        """The samples and their count, or why there is none as the samples' gap."""
        limit = self._limit_on(evidence)
        if isinstance(limit, str):
            return Samples(self.metric, (), (), limit), Verdict.BLOCKED
        found = samples(evidence, self.metric, self.steps)
        if found.gap is not None:
            return found, Verdict.INCONCLUSIVE
        bad = self._bad(found.values, limit)
        test = quantile_test(found.values, self.bad_rate, self.alpha)
        dirt = self._contamination(evidence)
        return found, _Count(limit, bad, test, dirt, self._verdict(test, bad, dirty=bool(dirt)))

    def _limit_on(self, evidence: Evidence) -> float | str:
        if not isinstance(self.limits, dict):
            return self.limits
        gpu = evidence.host.gpu
        if gpu is not None and gpu.name in self.limits:
            return self.limits[gpu.name]
        where = f"for {gpu.name}" if gpu is not None else "for a host without a GPU"
        return f"no limit {where}; the check names {', '.join(self.limits)}"

    def _bad(self, values: Iterable[float], limit: float) -> int:
        """How many values are not on the good side; NaN is on neither."""
        if self.below is not None:
            return len([value for value in values if not value < limit])
        return len([value for value in values if not value > limit])

    def _verdict(self, test: QuantileTest, bad: int, *, dirty: bool) -> Verdict:
        pushes_up = SLOWED.get(METRICS[self.metric].unit) == "up"
        to_bad_side = pushes_up == (self.below is not None)
        if test.passes(bad):
            return Verdict.INCONCLUSIVE if dirty and not to_bad_side else Verdict.PASS
        if test.fails(bad):
            return Verdict.INCONCLUSIVE if dirty and to_bad_side else Verdict.FAIL
        return Verdict.INCONCLUSIVE

    def _contamination(self, evidence: Evidence) -> tuple[str, ...]:
        if not self._timed:
            return ()
        seen = contamination(samples_during(evidence, self.steps))
        return (*seen, *compiled_within(evidence, self.steps))

    def _outcome(self, evidence: Evidence, found: Samples, count: _Count) -> Outcome:
        dirt = count.dirt
        unit = METRICS[self.metric].unit
        ordered = in_order(found.values)
        value = quantile(ordered, QUANTILES[self.statistic])
        interval = self._interval(ordered, count.test)
        side, sign = ("at or over", "<") if self.below is not None else ("at or under", ">")
        figure = f"{self.statistic} {short(value)} {unit}".strip()
        limit = f"{sign} {short(count.limit)} {unit}".strip()
        first, last = self.steps
        text = f"{figure} of {self.metric}, limit {limit}: {count.bad} of {count.test.n} steps "
        text += f"{first}..{last} {side} it"
        return Outcome(
            check="budget",
            verdict=count.verdict,
            summary=text + (f"; {', '.join(dirt)}" if dirt else "") + ended(evidence),
            figure=figure,
            limit=limit,
            headroom_pct=headroom(value, count.limit, below=self.below is not None),
            statistic=self.statistic,
            value=value,
            unit=unit,
            window=self.steps,
            n=count.test.n,
            interval=interval,
            detail=self._detail(count, interval, dirt),
        )

    def _interval(self, ordered: Sequence[float], test: QuantileTest) -> tuple[float, float]:
        """The limits at which the verdict turns: below the first FAIL, above the second PASS."""
        n = test.n
        few, many = test.passes_up_to, test.fails_from
        if self.below is not None:
            low = ordered[n - many] if many <= n else -math.inf
            return low, ordered[n - 1 - few] if few >= 0 else math.inf
        high = ordered[many - 1] if many <= n else math.inf
        return (ordered[few] if few >= 0 else -math.inf), high

    def _detail(
        self, count: _Count, interval: tuple[float, float], dirt: tuple[str, ...]
    ) -> tuple[str, ...]:
        test = count.test
        low, high = interval
        lines = [
            f"interval {short(low)} to {short(high)} at alpha {float(self.alpha):g} a side",
            f"passes up to {test.passes_up_to}, fails from {test.fails_from} of {test.n}"
            if test.fails_from <= test.n
            else f"passes up to {test.passes_up_to}, no count of {test.n} fails",
        ]
        if test.r > 0:
            lines.append(
                f"lag-1 autocorrelation {test.r:.2f}: {test.n} steps are worth {test.n_eff:.1f}"
            )
        return (*lines, *(f"contaminated: {text}" for text in dirt))


@lru_cache
def _alpha(confidence: float, looks: int) -> Fraction:
    return (1 - Fraction(str(confidence))) / looks


@lru_cache
def _bad_rate(statistic: str, *, below: bool) -> Fraction:
    return 1 - QUANTILES[statistic] if below else QUANTILES[statistic]


def contamination(seen: Collection[Sample]) -> tuple[str, ...]:
    """What slowed the device from outside while these samples were taken."""
    if not seen:
        return ()
    bits = 0
    for sample in seen:
        bits |= (sample.reasons or 0) & CONTAMINATING_REASONS
    foreign = max((sample.foreign_pids or 0 for sample in seen), default=0)
    strangers = (f"{foreign} foreign process(es) on the GPU",) if foreign else ()
    return (*reason_names(bits), *strangers)


def compiled_within(evidence: Evidence, steps: Window) -> tuple[str, ...]:
    """Whether anything was compiled in the run's process during a window of steps."""
    if not evidence.main.events:
        return ()
    at = [
        event.step
        for event in evidence.main.events
        if event.event == "compiled" and event.step is not None
    ]
    within = sorted({step for step in at if steps[0] <= step <= steps[1]})
    return (f"compiled during {len(within)} step(s), first {within[0]}",) if within else ()


def quantile(ordered: Sequence[float], q: Fraction) -> float:
    """The quantile of sorted samples, for people.

    Order statistic ceil(n q), or the mean of two where n q is a whole number: the median of an
    even count is the mean of the two middle values.
    """
    n = len(ordered)
    whole, rest = divmod(n * q.numerator, q.denominator)
    if rest:
        return ordered[whole]
    low, high = ordered[whole - 1], ordered[min(whole, n - 1)]
    return low if low == high else (low + high) / 2
