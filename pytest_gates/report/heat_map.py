"""A trace as a heat map, layer x slot: one HTML file that needs nothing else."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from pytest_gates.checks.slots import Slot

_STYLE = """body{font:14px system-ui;margin:2em}table{border-collapse:collapse}
td,th{padding:2px 6px;text-align:right;font-variant-numeric:tabular-nums}
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
    against = "its limit" if shown.limits else "the median over the layers"
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{safe}</title>'
        f"<style>{_STYLE}</style></head><body><h1>{safe}</h1><ul>{found}</ul>"
        f"<p>{html.escape(shown.statistic)} by layer and slot; white is {against}, red above it, "
        f"blue below it, full at a factor of 32</p>"
        f"<table><tr><th>layer</th>{head}</tr>{''.join(rows)}</table></body></html>\n"
    )


def _cell(slot: Slot | None, shown: Map, middle: float) -> str:
    if slot is None:
        return "<td></td>"
    value = slot.figures[shown.statistic]
    mark = ' class="first"' if slot.at == shown.first else ""
    return f'<td{mark} style="background:{_colour(value, middle)}">{value:.4g}</td>'


def _colour(value: float, middle: float) -> str:
    """White at the middle, red above and blue below, full at a factor of 32."""
    if not math.isfinite(value) or not math.isfinite(middle):
        return "#f0f"
    if value <= 0 or middle <= 0:
        return "#fff"
    share = max(-1.0, min(1.0, math.log(value / middle, 32)))
    rest = round(255 * (1 - abs(share)))
    return f"rgb(255,{rest},{rest})" if share > 0 else f"rgb({rest},{rest},255)"
