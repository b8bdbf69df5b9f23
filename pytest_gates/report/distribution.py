"""A metric by step with its limit and interval, and its distribution beside it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pytest_gates.checks.budget import Budget
from pytest_gates.checks.figures import short
from pytest_gates.evidence import Evidence
from pytest_gates.model.telemetry import METRICS
from pytest_gates.report.draw import (
    WIDTH,
    Picture,
    color,
    domain,
    layer,
    mark,
    named_line,
    points_of,
    quantity,
    svg,
    thinned,
    titled,
)

BINS = 28
HEIGHT = 210
PLOT = WIDTH - 150
"""Leaves room for the distribution beside the steps."""
STEP_SCALE = {"nice": False, "zero": False}

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True, kw_only=True)
class Held:
    """Values by step, and what they are held against."""

    title: str
    """Of the axis."""
    points: Points
    window: tuple[int, int]
    limit: float
    unit: str = ""
    interval: Sequence[float] | None = None

    @property
    def inside(self) -> list[float]:
        """The values that count."""
        first, last = self.window
        return [y for x, y in self.points if first <= x <= last]

    @property
    def scale(self) -> dict[str, Any]:
        """From the lowest to the highest of the values that count and the limit."""
        return domain(min(*self.inside, self.limit), max(*self.inside, self.limit))

    @property
    def shown(self) -> list[tuple[float, float]]:
        """The points that lie within the picture."""
        bottom, top = self.scale["domain"]
        return [(x, y) for x, y in self.points if bottom <= y <= top]


def step_times(check: Budget, observed: Mapping[str, Any], evidence: Evidence) -> Iterator[Picture]:
    """The metric of a budget, step by step."""
    limit = check.limits
    if isinstance(limit, dict):
        gpu = evidence.host.gpu
        limit = limit.get(gpu.name, math.nan) if gpu else math.nan
    held = Held(
        title=titled(check.metric),
        points=points_of(evidence, check.metric),
        window=check.steps,
        limit=float(limit),
        unit=METRICS[check.metric].unit,
        interval=observed.get("interval"),
    )
    if not held.inside or not math.isfinite(held.limit):
        return
    told = "upper" if check.below is not None else "lower"
    hidden = len(held.points) - len(held.shown)
    caption = f"The line is the {told} limit, the band the interval."
    if hidden:
        caption += f" {hidden} steps outside the window lie beyond the picture."
    first, last = check.steps
    yield Picture(
        f"{check.metric} by step, and its distribution over steps {first} to {last}",
        caption,
        svg(by_step_and_distribution(held)),
        str(observed.get("summary", "")),
    )


def by_step_and_distribution(held: Held) -> dict[str, Any]:
    """The drawing: steps at the left, a histogram that shares their axis at the right."""
    scale = held.scale
    bottom, top = scale["domain"]
    axis = quantity("y", held.title, scale=scale)
    name = f"limit {short(held.limit)} {held.unit}".rstrip()
    over = held.limit > (top + bottom) / 2
    steps = {
        "width": PLOT,
        "height": HEIGHT,
        "layer": [
            *_band(held, scale),
            *_series(held.shown, held.window, axis),
            *named_line(held.limit, name, "limit", axis, PLOT, under=over),
        ],
    }
    both = {"hconcat": [steps, _distribution(held.inside, held.limit, scale)], "spacing": 12}
    return {**both, "resolve": {"scale": {"y": "shared"}}}


def _series(points: Points, window: tuple[int, int], axis: Mapping[str, Any]) -> Iterator[Any]:
    """Steps of the window in full colour, the others faded."""
    parts = (
        ([p for p in points if p[0] <= window[0]], 0.35),
        ([p for p in points if window[0] <= p[0] <= window[1]], 1.0),
        ([p for p in points if p[0] >= window[1]], 0.35),
    )
    for part, opacity in parts:
        if len(part) > 1:
            drawn = mark("line", "accent", strokeWidth=1.25, opacity=opacity, strokeJoin="round")
            x = quantity("x", "step", scale=STEP_SCALE)
            yield layer(thinned(part), drawn, x=x, y=axis)


def _band(held: Held, scale: Mapping[str, Any]) -> Iterator[Any]:
    if held.interval is None:
        return
    bottom, top = scale["domain"]
    low, high = (min(max(float(end), bottom), top) for end in held.interval)
    band = {"x": held.points[0][0], "x2": held.points[-1][0], "y": low, "y2": high}
    x = quantity("x", "step", scale=STEP_SCALE)
    yield layer([band], mark("rect", "accent", opacity=0.16), x=x, x2={"field": "x2"},
                y={"field": "y", "type": "quantitative"}, y2={"field": "y2"})  # fmt: skip


def _distribution(
    values: Sequence[float], limit: float, scale: Mapping[str, Any]
) -> dict[str, Any]:
    """A histogram lying on its side, so that it shares the axis of the steps."""
    bottom, top = scale["domain"]
    width = (top - bottom) / BINS
    counts = [0] * BINS
    for value in values:
        counts[min(int((value - bottom) / width), BINS - 1)] += 1
    bars = [
        {"y": bottom + index * width, "y2": bottom + (index + 1) * width, "x": 0, "x2": count}
        for index, count in enumerate(counts)
        if count
    ]
    y = quantity("y", None, scale=scale, axis=None)
    x = quantity("x", "steps", axis={"tickCount": 3, "format": "d"})
    drawn = mark("rect", "accent", stroke=color("paper"), strokeWidth=0.5)
    return {
        "width": 140,
        "height": HEIGHT,
        "layer": [
            layer(bars, drawn, x=x, x2={"field": "x2"}, y=y,
                  y2={"field": "y2"}),
            layer([{"y": limit}], mark("rule", "limit", strokeWidth=1.5), y=y),
        ],
    }  # fmt: skip
