"""`trace_spike`: within one path, the first slot whose statistic leaps against its neighbours."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
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
    """A slot against the same one of the layer before (of the first, after) and of all layers."""

    slot: Slot
    ratio: float
    """The statistic over that of the neighbouring layer."""
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


@dataclass(frozen=True)
class Look:
    """What the slots of a trace that tell a statistic show of it; at most one of the rest."""

    slots: tuple[Slot, ...]
    broken: Slot | None = None
    """The first one whose figure is not finite, or negative: the worst leap there is."""
    anomaly: Anomaly | None = None
    undecided: str | None = None
    """Why it means nothing that no slot leaps."""

    @property
    def layers(self) -> int:
        """Number of layers that tell it."""
        return len({slot.layer for slot in self.slots if slot.layer >= 0})


def look(slots: Iterable[Slot], statistic: str, ratio: float, deviations: float) -> Look:
    """Look for the first slot of a trace that is out of the ordinary."""
    seen = Look(tuple(slot for slot in slots if statistic in slot.figures))
    broken = next((s for s in seen.slots if not 0 <= s.figures[statistic] < math.inf), None)
    if broken is not None:
        return replace(seen, broken=broken)
    found = find_anomaly(list(seen.slots), statistic, ratio, deviations)
    if found is not None:
        return replace(seen, anomaly=found)
    if seen.layers < FEWEST_LAYERS:
        why = f"a leap needs {FEWEST_LAYERS} layers to stand out from, the trace has {seen.layers}"
        return replace(seen, undecided=why)
    gap = _gap(seen.slots)
    return seen if gap is None else replace(seen, undecided=f"the trace tells no {statistic} {gap}")


def _gap(slots: tuple[Slot, ...]) -> str | None:
    """The first place that is left out between layers that are there, in words."""
    layers = [slot.layer for slot in slots if slot.layer >= 0]
    there = {slot.at for slot in slots}
    names = dict.fromkeys(slot.name for slot in slots if slot.layer >= 0)
    for layer in range(min(layers), max(layers) + 1):
        missing = [name for name in names if f"layer {layer} {name}" not in there]
        if missing:
            return f"of layer {layer} {several(missing)}"
    return None


def told_of_broken(slot: Slot, statistic: str) -> str:
    """A figure that none can be, for people."""
    return f"{statistic} of {slot.at} is {short(slot.figures[statistic])}"


def _leaps(slots: list[Slot], statistic: str) -> Iterator[Leap]:
    by_name: dict[str, dict[int, float]] = defaultdict(dict)
    for slot in slots:
        if statistic in slot.figures:
            by_name[slot.name][slot.layer] = slot.figures[statistic]
    for slot in slots:
        layers = by_name[slot.name]
        value = layers.get(slot.layer)
        neighbour = _neighbour(slot.layer, layers)
        if value is None or neighbour is None:
            continue
        before = layers[neighbour]
        middle = median(layers.values())
        spread = _TO_SIGMA * median(abs(one - middle) for one in layers.values())
        spread = max(spread, _LEAST_SPREAD * abs(middle)) or math.ulp(0.0)
        yield Leap(slot, value / before if before else math.inf, (value - middle) / spread)


def _neighbour(layer: int, told: Collection[int]) -> int | None:
    """The layer before; for the first one, which has none, the layer after."""
    if layer < 0:
        return None
    earlier = max((one for one in told if 0 <= one < layer), default=None)
    return min((one for one in told if one > layer), default=None) if earlier is None else earlier


class TraceSpike(RunCheck):
    """No slot's statistic leaps from one layer to the next and out of the range of all layers."""

    kind: Literal["trace_spike"]
    statistic: Annotated[StrictStr, AfterValidator(_leaping), words(LEAPING)] = "std"
    """What is compared: std, rms, abs_max or kurtosis."""
    ratio: Positive = 5.0
    """A leap is at least this many times the layer before; in the first layer, the one after."""
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
        """See `RunCheck.evaluate`. A figure that none can be is the worst leap there is."""
        seen = look(slots_of(evidence), self.statistic, self.ratio, self.deviations)
        if seen.broken is not None:
            text = told_of_broken(seen.broken, self.statistic)
            return replace(self._outcome(Verdict.FAIL, text, seen.broken.at), slot=seen.broken.at)
        if seen.anomaly is not None:
            told = self._outcome(Verdict.FAIL, *self._told(seen.anomaly))
            return replace(told, slot=seen.anomaly.first.slot.at)
        early = unfinished(evidence) or seen.undecided
        if early is not None:
            return self._outcome(Verdict.INCONCLUSIVE, early)
        text = f"no leap of {self.statistic} in {len(seen.slots)} slots of {seen.layers} layers"
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
