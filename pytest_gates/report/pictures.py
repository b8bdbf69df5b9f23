"""The pictures of a gate: what each kind of check looks at, drawn from its evidence."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pytest_gates.checks.anatomy import Anatomy
from pytest_gates.checks.base import Check
from pytest_gates.checks.bounds import Bounded
from pytest_gates.checks.budget import Budget
from pytest_gates.checks.declared import shape_of
from pytest_gates.checks.descent import Descent
from pytest_gates.checks.layer_statistics import LayerStatistics
from pytest_gates.checks.memory import Memory
from pytest_gates.checks.monotone import Monotone
from pytest_gates.checks.residency import Residency
from pytest_gates.checks.schedule import Schedule
from pytest_gates.checks.trace_parity import TraceParity
from pytest_gates.checks.trace_spike import TraceSpike
from pytest_gates.evidence import Evidence
from pytest_gates.model.telemetry import METRICS
from pytest_gates.report.distribution import step_times
from pytest_gates.report.draw import (
    WIDTH,
    Picture,
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
from pytest_gates.report.grids import heat_map, parameter_map
from pytest_gates.report.parts import formula, parts_of_steps
from pytest_gates.report.series import by_step
from pytest_gates.report.witnessed import witnessed


def pictures(check: Check, observed: Mapping[str, Any], evidence: Evidence) -> Iterator[Picture]:
    """What people would rather look at than read, of one check over one execution."""
    if isinstance(check, Budget):
        yield from step_times(check, observed, evidence)
    elif isinstance(check, Descent):
        yield from _loss(check, observed, evidence)
    elif isinstance(check, Residency):
        yield from witnessed(evidence)
    elif isinstance(check, Memory):
        yield from formula(evidence)
    elif isinstance(check, Anatomy):
        yield from parts_of_steps(evidence)
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


def _loss(check: Descent, observed: Mapping[str, Any], evidence: Evidence) -> Iterator[Picture]:
    points = points_of(evidence, check.metric)
    if len(points) < 2:  # noqa: PLR2004 - a line has two ends
        return
    architecture = shape_of(evidence.run).architecture
    start = math.log(architecture.vocab) if architecture and check.start_tolerance else None
    values = [y for _, y in points] + ([start] if start is not None else [])
    scale = domain(min(values), max(values))
    y = quantity("y", titled(check.metric), scale=scale)
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
