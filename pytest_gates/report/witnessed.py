"""The picture of residency: what the process outside saw of the GPU, over time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pytest_gates.checks.declared import shape_of
from pytest_gates.evidence import Evidence, Sample
from pytest_gates.report.draw import (
    WIDTH,
    Picture,
    color,
    layer,
    mark,
    named_line,
    quantity,
    svg,
    thinned,
)

MIB = 2**20
MILLISECONDS = 1000.0
FEW = 40
"""Up to this many samples each one gets a dot."""
PLOT = WIDTH - 60
"""Leaves room for the names of the lines at their ends."""


@dataclass(frozen=True)
class _Line:
    """One column of the samples."""

    field: str
    name: str
    paint: str

    def points(self, seen: Sequence[Sample]) -> list[tuple[float, float]]:
        return [
            (sample.at_ms / MILLISECONDS, float(value))
            for sample in seen
            if (value := getattr(sample, self.field)) is not None
        ]


MEMORY = (_Line("device_used_mib", "device", "mute"), _Line("used_mib", "process", "accent"))
BUSY = (_Line("util_pct", "device", "mute"), _Line("sm_util_pct", "process", "accent"))


def witnessed(evidence: Evidence) -> Iterator[Picture]:
    """Memory and utilisation of the process and of the device; nothing without samples."""
    seen = evidence.witness.samples
    census = shape_of(evidence.run).census_bytes
    floor = census / MIB if census else None
    held = _column(MEMORY, seen)
    busy = _column(BUSY, seen)
    panels = []
    if held:
        top = max([*(y for column in held.values() for _, y in column), floor or 0.0]) * 1.12
        panels.append(_panel(held, "memory (MiB)", 150, top, floor))
    if busy:
        panels.append(_panel(busy, "utilisation (%)", 90, 100.0, None))
    if not panels:
        return
    last = max(sample.at_ms for sample in seen) / MILLISECONDS
    count = "1 sample" if len(seen) == 1 else f"{len(seen)} samples over {last:.1f} s"
    caption = f"{count}, taken by the process outside"
    own = [y for line, column in held.items() if line.field == "used_mib" for _, y in column]
    if own:
        caption += f"; the run's process held {_range(own)} MiB"
    if floor is not None:
        caption += f"; the declared training state needs {floor:,.0f} MiB (census, the line)"
    yield Picture("GPU memory and utilisation over time", caption + ".", svg({"vconcat": panels}))


def _range(values: Sequence[float]) -> str:
    low, high = f"{min(values):,.0f}", f"{max(values):,.0f}"
    return low if low == high else f"{low} to {high}"


def _column(
    lines: Sequence[_Line], seen: Sequence[Sample]
) -> dict[_Line, list[tuple[float, float]]]:
    columns = {line: line.points(seen) for line in lines}
    return {line: points for line, points in columns.items() if points}


def _panel(
    columns: dict[_Line, list[tuple[float, float]]],
    title: str,
    height: int,
    top: float,
    floor: float | None,
) -> dict[str, Any]:
    last = max(x for column in columns.values() for x, _ in column)
    y = quantity("y", title, scale={"domain": [0.0, top], "nice": False})
    x = quantity("x", "s since the process started", scale={"domain": [0, last or 1]})
    layers = []
    for line, points in columns.items():
        dots = {"size": 14, "color": color(line.paint)} if len(points) <= FEW else False
        drawn = mark("line", line.paint, strokeWidth=1.5, point=dots)
        layers.append(layer(thinned(points), drawn, x=x, y=y))
        at = [{"x": points[-1][0], "y": points[-1][1], "t": line.name}]
        label = mark("text", line.paint, align="left", dx=6)
        layers.append(layer(at, label, x=x, y=y, text={"field": "t"}))
    if floor is not None:
        layers += named_line(floor, f"census {floor:,.0f} MiB", "limit", y, PLOT)
    return {"width": PLOT, "height": height, "layer": layers}
