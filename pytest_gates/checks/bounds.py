"""Checks of plain values: `bounded`, `finite`, `required_fields`, `not_constant`."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from pytest_gates.checks.base import (
    NO_GPUS,
    MetricName,
    Number,
    Outcome,
    Refusal,
    RunCheck,
    StepMetric,
    Verdict,
    Window,
)
from pytest_gates.checks.declared import shape_of, traces, window_misfits
from pytest_gates.checks.figures import headroom, several, short
from pytest_gates.checks.strictness import Change, Compare, less, more, more_of, unproven, wider
from pytest_gates.checks.window import ended, resolved_device, samples, unfinished
from pytest_gates.evidence import Evidence
from pytest_gates.model.config import ForwardRun, PretrainRun, ProbeRun, Run
from pytest_gates.model.telemetry import METRICS, REQUIRED_STEP_FIELDS

CHOSEN = {"all": slice(None), "first": slice(1), "last": slice(-1, None)}
CPU_LACKS = frozenset({"gpu_util_pct", "gpu_ms", "reserved_mib"})
"""Metrics that a run on the CPU cannot give: null there."""


def scope_misfits(run: Run, metrics: Collection[str], steps: Window | None) -> Iterator[Refusal]:
    """Why the run has no such metrics, or no such window."""
    scopes = {METRICS[metric].scope for metric in metrics}
    if steps is not None and scopes != {"step"}:
        yield ("steps",), "a window of steps goes with metrics of steps alone"
    if "step" in scopes:
        yield from window_misfits(run, steps)
    if "epoch" in scopes and isinstance(run, ForwardRun | ProbeRun):
        yield (), f"driver {run.driver} has no epochs"
    if "parameter" in scopes and not (isinstance(run, PretrainRun) and run.statistics):
        yield (), "the run tells no parameter's statistics; give it `statistics: [step, ...]`"
    if "slot" in scopes and not traces(run):
        yield (), f"driver {run.driver} traces no slots"


class Bounded(RunCheck):
    """Every value of a metric, or its first or last, lies between bounds that are not met."""

    kind: Literal["bounded"]
    metric: MetricName
    """A metric of steps, epochs or slots."""
    steps: Window | None = None
    """For a metric of steps: first and last step; the whole run if left out."""
    above: Number | None = None
    """Every value is greater than this."""
    below: Number | None = None
    """Every value is less than this."""
    at: Literal["all", "first", "last"] = "all"
    """Which values are held against the bounds."""

    STRICTER: ClassVar[Mapping[str, Compare]] = {
        "above": more,
        "below": less,
        "steps": wider,
        "at": lambda _, now: Change.TIGHTENED if now == "all" else Change.LOOSENED,
    }

    def _stricter(self, field: str) -> Compare:
        # The first or last value of another window is another value.
        return unproven if field == "steps" and self.at != "all" else super()._stricter(field)

    @model_validator(mode="after")
    def _bounds(self) -> Self:
        if self.above is None and self.below is None:
            raise ValueError("give above, below or both")
        if self.above is not None and self.below is not None and self.above >= self.below:
            raise ValueError(f"nothing is above {self.above} and below {self.below}")
        return self

    def misfits(self, run: Run, gpus: Collection[str]) -> Iterator[Refusal]:
        """Metrics or windows that the run does not have."""
        yield from scope_misfits(run, (self.metric,), self.steps)

    def evaluate(self, evidence: Evidence, gpus: Mapping[str, float] = NO_GPUS) -> Outcome:
        """See `RunCheck.evaluate`. A value out of bounds fails even a run that ended early."""
        verdict, gap, values, out = self._decided(evidence)
        limit = self._limit()
        if out:
            text = f"{self.metric} is {short(out[0][1])} at {METRICS[self.metric].scope} "
            summary = f"{text}{out[0][0]}, limit {limit}: {len(out)} of {len(values)} values out"
            return self._outcome(verdict, summary, [value for _, value in out])
        if gap is not None:
            return self._outcome(verdict, gap, [])
        summary = f"{len(values)} values of {self.metric} {limit}{ended(evidence)}"
        return self._outcome(verdict, summary, values)

    def verdict_of(self, evidence: Evidence, gpus: Mapping[str, float] = NO_GPUS) -> Verdict:
        """See `RunCheck.verdict_of`."""
        return self._decided(evidence)[0]

    def _decided(
        self, evidence: Evidence
    ) -> tuple[Verdict, str | None, Sequence[float], list[tuple[int, float]]]:
        """The verdict, why values are missing, the values, and those out of bounds."""
        found = samples(evidence, self.metric, self.steps)
        chosen = CHOSEN[self.at]
        if found.gap is not None and self.at != "all":
            chosen = slice(0)
        values = found.values[chosen]
        out = self._out(found.at[chosen], values)
        undecided = Verdict.PASS if found.gap is None else Verdict.INCONCLUSIVE
        return Verdict.FAIL if out else undecided, found.gap, values, out

    def _out(self, at: Sequence[int], values: Sequence[float]) -> list[tuple[int, float]]:
        # NaN is out: one of the bounds is given, and NaN is on neither side of it.
        pairs, above, below = zip(at, values, strict=True), self.above, self.below
        if above is None:
            assert below is not None
            return [pair for pair in pairs if not pair[1] < below]
        if below is None:
            return [pair for pair in pairs if not pair[1] > above]
        return [pair for pair in pairs if not above < pair[1] < below]

    def _limit(self) -> str:
        unit = METRICS[self.metric].unit
        parts = [f"> {short(self.above)} {unit}" if self.above is not None else "",
                 f"< {short(self.below)} {unit}" if self.below is not None else ""]  # fmt: skip
        return " and ".join(part.strip() for part in parts if part)

    def _outcome(self, verdict: Verdict, summary: str, values: Sequence[float]) -> Outcome:
        below = self.below is not None
        limit = self.below if self.below is not None else self.above
        assert limit is not None
        if any(map(math.isnan, values)):
            worst: float | None = math.nan
        else:
            worst = (max if below else min)(values, default=None)
        return Outcome(
            check="bounded",
            verdict=verdict,
            summary=summary,
            figure=None if worst is None else f"{'max' if below else 'min'} {short(worst)}",
            limit=self._limit(),
            headroom_pct=None if worst is None else headroom(worst, limit, below=below),
            statistic="max" if below else "min",
            value=worst,
            unit=METRICS[self.metric].unit,
            window=self.steps,
            n=len(values) or None,
        )


class Finite(RunCheck):
    """No value of the metrics is NaN or infinite, and none is missing."""

    kind: Literal["finite"]
    metrics: Annotated[tuple[MetricName, ...], Field(min_length=1)]
    """Metrics of steps, epochs or slots."""
    steps: Window | None = None
    """For metrics of steps: first and last step; the whole run if left out."""

    STRICTER: ClassVar[Mapping[str, Compare]] = {"metrics": more_of, "steps": wider}

    def misfits(self, run: Run, gpus: Collection[str]) -> Iterator[Refusal]:
        """Metrics or windows that the run does not have."""
        yield from scope_misfits(run, self.metrics, self.steps)

    def evaluate(self, evidence: Evidence, gpus: Mapping[str, float] = NO_GPUS) -> Outcome:
        """See `RunCheck.evaluate`. A value that is not finite fails even a run that ended early."""
        found = [samples(evidence, metric, self.steps) for metric in self.metrics]
        odd = [
            f"{one.metric} is {short(value)} at {METRICS[one.metric].scope} {at}"
            for one in found
            for at, value in zip(one.at, one.values, strict=True)
            if not math.isfinite(value)
        ]
        count = sum(len(one.values) for one in found)
        gaps = [one.gap for one in found if one.gap is not None]
        if odd:
            verdict, text = Verdict.FAIL, several(odd)
        elif gaps:
            verdict, text = Verdict.INCONCLUSIVE, gaps[0]
        else:
            verdict = Verdict.PASS
            text = f"{count} values of {', '.join(self.metrics)} are finite{ended(evidence)}"
        return Outcome(
            check="finite",
            verdict=verdict,
            summary=text,
            figure=f"{len(odd)} of {count} not finite",
            limit="0",
            window=self.steps,
            n=count,
        )


class RequiredFields(RunCheck):
    """Every step says every field; null only where the device cannot give the metric."""

    kind: Literal["required_fields"]
    fields: Annotated[tuple[StepMetric, ...], Field(min_length=1)] = REQUIRED_STEP_FIELDS
    """Metrics of steps that must be there."""

    STRICTER: ClassVar[Mapping[str, Compare]] = {"fields": more_of}

    def misfits(self, run: Run, gpus: Collection[str]) -> Iterator[Refusal]:
        """Drivers without steps."""
        yield from window_misfits(run, None)

    def evaluate(self, evidence: Evidence, gpus: Mapping[str, float] = NO_GPUS) -> Outcome:
        """See `RunCheck.evaluate`. A missing field fails even a run that ended early."""
        device = resolved_device(evidence) or shape_of(evidence.run).device
        lacks = CPU_LACKS if device == "cpu" else frozenset[str]()
        columns = evidence.main.steps.columns
        n = len(evidence.main.steps)
        missing = []
        for field in self.fields:
            column = columns.get(field)
            if column is None:
                missing.append(field)
            elif field not in lacks and None in column:
                missing.append(f"{field} (null at row {column.index(None)})")
        whole = samples(evidence, "step").gap if n else unfinished(evidence)
        if n and missing:
            verdict = Verdict.FAIL
            text = f"{several(missing, 10)} missing; there are {', '.join(columns)}"
        elif whole is not None or not n:
            verdict, text = Verdict.INCONCLUSIVE, whole or "the telemetry has no steps"
        else:
            verdict = Verdict.PASS
            text = f"{len(self.fields)} fields in each of {n} steps{ended(evidence)}"
        return Outcome(
            check="required_fields",
            verdict=verdict,
            summary=text,
            figure=f"{len(missing)} of {len(self.fields)} fields missing",
            limit="0",
            n=n,
        )


class NotConstant(RunCheck):
    """A metric takes more than one value: a placeholder would not."""

    kind: Literal["not_constant"]
    metric: MetricName
    """A metric of steps, epochs or slots."""
    steps: Window | None = None
    """For a metric of steps: first and last step; the whole run if left out."""

    def misfits(self, run: Run, gpus: Collection[str]) -> Iterator[Refusal]:
        """Metrics or windows that the run does not have, and windows of one step."""
        yield from scope_misfits(run, (self.metric,), self.steps)
        if self.steps is not None and self.steps[0] == self.steps[1]:
            yield ("steps",), "one step alone is always constant"

    def evaluate(self, evidence: Evidence, gpus: Mapping[str, float] = NO_GPUS) -> Outcome:
        """See `RunCheck.evaluate`."""
        found = samples(evidence, self.metric, self.steps)
        odd = [at for at, value in zip(found.at, found.values, strict=True) if math.isnan(value)]
        distinct = len(set(found.values) - {value for value in found.values if math.isnan(value)})
        n = len(found.values)
        if odd:
            verdict, text = Verdict.FAIL, f"{self.metric} is NaN at {odd[0]}"
        elif found.gap is not None:
            verdict, text = Verdict.INCONCLUSIVE, found.gap
        elif distinct > 1:
            verdict = Verdict.PASS
            text = f"{distinct} distinct values of {self.metric} in {n}{ended(evidence)}"
        elif n > 1:
            verdict = Verdict.FAIL
            text = f"all {n} values of {self.metric} are {short(found.values[0])}"
        else:
            verdict, text = Verdict.INCONCLUSIVE, f"one value of {self.metric} alone"
        return Outcome(
            check="not_constant",
            verdict=verdict,
            summary=text,
            figure=f"{distinct} distinct",
            limit="> 1",
            window=self.steps,
            n=n,
        )
