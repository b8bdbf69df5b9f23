"""Pictures of checks over several executions: ratios step by step, and where executions differ."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from typing import Any

from pytest_gates.checks.base import RunsCheck
from pytest_gates.checks.binomial import in_order, quantile_test
from pytest_gates.checks.equal_runs import EqualRuns, Repeated
from pytest_gates.checks.figures import short
from pytest_gates.checks.ratio_of_runs import RatioOfRuns
from pytest_gates.checks.window import samples
from pytest_gates.evidence import Evidence
from pytest_gates.model.telemetry import METRICS
from pytest_gates.report.distribution import Held, by_step_and_distribution
from pytest_gates.report.draw import (
    WIDEST_LETTER,
    WIDTH,
    Picture,
    domain,
    finite,
    layer,
    mark,
    points_of,
    quantity,
    svg,
    thinned,
    titled,
)

MEDIAN = Fraction(1, 2)
MOST_METRICS = 2
"""Of more metrics the first ones are drawn; the check's own words name every difference."""
LONGEST = 20
"""Letters of a name at the end of a line."""
NAMES = 6 + LONGEST * WIDEST_LETTER
"""Pixels at the right for the names of the lines."""
PLOT = WIDTH - NAMES
PAINTS = ("accent", "limit", "good", "warn")
"""Of the executions, in order; more than these are not told apart by eye."""

Executions = Mapping[str, tuple[Evidence, ...]]
Points = list[tuple[float, float]]


def pictures_of_runs(
    check: RunsCheck, observed: Mapping[str, Any], executions: Executions
) -> Iterator[Picture]:
    """What people would rather look at than read, of one check over executions by their run."""
    if isinstance(check, RatioOfRuns):
        yield from _ratios(check, observed, executions)
    elif isinstance(check, EqualRuns):
        yield from _side_by_side(check, observed, executions)


# --- ratio_of_runs -------------------------------------------------------------------------------


def _ratios(
    check: RatioOfRuns, observed: Mapping[str, Any], executions: Executions
) -> Iterator[Picture]:
    pair = [executions[name][0] for name in check.of if executions.get(name)]
    if len(pair) < len(check.of):
        return
    a, b = (dict(points_of(one, check.metric)) for one in pair)
    ratios = [(step, a[step] / b[step]) for step in a if b.get(step, 0.0) > 0]
    inside = [ratio for step, ratio in ratios if check.steps[0] <= step <= check.steps[1]]
    if len(inside) < 2:  # noqa: PLR2004 - a line has two ends
        return
    limit = float(check.below if check.below is not None else check.above or 0)
    held = Held(
        title=f"{check.metric} of {check.of[0]} over that of {check.of[1]}",
        points=ratios,
        window=check.steps,
        limit=limit,
        interval=_interval(inside, check.alpha),
    )
    told = "upper" if check.below is not None else "lower"
    first, last = check.steps
    caption = f"Each point is a pair of neighbours; the line is the {told} limit"
    caption += ", the band the interval of the median." if held.interval else "."
    hidden = len(held.points) - len(held.shown)
    if hidden:
        caption += f" Pairs outside the window that lie beyond the picture: {hidden}."
    yield Picture(
        f"Ratio of {check.metric} by step, and its distribution over steps {first} to {last}",
        caption,
        svg(by_step_and_distribution(held)),
        str(observed.get("summary", "")),
    )


def _interval(ratios: Sequence[float], alpha: Fraction) -> tuple[float, float] | None:
    """The limits at which the verdict would turn; None where no limit makes it pass or fail."""
    test = quantile_test(ratios, MEDIAN, alpha)
    ordered, n = in_order(tuple(ratios)), test.n
    if test.passes_up_to < 0 or test.fails_from > n:
        return None
    return ordered[n - test.fails_from], ordered[n - 1 - test.passes_up_to]


# --- equal_runs ----------------------------------------------------------------------------------


def _side_by_side(
    check: EqualRuns, observed: Mapping[str, Any], executions: Executions
) -> Iterator[Picture]:
    sides = _named(check, executions)
    drawable = [
        name for name in check.metrics
        if METRICS[name].scope in {"step", "epoch"} and not name.endswith("_hash")
    ]  # fmt: skip
    for metric in drawable[:MOST_METRICS]:
        yield from _metric(check, metric, sides, str(observed.get("summary", "")))


def _named(check: EqualRuns, executions: Executions) -> dict[str, Evidence]:
    """The executions by what people call them, as far as they can be told apart."""
    if isinstance(check.of, Repeated):
        many = executions.get(check.of.run, ())
        named = {f"execution {number}": one for number, one in enumerate(many, 1)}
    else:
        named = {name: executions[name][0] for name in check.of if executions.get(name)}
    return dict(list(named.items())[: len(PAINTS)])


def _metric(
    check: EqualRuns, metric: str, sides: Mapping[str, Evidence], found: str
) -> Iterator[Picture]:
    told: dict[str, Points] = {}
    for name, one in sides.items():
        said = samples(one, metric, check.steps)
        told[name] = finite(zip(said.at, said.values, strict=True))
    if len(told) < 2 or any(len(points) < 2 for points in told.values()):  # noqa: PLR2004 - pairs of lines
        return
    reference, *others = told
    base = dict(told[reference])
    apart = {
        name: [(at, value - base[at]) for at, value in told[name] if at in base] for name in others
    }
    differing = {name: sum(delta != 0 for _, delta in points) for name, points in apart.items()}
    scope = METRICS[metric].scope
    values = _panel(told, titled(metric), scope, 140)
    differences = _panel(
        apart, f"difference to {reference}", scope, 90, level=True, paints=PAINTS[1:]
    )
    caption = ". ".join(_said(name, reference, apart[name], differing[name], scope)
                        for name in others)  # fmt: skip
    yield Picture(
        f"{metric} of {' and '.join(told)} by {scope}, and their difference",
        f"{caption}.",
        svg({"vconcat": [values, differences], "spacing": 18}),
        found,
    )


def _said(name: str, reference: str, apart: Points, differing: int, scope: str) -> str:
    if not differing:
        return f"At each of {len(apart)} {scope}s {reference} and {name} say the same"
    largest = max(apart, key=lambda point: abs(point[1]))
    return (
        f"At {differing} of {len(apart)} {scope}s {reference} and {name} differ, most at "
        f"{scope} {largest[0]:g}, by {short(largest[1])}"
    )


def _panel(
    lines: Mapping[str, Points], title: str, scope: str, height: int, *,
    level: bool = False, paints: Sequence[str] = PAINTS,
) -> dict[str, Any]:  # fmt: skip
    """Lines with their names at the right; `level`: with zero in the middle."""
    values = [y for points in lines.values() for _, y in points]
    low, high = min(values), max(values)
    if level:
        reach = max(abs(low), abs(high)) or 1.0
        low, high = -reach, reach
    axis = {"tickCount": 3} if level else {}
    y = quantity("y", title, scale=domain(low, high), axis=axis)
    x = quantity("x", scope, scale={"nice": False, "zero": False})
    layers: list[Any] = []
    if level:
        layers.append(layer([{"y": 0.0}], mark("rule", "mute", strokeDash=[2, 3]), y=y))
    # Lines that coincide are seen through each other: the first one is the broadest.
    for place, points in enumerate(lines.values()):
        width = 1.5 if level else 1.25 + 3.0 * (len(lines) - 1 - place)
        opacity = 1.0 if level or place == len(lines) - 1 else 0.45
        drawn = mark("line", paints[place], strokeWidth=width, opacity=opacity)
        layers.append(layer(thinned(points), drawn, x=x, y=y))
    layers += _labels(lines, paints, height, domain(low, high)["domain"])
    return {"width": PLOT, "height": height, "layer": layers}


def _labels(
    lines: Mapping[str, Points], paints: Sequence[str], height: int, ends: Sequence[float]
) -> Iterator[Any]:
    """A name at the end of each line, moved apart where lines end together."""
    bottom, top = ends
    placed: list[float] = []
    # Browsers set letters wider than the drawing assumes; a name must not lose its last ones.
    edge = {"x": {"value": PLOT + NAMES}, "y": {"value": 0}}
    yield layer([{}], mark("point", "paper", opacity=0, size=1), **edge)
    order = sorted(lines, key=lambda name: -lines[name][-1][1])
    for name in order:
        wanted = height * (top - lines[name][-1][1]) / (top - bottom)
        at = max(wanted, placed[-1] + 15) if placed else wanted
        placed.append(at)
        drawn = mark("text", paints[list(lines).index(name)], align="left")
        shown = name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…"
        yield layer([{"t": shown}], drawn, x={"value": PLOT + 6},
                    y={"value": at}, text={"field": "t"})  # fmt: skip
