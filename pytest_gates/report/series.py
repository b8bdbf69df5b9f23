"""Pictures of a metric by step: values between bounds, directions, and the schedule of a rate."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from pytest_gates.checks.base import Window
from pytest_gates.checks.bounds import Bounded
from pytest_gates.checks.figures import short
from pytest_gates.checks.monotone import Monotone
from pytest_gates.checks.schedule import Schedule
from pytest_gates.checks.window import samples
from pytest_gates.evidence import Evidence
from pytest_gates.model.config import PretrainRun
from pytest_gates.model.schedule import learning_rate
from pytest_gates.model.telemetry import METRICS
from pytest_gates.report.draw import (
    WIDTH,
    Picture,
    domain,
    finite,
    layer,
    mark,
    named_line,
    quantity,
    svg,
    thinned,
)

HEIGHT = 180
FEWEST = 2
"""Points of a line."""
FAR = 20.0
"""Times the spread of the values that a bound may lie off before it is named and not drawn."""


def by_step(check: Bounded | Monotone | Schedule, evidence: Evidence) -> Iterator[Picture]:
    """What the check looked at, with what it was held against."""
    metric = "lr" if isinstance(check, Schedule) else check.metric
    points = _points(evidence, metric, check.steps)
    if len(points) < FEWEST or metric == "step":  # steps by step are a straight line
        return
    scope = METRICS[metric].scope
    title = f"{metric} by {scope}"
    if isinstance(check, Schedule):
        yield from _schedule(title, points, evidence)
    elif isinstance(check, Bounded):
        yield _bounded(title, check, points)
    else:
        caption = f"{check.direction.capitalize()} from value to value is what is claimed."
        yield Picture(title, caption, _drawn(metric, points, []))


def _points(evidence: Evidence, metric: str, steps: Window | None) -> list[tuple[float, float]]:
    found = samples(evidence, metric, steps)
    return finite(zip(found.at, found.values, strict=True))


def _bounded(title: str, check: Bounded, points: Sequence[tuple[float, float]]) -> Picture:
    low, high = min(y for _, y in points), max(y for _, y in points)
    reach = FAR * (high - low or abs(high) or 1.0)
    near: list[tuple[str, float]] = []
    far: list[tuple[str, float]] = []
    for word, bound in (("above", check.above), ("below", check.below)):
        if bound is None:
            continue
        within = low - reach <= bound <= high + reach
        (near if within else far).append((word, float(bound)))
    caption = "; ".join(f"the limit {word} {short(bound)} lies beyond the picture"
                        for word, bound in far)  # fmt: skip
    lone = "The line is the limit." if len(near) == 1 else "The lines are the limits."
    caption = f"{caption[:1].upper()}{caption[1:]}." if caption else lone
    lines = [(bound, f"{word} {short(bound)}") for word, bound in near]
    return Picture(title, caption, _drawn(check.metric, points, lines))


def _schedule(
    title: str, points: Sequence[tuple[float, float]], evidence: Evidence
) -> Iterator[Picture]:
    run = evidence.run
    if not isinstance(run, PretrainRun):
        return
    closed = [(x, learning_rate(int(x), run.steps, run.optimizer)) for x, _ in points]
    caption = "The broad line is the closed form, the thin one what the run used."
    yield Picture(title, caption, _drawn("lr", points, [], beneath=closed))


def _drawn(
    metric: str,
    points: Sequence[tuple[float, float]],
    lines: Sequence[tuple[float, str]],
    beneath: Sequence[tuple[float, float]] = (),
) -> str:
    values = [y for _, y in (*points, *beneath)] + [bound for bound, _ in lines]
    unit = METRICS[metric].unit
    y = quantity("y", f"{metric} ({unit})" if unit else metric,
                 scale=domain(min(values), max(values)))  # fmt: skip
    x = quantity("x", METRICS[metric].scope, scale={"nice": False, "zero": False})
    layers: list[Any] = []
    if beneath:
        broad = mark("line", "accent", strokeWidth=6, opacity=0.3)
        layers.append(layer(thinned(beneath), broad, x=x, y=y))
    layers.append(layer(thinned(points), mark("line", "accent", strokeWidth=1.25), x=x, y=y))
    middle = (min(values) + max(values)) / 2
    for bound, text in lines:
        layers += named_line(bound, text, "limit", y, WIDTH, under=bound > middle)
    return svg({"width": WIDTH, "height": HEIGHT, "layer": layers})
