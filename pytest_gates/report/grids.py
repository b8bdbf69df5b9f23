"""Pictures of grids: a metric by layer and slot, and the verdicts of a gate over time."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pytest_gates.checks.figures import short
from pytest_gates.evidence import Evidence, Series
from pytest_gates.ledger import Record
from pytest_gates.report.draw import WIDEST_LETTER, WIDTH, Picture, color, layer, mark, svg

SHADES = 7
"""Shades of the heat map, `--h0` to `--h6`."""


def heat_map(metric: str, evidence: Evidence) -> Iterator[Picture]:
    """A metric of the forward path, one cell a layer and slot."""
    yield from _grid(metric, "slot", _cells(metric, "slot", evidence.main.slots))


def parameter_map(metric: str, step: int, evidence: Evidence) -> Iterator[Picture]:
    """A metric of the parameters at one step, one cell a layer and parameter."""
    cells = _cells(metric, "name", evidence.main.parameters, step)
    yield from _grid(metric, "parameter", cells)


def _grid(metric: str, what: str, cells: Sequence[_Cell]) -> Iterator[Picture]:
    values = sorted(cell.value for cell in cells)
    if not values or values[0] == values[-1]:
        return  # one shade shows nothing
    edges = _edges(values[0], values[-1])
    named = [*(f"to {edge:.3g}" for edge in edges), "above"]
    slots = list(dict.fromkeys(cell.name for cell in cells))
    # What lies outside the blocks comes last, wherever it was told.
    layers = sorted({cell.layer for cell in cells}, key=lambda one: (one < 0, one))
    shaded = [
        {"layer": cell.layer, "slot": cell.name, "shade": named[bisect_left(edges, cell.value)]}
        for cell in cells
    ]
    fill = {
        "field": "shade", "type": "ordinal", "title": metric, "sort": None,
        "scale": {"domain": named, "range": [color(f"h{index}") for index in range(SHADES)]},
        "legend": {"symbolType": "square", "symbolSize": 200, "symbolStrokeWidth": 0},
    }  # fmt: skip
    outside = "end" if what == "slot" else "rest"
    x = {"domain": False, "labelAngle": 0, "title": "layer", "labelOverlap": True,
         "labelExpr": f"datum.value < 0 ? '{outside}' : datum.value"}  # fmt: skip
    # Browsers set letters wider than the drawing assumes; a name must not lose its first ones.
    room = WIDEST_LETTER * max(map(len, slots))
    y = {"domain": False, "grid": False, "title": what, "labelLimit": 240, "minExtent": room}
    drawn = {
        "width": min(WIDTH - 190, 34 * len(layers)),
        "height": 18 * len(slots),
        **layer(
            shaded,
            mark("rect", "accent", stroke=color("paper"), strokeWidth=1),
            x={"field": "layer", "type": "ordinal", "sort": layers, "axis": x},
            y={"field": "slot", "type": "ordinal", "sort": slots, "axis": y},
            color=fill,
        ),
    }
    top = max(cells, key=lambda cell: cell.value)
    blocks = sum(one >= 0 for one in layers)
    where = f"layer {top.layer}, {top.name}" if top.layer >= 0 else top.name
    caption = (
        f"{metric} of {len(slots)} {what}s, {blocks} layers, {short(values[0])} to "
        f"{short(values[-1])}; the highest is {where}."
    )
    yield Picture(f"{metric} by layer and {what}", caption, svg(drawn))


@dataclass(frozen=True)
class _Cell:
    layer: int
    slot: str
    value: float

    @property
    def name(self) -> str:
        """The slot without what nearly every parameter's name ends in."""
        return self.slot.removesuffix(".weight")


def _cells(metric: str, named: str, said: Series, step: int | None = None) -> list[_Cell]:
    columns = said.columns
    told = zip(*(columns.get(name, ()) for name in ("layer", named, metric)), strict=False)
    steps = columns.get("step", ())
    return [
        _Cell(int(float(index)), str(slot), float(value))
        for row, (index, slot, value) in enumerate(told)
        if index is not None and value is not None and math.isfinite(float(value))
        if step is None or steps[row] == step
    ]


def _edges(low: float, high: float) -> list[float]:
    """Borders of the shades: in equal ratios where all are above zero, else in equal steps."""
    if low > 0:
        return [low * (high / low) ** (index / SHADES) for index in range(1, SHADES)]
    return [low + (high - low) * index / SHADES for index in range(1, SHADES)]


SHAPES = {"pass": "circle", "fail": "cross", "inconclusive": "diamond"}
PAINTS = {"pass": "good", "fail": "bad", "inconclusive": "warn"}


def timeline(history: Sequence[Record]) -> Iterator[Picture]:
    """When a gate was judged how, one row a GPU; nothing for a single record."""
    if len(history) < 2:  # noqa: PLR2004 - one point is no line of time
        return
    points = [
        {"time": record.time, "gpu": record.host["gpu"] or "CPU", "verdict": str(record.verdict)}
        for record in history
    ]
    verdicts = [word for word in SHAPES if any(point["verdict"] == word for point in points)]
    rows = list(dict.fromkeys(str(point["gpu"]) for point in points))
    scale = {"domain": verdicts}
    drawn = {
        "width": WIDTH - 220,
        "height": 30 * len(rows),
        "data": {"values": points},
        "mark": {"type": "point", "filled": True, "size": 90, "opacity": 1},
        "encoding": {
            "x": {"field": "time", "type": "temporal", "title": None, "scale": {"type": "utc"},
                  "axis": {"labelOverlap": True}},
            "y": {"field": "gpu", "type": "ordinal", "title": None, "sort": rows,
                  "axis": {"grid": True, "labelLimit": 220}},
            "shape": {"field": "verdict", "type": "nominal", "title": None,
                      "scale": {**scale, "range": [SHAPES[word] for word in verdicts]}},
            "color": {"field": "verdict", "type": "nominal", "title": None,
                      "scale": {**scale, "range": [color(PAINTS[word]) for word in verdicts]}},
        },
    }  # fmt: skip
    first, last = history[-1].time, history[0].time
    caption = f"{len(history)} verdicts from {first} to {last}; each is in the table below."
    yield Picture("Verdicts over time", caption, svg(drawn))
