"""Stacked pictures: where a step's time goes, and its memory by the formula and as measured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pytest_gates.checks.anatomy import PARTS
from pytest_gates.checks.figures import short
from pytest_gates.checks.memory import estimate_of, on_cuda
from pytest_gates.evidence import Evidence
from pytest_gates.model.config import PretrainRun
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
)

MIB = 2**20
STATE = ("parameters", "gradients", "optimizer")
REST = "rest of the peak"
"""What a peak holds beyond the state, whatever it is."""
MOST_STEPS = 40
"""Columns that can be told apart; of more steps the last ones are drawn."""
LEGEND = 110
"""Pixels beside a plot for the names of its parts."""


# --- anatomy -------------------------------------------------------------------------------------


def parts_of_steps(evidence: Evidence) -> Iterator[Picture]:
    """A column a step: its parts stacked, a tick at its wall time."""
    run = evidence.run
    if not isinstance(run, PretrainRun) or not run.anatomy:
        return
    first = max(run.steps - run.anatomy, run.steps - MOST_STEPS)
    said = {name: _from(points_of(evidence, name), first) for name in (*PARTS, "wall_ms")}
    walls = said.pop("wall_ms")
    if not walls or not all(said.values()):
        return
    whole = sum(ms for _, ms in walls)
    shares = {name.removesuffix("_ms"): sum(ms for _, ms in points) / whole
              for name, points in said.items()}  # fmt: skip
    named = list(shares)
    columns = [
        {"x": int(step), "y": ms, "part": part, "order": place}
        for place, (part, points) in enumerate(zip(named, said.values(), strict=True))
        for step, ms in points
    ]
    x = {"field": "x", "type": "ordinal", "title": "step",
         "axis": {"labelAngle": 0, "labelOverlap": True}}  # fmt: skip
    y = quantity("y", "ms")
    drawn = layer(
        columns, mark("bar", "accent", stroke=color("paper"), strokeWidth=0.5),
        x=x, y={**y, "stack": "zero"}, order={"field": "order"}, color=_shaded(named),
    )  # fmt: skip
    ticks = [{"x": int(step), "y": ms} for step, ms in walls]
    wall = layer(ticks, mark("tick", "ink", thickness=2), x=x, y=y)
    told = ", ".join(f"{part} {100 * share:.1f} %" for part, share in shares.items())
    yield Picture(
        "Parts of the steps that were taken apart",
        f"From the bottom {told}; the tick is the step's wall time.",
        svg({"width": WIDTH - LEGEND, "height": 200, "layer": [drawn, wall]}),
    )


def _from(points: Sequence[tuple[float, float]], first: int) -> list[tuple[float, float]]:
    return [point for point in points if point[0] >= first]


# --- memory --------------------------------------------------------------------------------------


def formula(evidence: Evidence) -> Iterator[Picture]:
    """What the formula says beforehand above what was measured, and memory by step."""
    if not isinstance(evidence.run, PretrainRun):
        return
    said = evidence.main.facts.get("residency_after")
    if not isinstance(said, Mapping):
        return
    estimate = {name: size / MIB for name, size in vars(estimate_of(evidence)).items()}
    held = {part: sum(said.get(part, {}).values()) / MIB for part in STATE}
    peak = evidence.main.facts.get("peak_mib")
    measured = dict(held)
    if on_cuda(evidence) and isinstance(peak, int | float) and peak > sum(held.values()):
        measured[REST] = peak - sum(held.values())
    elif not on_cuda(evidence):
        # Resident memory of a CPU run is the interpreter's too, so only the state is compared.
        estimate = {part: estimate[part] for part in STATE}
    panels = [_bars({"formula": estimate, "measured": measured})]
    steps = points_of(evidence, "memory_mib") if on_cuda(evidence) else []
    if len(steps) > 1:
        panels.append(_over_steps(steps, sum(estimate.values())))
    caption = f"By the formula {_listed(estimate)} MiB; measured {_listed(measured)} MiB."
    if len(panels) > 1:
        caption += " Below, what the allocator held after each step, under the formula's sum."
    yield Picture(
        "Memory by the formula and as measured", caption, svg({"vconcat": panels, "spacing": 24})
    )


def _listed(parts: Mapping[str, float]) -> str:
    told = ", ".join(f"{name} {short(size)}" for name, size in parts.items() if size)
    return f"{told}, together {short(sum(parts.values()))}"


def _bars(rows: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    names = list(dict.fromkeys(name for parts in rows.values() for name in parts))
    bars = [
        {"row": row, "part": part, "x": size, "order": names.index(part)}
        for row, parts in rows.items()
        for part, size in parts.items()
        if size
    ]
    return {
        "width": WIDTH - LEGEND - 80,
        "height": 34 * len(rows),
        **layer(
            bars, mark("bar", "accent", stroke=color("paper"), strokeWidth=0.5),
            y={"field": "row", "type": "ordinal", "sort": list(rows), "title": None,
               "axis": {"domain": False, "grid": False, "minExtent": 70}},
            x=quantity("x", "MiB", stack="zero"),
            order={"field": "order"}, color=_shaded(names),
        ),
    }  # fmt: skip


def _over_steps(points: Sequence[tuple[float, float]], whole: float) -> dict[str, Any]:
    width = WIDTH - LEGEND - 80
    y = quantity("y", "memory_mib (MiB)", scale=domain(0.0, max(whole, *(m for _, m in points))))
    x = quantity("x", "step", scale={"nice": False, "zero": False})
    line = layer(thinned(points), mark("line", "accent", strokeWidth=1.5), x=x, y=y)
    name = f"formula {whole:,.0f} MiB"
    lines = named_line(whole, name, "limit", y, width, under=True)
    return {"width": width, "height": 120, "layer": [line, *lines]}


def _shaded(names: Sequence[str]) -> dict[str, Any]:
    """A shade a part, the first one the darkest, named in the order of the stack."""
    shades = [color(f"h{index}") for index in (6, 5, 4, 3, 2, 1)]
    painted = [color("mute") if name == REST else shades[place]
               for place, name in enumerate(names)]  # fmt: skip
    return {
        "field": "part", "type": "nominal", "title": None, "sort": None,
        "scale": {"domain": list(names), "range": painted},
        "legend": {"symbolType": "square", "symbolSize": 160, "symbolStrokeWidth": 0},
    }  # fmt: skip
