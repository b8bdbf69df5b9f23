"""`trace_spike`: within one path, the first slot whose statistic leaps against its neighbours."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from statistics import median
from typing import Annotated, Literal

from pydantic import AfterValidator, StrictStr

from pytest_gates.checks.base import (
    NO_GPUS,
    Outcome,
    Positive,
    Refusal,
    RunCheck,
    Verdict,
    words,
)
from pytest_gates.checks.declared import traces
from pytest_gates.checks.figures import several, short
from pytest_gates.checks.slots import Slot, place_misfit, slots_of
from pytest_gates.checks.window import unfinished
from pytest_gates.evidence import Evidence
from pytest_gates.model.config import Run
from pytest_gates.vocabulary import hint

LEAPING = ("std", "rms", "abs_max", "kurtosis")
"""Statistics that are positive and compare from layer to layer as a ratio."""
PRECURSOR = 2.0
"""A rise of this much in the same layer, before the leap, is told as its precursor."""
FEWEST_LAYERS = 4
_TO_SIGMA = 1.4826  # of a normal distribution: 1 / the 75th percentile of the standard one
_LEAST_SPREAD = 0.01  # of the median, so that layers that hardly differ make no rounding a leap


def _leaping(name: str) -> str:
    if name not in LEAPING:
        raise ValueError(f"no statistic that leaps; {hint(name, LEAPING)}")
    return name


@dataclass(frozen=True)
class Leap:
    """A slot against the same one of the layer before, and of all layers."""

    slot: Slot
    ratio: float
    """The statistic over that of the layer before."""
    deviations: float
    """Distance from the median over all layers, in robust standard deviations."""

    @property
    def told(self) -> str:
        """The slot with its ratio."""
        return f"{self.slot.at} {self.ratio:.3g}-fold"


@dataclass(frozen=True)
class Anomaly:
    """The first leap of a pass, and what led to it and followed from it."""

    first: Leap
    precursors: tuple[Leap, ...]
    """Rises in the same layer, earlier in the pass, that are not yet out of the ordinary."""
    cascade: tuple[Leap, ...]
    """Leaps later in the pass."""


def find_anomaly(
    slots: list[Slot], statistic: str, ratio: float, deviations: float
) -> Anomaly | None:
    """The first slot, in the order of the pass, that leaps by both measures."""
    leaps = list(_leaps(slots, statistic))
    wild = [one for one in leaps if one.ratio >= ratio and one.deviations >= deviations]
    if not wild:
        return None
    first = wild[0]
    before = leaps[: leaps.index(first)]
    precursors = [
        one for one in before if one.slot.layer == first.slot.layer and one.ratio >= PRECURSOR
    ]
    return Anomaly(first, tuple(precursors), tuple(wild[1:]))


def _leaps(slots: list[Slot], statistic: str) -> Iterator[Leap]:
    by_name: dict[str, dict[int, float]] = defaultdict(dict)
    for slot in slots:
        if statistic in slot.figures:
            by_name[slot.name][slot.layer] = slot.figures[statistic]
    for slot in slots:
        layers = by_name[slot.name]
        value, before = layers.get(slot.layer), layers.get(slot.layer - 1)
        if value is None or before is None or slot.layer < 1:
            continue
        middle = median(layers.values())
        spread = _TO_SIGMA * median(abs(one - middle) for one in layers.values())
        spread = max(spread, _LEAST_SPREAD * abs(middle)) or math.ulp(0.0)
        yield Leap(slot, value / before if before else math.inf, (value - middle) / spread)


class TraceSpike(RunCheck):
    """No slot's statistic leaps from one layer to the next and out of the range of all layers."""

    kind: Literal["trace_spike"]
    statistic: Annotated[StrictStr, AfterValidator(_leaping), words(LEAPING)] = "std"
    """What is compared: std, rms, abs_max or kurtosis."""
    ratio: Positive = 5.0
    """A leap is at least this many times the layer before."""
    deviations: Positive = 5.0
    """And at least this many robust standard deviations (1.4826 MAD) above the median layer."""

    def misfits(self, run: Run, gpus: Collection[str]) -> Iterator[Refusal]:
        """Runs that trace nothing."""
        if not traces(run):
            yield (), f"driver {run.driver} traces no slots"

    def slot_misfit(self, slot: str, runs: Mapping[str, Run]) -> str | None:
        """See `Check.slot_misfit`."""
        return place_misfit(slot, runs.values())

    def evaluate(self, evidence: Evidence, gpus: Mapping[str, float] = NO_GPUS) -> Outcome:
        """See `RunCheck.evaluate`. A non-finite figure is the worst leap there is."""
        slots = [slot for slot in slots_of(evidence) if self.statistic in slot.figures]
        broken = next((s for s in slots if not math.isfinite(s.figures[self.statistic])), None)
        if broken is not None:
            text = f"{self.statistic} of {broken.at} is {short(broken.figures[self.statistic])}"
            return replace(self._outcome(Verdict.FAIL, text, broken.at), slot=broken.at)
        found = find_anomaly(slots, self.statistic, self.ratio, self.deviations)
        if found is not None:
            told = self._outcome(Verdict.FAIL, *self._told(found))
            return replace(told, slot=found.first.slot.at)
        early = unfinished(evidence)
        layers = len({slot.layer for slot in slots if slot.layer >= 0})
        if early is None and layers < FEWEST_LAYERS:
            early = f"a leap needs {FEWEST_LAYERS} layers to stand out from, the trace has {layers}"
        if early is not None:
            return self._outcome(Verdict.INCONCLUSIVE, early)
        text = f"no leap of {self.statistic} in {len(slots)} slots of {layers} layers"
        return self._outcome(Verdict.PASS, text, "no leap")

    def _told(self, found: Anomaly) -> tuple[str, str, tuple[str, ...]]:
        first = found.first
        text = f"{self.statistic} of {first.told}, {first.deviations:.3g} deviations off"
        if found.precursors:
            text += f"; precursor {several([one.told for one in found.precursors])}"
        if found.cascade:
            text += f"; cascade {several([one.told for one in found.cascade])}"
        detail = tuple(
            f"{word}: {one.told}, {one.deviations:.3g} deviations off"
            for word, leaps in (("precursor", found.precursors), ("cascade", found.cascade))
            for one in leaps
        )
        return text, first.told, detail

    def _outcome(
        self,
        verdict: Verdict,
        summary: str,
        figure: str | None = None,
        detail: tuple[str, ...] = (),
    ) -> Outcome:
        return Outcome(
            check="trace_spike",
            verdict=verdict,
            summary=summary,
            figure=figure,
            limit=f"< {short(self.ratio)}-fold or < {short(self.deviations)} deviations",
            statistic=self.statistic,
            detail=detail,
        )
