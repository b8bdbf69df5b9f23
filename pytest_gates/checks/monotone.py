"""`monotone`: a metric never turns back."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from itertools import pairwise
from typing import Literal

from pytest_gates.checks.base import (
    NO_GPUS,
    MetricName,
    NotNegative,
    Outcome,
    Refusal,
    RunCheck,
    Verdict,
    Window,
)
from pytest_gates.checks.bounds import scope_misfits
from pytest_gates.checks.figures import several, short
from pytest_gates.checks.window import ended, samples
from pytest_gates.evidence import Evidence
from pytest_gates.model.config import Run
from pytest_gates.model.telemetry import METRICS

Direction = Literal["increasing", "decreasing", "non_decreasing", "non_increasing"]


class Monotone(RunCheck):
    """Every value lies beyond the one before, or, for the `non_` directions, not behind it."""

    kind: Literal["monotone"]
    metric: MetricName
    """A metric of steps or epochs."""
    direction: Direction = "increasing"
    """Where it goes."""
    steps: Window | None = None
    """For a metric of steps: first and last step; the whole run if left out."""
    slack: NotNegative = 0
    """How far a value may fall back behind the one before, in the metric's unit."""

    def misfits(self, run: Run, gpus: Collection[str]) -> Iterator[Refusal]:
        """Metrics or windows that the run does not have, and windows of one step."""
        yield from scope_misfits(run, (self.metric,), self.steps)
        if self.steps is not None and self.steps[0] == self.steps[1]:
            yield ("steps",), "one step alone goes nowhere"

    def evaluate(self, evidence: Evidence, gpus: Mapping[str, float] = NO_GPUS) -> Outcome:
        """See `RunCheck.evaluate`. A value that turns back fails even a run that ended early."""
        found = samples(evidence, self.metric, self.steps)
        turns = [
            f"{self.metric} goes from {short(a)} to {short(b)} at {METRICS[self.metric].scope} {at}"
            for (a, b), at in zip(pairwise(found.values), found.at[1:], strict=False)
            if not self._goes_on(a, b)
        ]
        count = max(len(found.values) - 1, 0)
        if turns:
            verdict, text = Verdict.FAIL, several(turns)
        elif found.gap is not None or not count:
            verdict = Verdict.INCONCLUSIVE
            text = found.gap or f"{len(found.values)} values of {self.metric} have no direction"
        else:
            verdict = Verdict.PASS
            text = f"{count} steps from value to value of {self.metric}, {self.direction}"
            text += ended(evidence)
        return Outcome(
            check="monotone",
            verdict=verdict,
            summary=text,
            figure=f"{len(turns)} of {count} turn back",
            limit=self.direction,
            window=self.steps,
            n=count or None,
        )

    def _goes_on(self, a: float, b: float) -> bool:
        if math.isnan(a) or math.isnan(b):
            return False
        ahead = b - a if self.direction in {"increasing", "non_decreasing"} else a - b
        strict = not self.direction.startswith("non_") and self.slack == 0
        return ahead > 0 if strict else ahead >= -self.slack
