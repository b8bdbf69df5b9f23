"""`descent`: a loss truly falls, and the run could have done the work that says so."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from typing import ClassVar, Literal

from pytest_gates.checks.base import (
    NO_GPUS,
    Confidence,
    Outcome,
    Positive,
    Refusal,
    RunCheck,
    StepMetric,
    Unbounded,
    Verdict,
    Window,
)
from pytest_gates.checks.ceilings import device_flops
from pytest_gates.checks.declared import first_unknown, shape_of, undeclared, window_misfits
from pytest_gates.checks.figures import headroom, short
from pytest_gates.checks.strictness import Compare, less, more
from pytest_gates.checks.trend import FEWEST, Slope, slope_interval
from pytest_gates.checks.window import Samples, ended, samples
from pytest_gates.evidence import Evidence
from pytest_gates.model.config import Run


class Descent(RunCheck):
    """A loss falls over a window of steps: its slope is significantly below a limit.

    Two bounds catch a fake: the loss of step 0 lies near ln(vocabulary), and no step is faster
    than its floating-point operations allow on the device.
    """

    kind: Literal["descent"]
    metric: StepMetric = "train_loss"
    """What falls."""
    steps: Window | None = None
    """First and last step, both included; the whole run if left out."""
    slope_below: Unbounded = 0.0
    """The slope a step must be below this; infinity would let anything but NaN pass."""
    confidence: Confidence = 0.95
    """One-sided confidence of the slope's bounds."""
    drop: Positive | None = None
    """Least fall from the mean of the window's first tenth to the mean of its last."""
    start_tolerance: Positive | None = 0.1
    """Share by which the loss of step 0 may differ from ln(vocabulary); null: not from scratch."""

    STRICTER: ClassVar[Mapping[str, Compare]] = {
        "slope_below": less,
        "confidence": more,
        "drop": more,
        "start_tolerance": less,
    }

    def misfits(self, run: Run, gpus: Collection[str]) -> Iterator[Refusal]:
        """Windows too short or too long, and files that declare or tell too little."""
        yield from window_misfits(run, self.steps)
        declared = shape_of(run).steps
        n = self.steps[1] - self.steps[0] + 1 if self.steps else declared
        if n is not None and n < FEWEST:
            yield ("steps",), f"a slope needs {FEWEST} steps; the window has {n}"
        if run.driver in {"recorded", "command"}:
            yield from undeclared(run, "model", "seq_len", "batch_size", "device")
            yield from first_unknown(run, "wall_ms", self.steps)

    def evaluate(self, evidence: Evidence, gpus: Mapping[str, float] = NO_GPUS) -> Outcome:
        """See `RunCheck.evaluate`."""
        found = samples(evidence, self.metric, self.steps)
        plain = Outcome("descent", Verdict.FAIL, "", window=found.bounds, n=len(found.values))
        if not all(map(math.isfinite, found.values)):
            pairs = zip(found.at, found.values, strict=True)
            odd = [at for at, value in pairs if not math.isfinite(value)]
            return replace(plain, summary=f"{self.metric} is not finite at step {odd[0]}")
        gap = found.gap or self._too_few(found)
        if gap is not None:
            return replace(plain, verdict=Verdict.INCONCLUSIVE, summary=gap)
        slope = slope_interval(found.values, self.confidence)
        parts = (
            self._slope(slope),
            self._drop(found.values),
            self._start(evidence),
            self._floor(evidence, gpus),
        )
        verdict = Verdict.worst([part[0] for part in parts])
        said = [text for part, text in parts if part is verdict and text]
        outcome = self._outcome(plain, found, slope, verdict, "; ".join(said) + ended(evidence))
        drop_alone = parts[1][0] is Verdict.FAIL and parts[0][0] is not Verdict.FAIL
        return self._by_drop(outcome, found.values) if drop_alone else outcome

    def _outcome(
        self, plain: Outcome, found: Samples, slope: Slope, verdict: Verdict, text: str
    ) -> Outcome:
        first, last = found.values[0], found.values[-1]
        fall = f"{self.metric} {short(first)} to {short(last)}, a fall of {first - last:.4f}"
        return replace(
            plain,
            verdict=verdict,
            summary=f"{text}; {fall}",
            figure=f"slope {slope.slope:.3g} a step",
            limit=f"< {short(self.slope_below)}",
            statistic="slope",
            value=slope.slope,
            interval=(slope.low, slope.high),
        )

    def _by_drop(self, outcome: Outcome, values: tuple[float, ...]) -> Outcome:
        """The same outcome with the figure that decided it."""
        assert self.drop is not None
        fall = _fall(values)
        return replace(
            outcome,
            figure=f"fall {fall:.4f}",
            limit=f">= {short(self.drop)}",
            headroom_pct=headroom(fall, self.drop, below=False),
            statistic="fall",
            value=fall,
            interval=None,
        )

    @staticmethod
    def _too_few(found: Samples) -> str | None:
        n = len(found.values)
        return None if n >= FEWEST else f"a slope needs {FEWEST} steps; there are {n}"

    def _slope(self, slope: Slope) -> tuple[Verdict, str]:
        bounds = f"slope {slope.slope:.3g} a step ({slope.low:.3g} to {slope.high:.3g})"
        if slope.high < self.slope_below:
            return Verdict.PASS, f"{bounds} is below {short(self.slope_below)}"
        if slope.low >= self.slope_below:
            return Verdict.FAIL, f"{bounds} is not below {short(self.slope_below)}"
        return Verdict.INCONCLUSIVE, f"{bounds} may or may not be below {short(self.slope_below)}"

    def _drop(self, values: tuple[float, ...]) -> tuple[Verdict, str]:
        if self.drop is None:
            return Verdict.PASS, ""
        fall = _fall(values)
        text = f"the mean falls by {fall:.4f} from first to last tenth, at least {short(self.drop)}"
        if fall >= self.drop:
            return Verdict.PASS, text
        return Verdict.FAIL, f"{text} is asked for"

    def _start(self, evidence: Evidence) -> tuple[Verdict, str]:
        vocab = shape_of(evidence.run).vocab
        if self.start_tolerance is None or self.metric != "train_loss":
            return Verdict.PASS, ""
        if vocab is None:
            return Verdict.INCONCLUSIVE, "the run declares no model, so no loss to start from"
        start = samples(evidence, self.metric, (0, 0))
        if start.gap is not None:
            return Verdict.INCONCLUSIVE, f"no loss of step 0: {start.gap}"
        expected = math.log(vocab)
        off = abs(start.values[0] - expected) / expected
        text = f"step 0 is {off * 100:.1f} % off ln({vocab}) = {expected:.4f}"
        # The comparison is written so that a NaN fails.
        near = off <= self.start_tolerance
        return (Verdict.PASS if near else Verdict.FAIL), text

    def _floor(self, evidence: Evidence, gpus: Mapping[str, float]) -> tuple[Verdict, str]:
        flops = shape_of(evidence.run).step_flops
        ceiling = device_flops(evidence, gpus)
        walls = samples(evidence, "wall_ms", self.steps)
        unknown = None
        if flops is None:
            unknown = "the run does not declare model, seq_len and batch_size"
        elif isinstance(ceiling, str):
            unknown = ceiling
        elif walls.gap is not None:
            unknown = walls.gap
        if unknown is not None or flops is None or isinstance(ceiling, str):
            return Verdict.INCONCLUSIVE, f"no floor for the time of a step: {unknown}"
        floor_ms = flops / ceiling * 1000
        fast = [
            pair for pair in zip(walls.at, walls.values, strict=True) if not pair[1] >= floor_ms
        ]
        if fast:
            step, wall = fast[0]
            text = f"step {step} took {short(wall)} ms, but its {flops / 1e12:.3g} TFLOP"
            return Verdict.FAIL, f"{text} take at least {short(floor_ms)} ms on the device"
        return Verdict.PASS, f"no step is faster than {short(floor_ms)} ms, its FLOPs' floor"


def _fall(values: tuple[float, ...]) -> float:
    """From the mean of the first tenth to the mean of the last."""
    tenth = len(values) // 10
    return (math.fsum(values[:tenth]) - math.fsum(values[-tenth:])) / tenth
