"""A trace as a heat map, layer x slot: one HTML file that needs nothing else."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from pytest_gates.checks.slots import Slot

_DARKEST = 90
"""Of a full colour's other channels: black text is read on it."""
_STYLE = """body{font:14px system-ui;margin:2em}table{border-collapse:collapse}
td,th{padding:2px 6px;text-align:right;white-space:nowrap;font-variant-numeric:tabular-nums}
th{position:sticky;top:0;background:#fff}td.first{outline:3px solid #000}"""


@dataclass(frozen=True)
class Map:
    """What a page shows of a trace."""

    title: str
    statistic: str
    """What the cells show."""
    lines: Sequence[str]
    """What was found, in the words of the terminal."""
    first: str | None = None
    """The place to be marked, as `Slot.at` says it."""
    limits: Mapping[str, float] | None = None
    """By the slot's name, the value that is white; left out: the median over the layers."""


def heat_map(slots: Sequence[Slot], shown: Map) -> str:
    """The page; a cell's colour is its ratio to what is white for its slot.

    Args:
        slots: a trace, in the order of the pass.
        shown: what of it; every text is escaped.
    """
    there = [one for one in slots if shown.statistic in one.figures]
    names = list(dict.fromkeys(one.name for one in there))
    values = {(one.layer, one.name): one for one in there}
    white = shown.limits or {
        name: median(one.figures[shown.statistic] for one in there if one.name == name)
        for name in names
    }
    rows = []
    for layer in sorted({one.layer for one in there}, key=lambda at: (at < 0, at)):
        cells = [_cell(values.get((layer, name)), shown, white[name]) for name in names]
        rows.append(f"<tr><th>{'end' if layer < 0 else layer}</th>{''.join(cells)}</tr>")
    head = "".join(f"<th>{html.escape(name)}</th>" for name in names)
    safe = html.escape(shown.title)
    found = "".join(f"<li>{html.escape(line)}</li>" for line in shown.lines)
    legend = "white is the median over the layers, red above it, blue below it"
    if shown.limits:
        legend = "white is within its limit, red above it"
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{safe}</title>'
        f"<style>{_STYLE}</style></head><body><h1>{safe}</h1><ul>{found}</ul>"
        f"<p>{html.escape(shown.statistic)} by layer and slot; {legend}, full at a "
        f"factor of 32</p>"
        f"<table><tr><th>layer</th>{head}</tr>{''.join(rows)}</table></body></html>\n"
    )


def _cell(slot: Slot | None, shown: Map, middle: float) -> str:
    if slot is None:
        return "<td></td>"
    value = slot.figures[shown.statistic]
    mark = ' class="first"' if slot.at == shown.first else ""
    colour = _colour(value, middle, within=bool(shown.limits))
    return f'<td{mark} style="background:{colour}">{value:.4g}</td>'


def _colour(value: float, middle: float, *, within: bool) -> str:
    """White at the middle, red above and blue (or `within` a limit white) below it."""
    if not math.isfinite(value) or not math.isfinite(middle):
        return "#f0f"
    if value <= 0 or middle <= 0:
        return "#fff"
    share = max(0.0 if within else -1.0, min(1.0, math.log(value / middle, 32)))
    rest = round(255 - (255 - _DARKEST) * abs(share))
    return f"rgb(255,{rest},{rest})" if share > 0 else f"rgb({rest},{rest},255)"
