"""`layer_statistics`: a parameter's statistics across the blocks of a model."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Literal, Self

from pydantic import Field, StrictInt, StrictStr, model_validator

from pytest_gates.checks.base import (
    NO_GPUS,
    MetricName,
    Number,
    Outcome,
    Positive,
    Refusal,
    RunCheck,
    Verdict,
)
from pytest_gates.checks.declared import shape_of
from pytest_gates.checks.figures import several, short
from pytest_gates.checks.window import ended, unfinished
from pytest_gates.evidence import Evidence
from pytest_gates.model.config import PretrainRun, Run
from pytest_gates.model.telemetry import METRICS


@dataclass(frozen=True)
class _Value:
    layer: int
    name: str
    value: float

    @property
    def place(self) -> str:
        return f"block {self.layer} {self.name}" if self.layer >= 0 else self.name


class LayerStatistics(RunCheck):
    """A statistic of parameters lies between bounds, and its blocks are within a ratio.

    The run must declare the step among its `statistics`.
    """

    kind: Literal["layer_statistics"]
    metric: MetricName
    """A metric of parameters: `gradient_norm`, `weight_std`, ..."""
    step: Annotated[StrictInt, Field(ge=0)] = 0
    """The step it was taken at."""
    over: Literal["all blocks", "all parameters"] = "all blocks"
    """Every parameter of every block, or those outside blocks too."""
    parameter: StrictStr | None = None
    """Only parameters of this name within their block, `mlp.down_proj.weight`."""
    above: Number | None = None
    """Every value is greater than this."""
    below: Number | None = None
    """Every value is less than this."""
    ratio_below: Positive | None = None
    """The largest value of a parameter over its smallest, across blocks, is less than this."""

    @model_validator(mode="after")
    def _claims(self) -> Self:
        if self.above is None and self.below is None and self.ratio_below is None:
            raise ValueError("give above, below or ratio_below")
        if METRICS[self.metric].scope != "parameter":
            known = [name for name, one in METRICS.items() if one.scope == "parameter"]
            raise ValueError(f"{self.metric} is no metric of parameters: {', '.join(known)}")
        return self

    def misfits(self, run: Run, gpus: Collection[str]) -> Iterator[Refusal]:
        """Runs that do not tell this step's statistics, and ratios over one block."""
        if not isinstance(run, PretrainRun) or self.step not in run.statistics:
            yield ("step",), f"the run does not declare step {self.step} among its `statistics`"
            return
        if self.ratio_below is not None and run.architecture.layers == 1:
            yield ("ratio_below",), "a model of one block has no ratio between blocks"

    def evaluate(self, evidence: Evidence, gpus: Mapping[str, float] = NO_GPUS) -> Outcome:
        """See `RunCheck.evaluate`. A block that says nothing decides nothing."""
        values = list(self._values(evidence))
        gap = self._gap(evidence, values)
        out = [
            f"{self.metric} of {one.place} is {short(one.value)}"
            for one in values
            if not self._within(one.value)
        ]
        ratios = self._ratios(values)
        out += [
            f"{self.metric} of {name} differs by a factor of {short(ratio)} between blocks"
            for name, ratio in ratios.items()
            if self.ratio_below is not None and not ratio < self.ratio_below
        ]
        worst = max(ratios.values(), default=None)
        if out:
            verdict, text = Verdict.FAIL, f"{several(out)}, limit {self._limit()}"
        elif gap is not None:
            verdict, text = Verdict.INCONCLUSIVE, gap
        else:
            verdict = Verdict.PASS
            text = f"{len(values)} values of {self.metric} {self._limit()}{ended(evidence)}"
        return Outcome(
            check="layer_statistics",
            verdict=verdict,
            summary=text,
            figure=self._figure(values, worst),
            limit=self._limit(),
            statistic="max/min" if self.ratio_below is not None else None,
            value=worst if self.ratio_below is not None else None,
            window=(self.step, self.step),
            n=len(values) or None,
            detail=tuple(out[:10]),
        )

    def _values(self, evidence: Evidence) -> Iterator[_Value]:
        columns = evidence.main.parameters.columns
        empty: tuple[None, ...] = ()
        rows = zip(
            columns.get("step", empty), columns.get("layer", empty), columns.get("name", empty),
            columns.get(self.metric, empty), strict=False,
        )  # fmt: skip
        for step, layer, name, value in rows:
            assert isinstance(layer, float)
            inside = layer >= 0 or (self.over == "all parameters" or self.parameter is not None)
            chosen = self.parameter in {None, name}
            if step == self.step and inside and chosen and isinstance(value, float):
                yield _Value(int(layer), str(name), value)

    def _gap(self, evidence: Evidence, values: list[_Value]) -> str | None:
        architecture = shape_of(evidence.run).architecture
        layers = architecture.layers if architecture is not None else 0
        silent = sorted(set(range(layers)) - {one.layer for one in values})
        if values and all(one.layer < 0 for one in values):
            silent = []  # a parameter outside blocks was asked for by name
        if not values:
            what = f"no {self.metric} of step {self.step} in the telemetry"
            return unfinished(evidence) or what
        return f"blocks {several(silent)} say nothing" if silent else None

    def _within(self, value: float) -> bool:
        if math.isnan(value):
            return False
        over = self.above is None or value > self.above
        return over and (self.below is None or value < self.below)

    def _ratios(self, values: list[_Value]) -> dict[str, float]:
        by_name: dict[str, list[float]] = {}
        for one in values:
            if one.layer >= 0:
                by_name.setdefault(one.name, []).append(abs(one.value))
        return {name: _ratio(found) for name, found in by_name.items() if len(found) > 1}

    def _limit(self) -> str:
        parts = (("> ", self.above), ("< ", self.below), ("max/min < ", self.ratio_below))
        return " and ".join(f"{word}{short(end)}" for word, end in parts if end is not None)

    def _figure(self, values: list[_Value], worst: float | None) -> str | None:
        if self.ratio_below is not None and worst is not None:
            return f"max/min {short(worst)}"
        if not values:
            return None
        ends = [one.value for one in values]
        return f"{short(min(ends))} to {short(max(ends))}"


def _ratio(values: list[float]) -> float:
    if any(math.isnan(value) for value in values):
        return math.nan
    low, high = min(values), max(values)
    if low == 0:
        return 1.0 if high == 0 else math.inf
    return high / low
