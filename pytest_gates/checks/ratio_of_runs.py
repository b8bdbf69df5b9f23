"""`ratio_of_runs`: one run against another, taking turns on one device."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from fractions import Fraction
from typing import Annotated, Literal, Self

from pydantic import Field, StrictStr, model_validator

from pytest_gates.checks.base import (
    Confidence,
    Need,
    Outcome,
    Positive,
    Refusal,
    RunsCheck,
    StepMetric,
    Verdict,
    Window,
)
from pytest_gates.checks.binomial import bare_minimum, quantile_test
from pytest_gates.checks.budget import (
    RESERVE,
    SLOWED,
    compiled_within,
    contamination,
    quantile,
)
from pytest_gates.checks.declared import window_misfits
from pytest_gates.checks.figures import headroom, short
from pytest_gates.checks.window import ended, samples, samples_during
from pytest_gates.evidence import Evidence
from pytest_gates.model.config import PretrainRun, Run
from pytest_gates.model.telemetry import METRICS

_MEDIAN = Fraction(1, 2)


class RatioOfRuns(RunsCheck):
    """The median of the ratios A/B, step by step, is below (or above) a limit.

    Both runs are executed at once on one device and take turns of a few steps, so that what drifts
    drifts for both. The count of ratios on the bad side decides, as in `budget`. A device that was
    slowed from outside leaves the ratio open.
    """

    kind: Literal["ratio_of_runs"]
    of: tuple[StrictStr, StrictStr]
    """A and B, by name."""
    metric: StepMetric = "wall_ms"
    """What is measured once a step."""
    steps: Window
    """First and last step of the window, both included, fixed in advance."""
    below: Positive | None = None
    """Upper limit of the median ratio."""
    above: Positive | None = None
    """Lower limit of the median ratio."""
    confidence: Annotated[Confidence, Field()] = 0.95
    """One-sided confidence of a pass and of a fail."""

    @model_validator(mode="after")
    def _one_limit(self) -> Self:
        if (self.below is None) == (self.above is None):
            raise ValueError("give either below or above")
        if self.of[0] == self.of[1]:
            raise ValueError("a run has no ratio to itself; declare the second one with `from`")
        return self

    @property
    def alpha(self) -> Fraction:
        """Probability of error, exact."""
        return 1 - Fraction(str(self.confidence))

    def needs(self) -> tuple[Need, ...]:
        """The runs that are compared."""
        return tuple(Need(name) for name in self.of)

    def groups(self) -> tuple[tuple[str, ...], ...]:
        """The runs that take turns."""
        return (self.of,)

    def misfits(self, runs: Mapping[str, Run]) -> Iterator[Refusal]:
        """Windows too short or too long, drivers that cannot take turns, different devices."""
        n = self.steps[1] - self.steps[0] + 1
        needed = math.ceil(RESERVE * bare_minimum(_MEDIAN, self.alpha))
        if n < needed:
            yield ("steps",), f"the median at confidence {self.confidence} needs {needed} steps"
        devices = set()
        for name, one in runs.items():
            yield from window_misfits(one, self.steps)
            if isinstance(one, PretrainRun):
                devices.add(one.device)
            else:
                yield ("of",), f"run {name} of driver {one.driver} cannot take turns"
        if len(devices) > 1:
            yield ("of",), f"the runs ask for different devices: {', '.join(sorted(devices))}"

    def evaluate(self, evidence: Mapping[str, tuple[Evidence, ...]]) -> Outcome:
        """See `RunsCheck.evaluate`."""
        pair = [evidence[name][0] for name in self.of if evidence.get(name)]
        plain = Outcome("ratio_of_runs", Verdict.BLOCKED, "", limit=self._limit, window=self.steps)
        if len(pair) < len(self.of):
            return replace(plain, summary=f"{len(pair)} of 2 executions are there")
        group = {one.group for one in pair}
        if len(group) > 1 or None in group:
            return replace(plain, summary="the executions did not take turns on one device")
        found = [samples(one, self.metric, self.steps) for one in pair]
        gap = found[0].gap or found[1].gap
        if gap is not None:
            return replace(plain, verdict=Verdict.INCONCLUSIVE, summary=gap)
        if any(not value > 0 for one in found for value in one.values):
            text = f"{self.metric} is not positive everywhere; it has no ratio"
            return replace(plain, verdict=Verdict.INCONCLUSIVE, summary=text)
        return self._judged(pair, [one.values for one in found])

    def _judged(self, pair: list[Evidence], values: list[tuple[float, ...]]) -> Outcome:
        limit = float(self.below if self.below is not None else self.above or 0)
        ratios = [a / b for a, b in zip(*values, strict=True)]
        bad = sum(not self._good(ratio, limit) for ratio in ratios)
        test = quantile_test(ratios, _MEDIAN, self.alpha)
        dirt = self._contamination(pair)
        verdict = Verdict.INCONCLUSIVE
        if not dirt and test.passes(bad):
            verdict = Verdict.PASS
        elif not dirt and test.fails(bad):
            verdict = Verdict.FAIL
        value = quantile(sorted(ratios), _MEDIAN)
        a, b = self.of
        text = f"median {short(value)} of {self.metric} of {a} over {b}, limit {self._limit}: "
        text += f"{bad} of {len(ratios)} ratios on its bad side"
        return Outcome(
            check="ratio_of_runs",
            verdict=verdict,
            summary=text + (f"; {', '.join(dirt)}" if dirt else "") + "".join(map(ended, pair)),
            figure=f"median ratio {short(value)}",
            limit=self._limit,
            headroom_pct=headroom(value, limit, below=self.below is not None),
            statistic="median",
            value=value,
            window=self.steps,
            n=len(ratios),
            detail=(
                f"passes up to {test.passes_up_to}, fails from {test.fails_from} of {test.n}",
                *(f"contaminated: {one}" for one in dirt),
            ),
        )

    def _good(self, ratio: float, limit: float) -> bool:
        return ratio < limit if self.below is not None else ratio > limit

    @property
    def _limit(self) -> str:
        return f"< {short(self.below)}" if self.below is not None else f"> {short(self.above or 0)}"

    def _contamination(self, pair: list[Evidence]) -> tuple[str, ...]:
        if METRICS[self.metric].unit not in SLOWED:
            return ()
        # The partner is on the device too, and is no stranger there.
        seen = [
            replace(sample, foreign_pids=max((sample.foreign_pids or 0) - 1, 0))
            for one in pair
            for sample in samples_during(one, self.steps)
        ]
        compiled = [text for one in pair for text in compiled_within(one, self.steps)]
        return (*contamination(seen), *compiled)
