"""Samples of a window, and what keeps a window from being judged.

Every check takes its samples here, so that a run that ended early is never judged silently.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

from pytest_gates.checks.base import Window
from pytest_gates.checks.declared import shape_of
from pytest_gates.evidence import TELEMETRY_GAP, Evidence, Sample, Series
from pytest_gates.model.telemetry import FINISHED_WINDOWS, METRICS


class Samples(NamedTuple):
    """The values of one metric over a window."""

    metric: str
    at: Sequence[int]
    """The step of each value; the line for metrics of epochs and slots."""
    values: tuple[float, ...]
    """NaN and infinities are values; nulls are not."""
    gap: str | None
    """Why the values are not all that the window should hold: nothing passes then."""

    @property
    def bounds(self) -> tuple[int, int] | None:
        """First and last step, or None if there is nothing."""
        return (self.at[0], self.at[-1]) if self.at else None


def samples(evidence: Evidence, metric: str, steps: Window | None = None) -> Samples:
    """The values of a metric: over the window or the whole run for steps, else over all lines."""
    scope = METRICS[metric].scope
    said = evidence.main
    if scope == "step":
        series = said.steps
        window = _whole_window(evidence, steps)
        if window is not None:
            return _whole(metric, series, window)
        places, gap = _rows(evidence, steps)
    else:
        others = {"epoch": said.epochs, "slot": said.slots, "parameter": said.parameters}
        series = others[scope]
        places, gap = [(row, row) for row in range(len(series))], unfinished(evidence)
        gap = gap or (None if places else f"the telemetry has no {scope} lines")
    column = _numbers(series, metric)
    if column is None:
        return _absent(metric, series, gap)
    return _samples(metric, [(at, column[row]) for row, at in places], gap)


def _samples(metric: str, found: Sequence[tuple[int, float | None]], gap: str | None) -> Samples:
    nulls = [at for at, value in found if value is None]
    if nulls and gap is None:
        gap = f"{metric} is null at {METRICS[metric].scope} {nulls[0]}" + _and_more(len(nulls) - 1)
    kept = [(at, value) for at, value in found if value is not None]
    return Samples(metric, tuple(at for at, _ in kept), tuple(value for _, value in kept), gap)


def _absent(metric: str, series: Series, gap: str | None) -> Samples:
    there = ", ".join(series.columns) or f"no {METRICS[metric].scope} lines"
    return Samples(metric, (), (), gap or f"no {metric} in the telemetry; there are {there}")


def _whole_window(evidence: Evidence, steps: Window | None) -> tuple[range, int] | None:
    """The steps of a window and the row of its first, if the telemetry says each once, in order.

    So it is in nearly all evidence, and thousands of gates are judged many times as fast. None:
    look closer, something is missing or doubled.
    """
    first_step = evidence.main.first_of_unbroken
    if first_step is None or unfinished(evidence) is not None:
        return None
    last_step = first_step + len(evidence.main.steps) - 1
    first, last = steps or (_first_step(evidence), _last_step(evidence, last_step))
    if not first_step <= first <= last <= last_step:
        return None
    return range(first, last + 1), first - first_step


def _whole(metric: str, series: Series, window: tuple[range, int]) -> Samples:
    steps, row = window
    column = _numbers(series, metric)
    if column is None:
        return _absent(metric, series, None)
    values = column[row : row + len(steps)]
    if None in values:
        return _samples(metric, list(zip(steps, values, strict=True)), None)
    return Samples(metric, steps, values, None)  # type: ignore[arg-type]  # no None, just seen


def _and_more(count: int) -> str:
    return f" and {count} more" if count else ""


def _numbers(series: Series, metric: str) -> tuple[float | None, ...] | None:
    column = series.columns.get(metric)
    if column is None:
        return None
    assert not isinstance(next(iter(column), None), str), f"{metric} is a column of names"
    return column  # type: ignore[return-value]  # just asserted


def unfinished(evidence: Evidence) -> str | None:
    """Why the absence of something in this run's telemetry proves nothing, or None."""
    if evidence.status in FINISHED_WINDOWS:
        gap = evidence.main.facts.get(TELEMETRY_GAP)
        return gap if isinstance(gap, str) else None
    because = f": {evidence.reason}" if evidence.reason else ""
    return f"run ended {evidence.status} after {len(evidence.main.steps)} steps{because}"


def ended(evidence: Evidence) -> str:
    """Text that shows how a run ended, to be put behind a summary; empty for COMPLETED."""
    return "" if evidence.status == "COMPLETED" else f"; the run ended {evidence.status}"


def _rows(evidence: Evidence, steps: Window | None) -> tuple[list[tuple[int, int]], str | None]:
    """(row, step) of each step in the window, and why they are not the whole window."""
    indices = evidence.main.step_rows
    if not indices:
        return [], unfinished(evidence) or "the telemetry has no steps"
    first, last = steps or (_first_step(evidence), _last_step(evidence, indices[-1][1]))
    said = len(evidence.main.steps)
    rows = [(row, step) for row, step in indices if first <= step <= last]
    gap = unfinished(evidence)
    if gap is None and [step for _, step in rows] != list(range(first, last + 1)):
        asked, there = last - first + 1, [step for _, step in rows]
        gap = (
            f"run ended {evidence.status} after {said} steps; the window {first}..{last} has "
            f"{len(set(there))} of its {asked} steps, each once and in order"
        )
        if any(after <= before for before, after in pairwise(there)):
            gap = (
                f"the window {first}..{last} tells steps twice or out of order: {len(there)} lines "
                f"for {len(set(there))} of its {asked} steps"
            )
    return rows, gap


def _first_step(evidence: Evidence) -> int:
    """Where a run began: at 0, or behind the checkpoint that it continued."""
    resumed = evidence.main.facts.get("resumed_at_step")
    return resumed if isinstance(resumed, int) else 0


def _last_step(evidence: Evidence, said: int) -> int:
    """The run's last step: what it declares if it completed, else what it came to."""
    declared = shape_of(evidence.run).steps
    if any(event.event == "stopped_early" for event in evidence.main.events):
        return said
    return declared - 1 if declared is not None and evidence.status == "COMPLETED" else said


def training_span_ms(evidence: Evidence, steps: Window | None = None) -> tuple[float, float] | None:
    """When a window of steps began and ended, in ms since the process's start.

    From `at_ms` of the event `training_started` and the wall times after it; None if the run did
    not say them.
    """
    start = event_ms(evidence, "training_started")
    column = _numbers(evidence.main.steps, "wall_ms")
    if start is None or column is None or not column:
        return None
    first, last = steps or (0, len(column) - 1)
    walls = [value or 0.0 for value in column]
    return start + sum(walls[:first]), start + sum(walls[: last + 1])


def samples_during(evidence: Evidence, steps: Window) -> list[Sample]:
    """What the witness saw while a window of steps may have lasted; all, where that is unknown.

    Validations lie between steps and are in no wall time: the window may have ended later by all
    the time that no step accounts for.
    """
    seen = evidence.witness.samples
    if not seen:
        return []
    window, whole = training_span_ms(evidence, steps), training_span_ms(evidence)
    if window is None or whole is None:
        return list(seen)
    finished = event_ms(evidence, "run_finished")
    slack = max(0.0, finished - whole[1]) if finished is not None else 0.0
    return [sample for sample in seen if window[0] <= sample.at_ms <= window[1] + slack]


def event_ms(evidence: Evidence, name: str) -> float | None:
    """When an event first occurred, in ms since the process's start; None if that is not said."""
    for event in evidence.main.events:
        if event.event == name:
            at_ms = event.detail.get("at_ms")
            return float(at_ms) if isinstance(at_ms, int | float) else None
    return None


def resolved_device(evidence: Evidence) -> str | None:
    """The device that the run says it got; None if it never said."""
    facts: Mapping[str, object] = evidence.main.facts
    device = facts.get("device_resolved")
    return device if isinstance(device, str) else None
