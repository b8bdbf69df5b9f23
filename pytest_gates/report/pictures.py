"""The pictures of a gate: what each kind of check looks at, drawn from its evidence."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pytest_gates.checks.base import Check
from pytest_gates.checks.bounds import Bounded
from pytest_gates.checks.budget import Budget
from pytest_gates.checks.declared import shape_of
from pytest_gates.checks.descent import Descent
from pytest_gates.checks.figures import short
from pytest_gates.checks.layer_statistics import LayerStatistics
from pytest_gates.checks.monotone import Monotone
from pytest_gates.checks.residency import Residency
from pytest_gates.checks.schedule import Schedule
from pytest_gates.checks.trace_parity import TraceParity
from pytest_gates.checks.trace_spike import TraceSpike
from pytest_gates.evidence import Evidence
from pytest_gates.model.telemetry import METRICS
from pytest_gates.report.draw import (
    WIDTH,
    Picture,
    color,
    domain,
    finite,
    layer,
    mark,
    named_line,
    quantity,
    svg,
    thinned,
)
from pytest_gates.report.grids import heat_map, parameter_map
from pytest_gates.report.memory import memory
from pytest_gates.report.series import by_step

BINS = 28
PLOT = WIDTH - 150
"""Leaves room for the distribution beside the steps."""


def pictures(check: Check, observed: Mapping[str, Any], evidence: Evidence) -> Iterator[Picture]:
    """What people would rather look at than read, of one check over one execution."""
    if isinstance(check, Budget):
        yield from _step_times(check, observed, evidence)
    elif isinstance(check, Descent):
        yield from _loss(check, observed, evidence)
    elif isinstance(check, Residency):
        yield from memory(evidence)
    elif isinstance(check, Bounded) and METRICS[check.metric].scope == "slot":
        yield from heat_map(check.metric, evidence)
    elif isinstance(check, Bounded | Monotone | Schedule):
        yield from by_step(check, evidence)
    elif isinstance(check, LayerStatistics):
        yield from parameter_map(check.metric, check.step, evidence)
    elif isinstance(check, TraceSpike):
        yield from heat_map(check.statistic, evidence)
    elif isinstance(check, TraceParity):
        yield from heat_map("rel_l2" if check.direction == "backward" else "own_rel_l2", evidence)


def _points(evidence: Evidence, metric: str) -> list[tuple[float, float]]:
    columns = evidence.main.steps.columns
    return finite(zip(columns.get("step", ()), columns.get(metric, ()), strict=False))


def _titled(metric: str) -> str:
    unit = METRICS[metric].unit
    return f"{metric} ({unit})" if unit else metric


# --- budget --------------------------------------------------------------------------------------


def _step_times(
    check: Budget, observed: Mapping[str, Any], evidence: Evidence
) -> Iterator[Picture]:
    points = _points(evidence, check.metric)
    first, last = check.steps
    inside = [y for x, y in points if first <= x <= last]
    limit = check.limits
    if isinstance(limit, dict):
        gpu = evidence.host.gpu
        limit = limit.get(gpu.name, math.nan) if gpu else math.nan
    if not inside or not math.isfinite(limit):
        return
    low, high = min(*inside, limit), max(*inside, limit)
    scale = domain(low, high)
    bottom, top = scale["domain"]
    shown = [(x, y) for x, y in points if bottom <= y <= top]
    axis = quantity("y", _titled(check.metric), scale=scale)
    told = "upper" if check.below is not None else "lower"
    named = f"limit {short(limit)} {METRICS[check.metric].unit}"
    steps = {
        "width": PLOT,
        "height": 210,
        "layer": [
            *_interval(observed, (points[0][0], points[-1][0]), scale),
            *_series(shown, (first, last), axis),
            *named_line(limit, named, "limit", axis, PLOT, under=limit > (top + bottom) / 2),
        ],
    }
    distribution = _distribution(inside, limit, scale)
    hidden = len(points) - len(shown)
    caption = f"The line is the {told} limit, the band the interval."
    if hidden:
        caption += f" {hidden} steps outside the window lie beyond the picture."
    both = {"hconcat": [steps, distribution], "spacing": 12}
    yield Picture(
        f"{check.metric} by step, and its distribution over steps {first} to {last}",
        caption,
        svg({**both, "resolve": {"scale": {"y": "shared"}}}),
        str(observed.get("summary", "")),
    )


def _series(
    points: Sequence[tuple[float, float]], window: tuple[int, int], axis: Mapping[str, Any]
) -> Iterator[Any]:
    """Steps of the window in full colour, the others faded."""
    parts = (
        ([p for p in points if p[0] <= window[0]], 0.35),
        ([p for p in points if window[0] <= p[0] <= window[1]], 1.0),
        ([p for p in points if p[0] >= window[1]], 0.35),
    )
    for part, opacity in parts:
        if len(part) > 1:
            drawn = mark("line", "accent", strokeWidth=1.25, opacity=opacity, strokeJoin="round")
            x = quantity("x", "step", scale={"nice": False, "zero": False})
            yield layer(thinned(part), drawn, x=x, y=axis)


def _interval(
    observed: Mapping[str, Any], span: tuple[float, float], scale: Mapping[str, Any]
) -> Iterator[Any]:
    found = observed.get("interval")
    if found is None:
        return
    bottom, top = scale["domain"]
    low, high = (min(max(float(end), bottom), top) for end in found)
    band = {"x": span[0], "x2": span[1], "y": low, "y2": high}
    drawn = mark("rect", "accent", opacity=0.16)
    x = quantity("x", "step", scale={"nice": False, "zero": False})
    yield layer([band], drawn, x=x, x2={"field": "x2"}, y={"field": "y", "type": "quantitative"},
                y2={"field": "y2"})  # fmt: skip


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
        "height": 210,
        "layer": [
            layer(bars, drawn, x=x, x2={"field": "x2"}, y=y,
                  y2={"field": "y2"}),
            layer([{"y": limit}], mark("rule", "limit", strokeWidth=1.5), y=y),
        ],
    }  # fmt: skip


# --- descent -------------------------------------------------------------------------------------


def _loss(check: Descent, observed: Mapping[str, Any], evidence: Evidence) -> Iterator[Picture]:
    points = _points(evidence, check.metric)
    if len(points) < 2:  # noqa: PLR2004 - a line has two ends
        return
    architecture = shape_of(evidence.run).architecture
    start = math.log(architecture.vocab) if architecture and check.start_tolerance else None
    values = [y for _, y in points] + ([start] if start is not None else [])
    scale = domain(min(values), max(values))
    y = quantity("y", _titled(check.metric), scale=scale)
    x = quantity("x", "step", scale={"nice": False, "zero": False})
    layers: list[Any] = []
    if start is not None and architecture is not None:
        text = f"ln({architecture.vocab}) = {start:.2f}"
        layers += named_line(start, text, "mute", y, WIDTH)
    layers.append(layer(thinned(points), mark("line", "accent", strokeWidth=1.5), x=x, y=y))
    layers += _wedge(observed, points, x, y)
    caption = (
        "The dark line is the slope, the wedge its interval." if observed.get("interval") else ""
    )
    yield Picture(
        f"{check.metric} by step, with the slope's interval",
        caption,
        svg({"width": WIDTH, "height": 220, "layer": layers}),
        str(observed.get("summary", "")),
    )


def _wedge(
    observed: Mapping[str, Any],
    points: Sequence[tuple[float, float]],
    x: Mapping[str, Any],
    y: Mapping[str, Any],
) -> Iterator[Any]:
    """The slope through the middle of the window, and the steepest and flattest it may be."""
    interval, slope, window = (observed.get(key) for key in ("interval", "value", "window"))
    if not interval or slope is None or not window:
        return
    inside = [point for point in points if window[0] <= point[0] <= window[1]]
    middle = math.fsum(point[0] for point in inside) / len(inside)
    mean = math.fsum(point[1] for point in inside) / len(inside)
    bottom, top = (float(end) for end in y["scale"]["domain"])

    def at(step: float, rate: float) -> float:
        return min(max(mean + rate * (step - middle), bottom), top)

    ends = sorted((float(interval[0]), float(interval[1])))
    steps = (window[0], middle, window[1])
    area = [{"x": s, "y": at(s, ends[0]), "y2": at(s, ends[1])} for s in steps]
    yield layer(area, mark("area", "ink", opacity=0.14), x=x, y=y, y2={"field": "y2"})
    line = [{"x": s, "y": at(s, float(slope))} for s in (window[0], window[1])]
    yield layer(line, mark("line", "ink", strokeWidth=1.25), x=x, y=y)
