"""`schedule`: the learning rate that each step used, against its closed form."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Annotated, Literal

from pydantic import Field, WithJsonSchema

from pytest_gates.checks.base import NO_GPUS, Number, Outcome, Refusal, RunCheck, Verdict, Window
from pytest_gates.checks.declared import window_misfits
from pytest_gates.checks.figures import short
from pytest_gates.checks.window import ended, samples
from pytest_gates.evidence import Evidence
from pytest_gates.model.config import PretrainRun, Run
from pytest_gates.model.schedule import learning_rate

Share = Annotated[
    Number,
    Field(gt=0, lt=1),
    WithJsonSchema({"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1}),
]


class Schedule(RunCheck):
    """The learning rate of every step is that of linear warm-up and cosine decay.

    The closed form is computed from the declared run alone, never from what the run says.
    """

    kind: Literal["schedule"]
    steps: Window | None = None
    """First and last step; the whole run if left out."""
    tolerance: Share = 1e-6
    """Largest relative difference; the rate is kept in single precision on the device."""
    warmup_at_most: Share | None = None
    """Largest share of the run's steps that the warm-up may take."""
    last_at_most: Share | None = None
    """Largest share of the peak that may be left in the run's last step."""

    def misfits(self, run: Run, gpus: Collection[str]) -> Iterator[Refusal]:
        """Runs that are not the built-in trainer's."""
        if not isinstance(run, PretrainRun):
            yield (), f"driver {run.driver} declares no schedule"
        else:
            yield from window_misfits(run, self.steps)

    def evaluate(self, evidence: Evidence, gpus: Mapping[str, float] = NO_GPUS) -> Outcome:
        """See `RunCheck.evaluate`. A wrong rate fails even a run that ended early."""
        run = evidence.run
        assert isinstance(run, PretrainRun), "refused when the contract was loaded"
        found = samples(evidence, "lr", self.steps)
        worst, wrong = 0.0, []
        for step, value in zip(found.at, found.values, strict=True):
            expected = learning_rate(step, run.steps, run.optimizer)
            difference = abs(value - expected) / expected if expected else abs(value)
            if not difference <= self.tolerance:
                text = f"lr is {short(value)} at step {step}, its closed form {short(expected)}"
                wrong.append(text)
            worst = max(worst, difference)
        wrong += self._shape(run)
        if wrong:
            verdict = Verdict.FAIL
            text = wrong[0] + (f"; {len(wrong) - 1} more" if len(wrong) > 1 else "")
        elif found.gap is not None:
            verdict, text = Verdict.INCONCLUSIVE, found.gap
        else:
            verdict = Verdict.PASS
            text = f"{len(found.values)} learning rates follow their closed form{ended(evidence)}"
        return Outcome(
            check="schedule",
            verdict=verdict,
            summary=text,
            figure=f"max {short(worst)} relative difference",
            limit=f"<= {short(self.tolerance)}",
            value=worst,
            window=self.steps,
            n=len(found.values),
            detail=tuple(wrong[:10]),
        )

    def _shape(self, run: PretrainRun) -> Iterator[str]:
        warmup = run.optimizer.warmup_steps / run.steps
        if self.warmup_at_most is not None and not warmup <= self.warmup_at_most:
            limit = short(self.warmup_at_most)
            yield f"the warm-up takes {short(warmup)} of the run, limit {limit}"
        last = learning_rate(run.steps - 1, run.steps, run.optimizer) / float(run.optimizer.lr)
        if self.last_at_most is not None and not last <= self.last_at_most:
            yield f"{short(last)} of the peak is left at the end, limit {short(self.last_at_most)}"
