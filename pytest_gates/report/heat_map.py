"""A trace as a heat map, layer x slot: one HTML file that needs nothing else."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from statistics import median

from pytest_gates.checks.slots import Slot

_STYLE = """body{font:14px system-ui;margin:2em}table{border-collapse:collapse}
td,th{padding:2px 6px;text-align:right;font-variant-numeric:tabular-nums}
th{position:sticky;top:0;background:#fff}td.first{outline:3px solid #000}"""


def heat_map(slots: Sequence[Slot], statistic: str, first: str | None, title: str) -> str:
    """The page. A cell's colour is its ratio to the median of its slot over the layers.

    Args:
        slots: a trace, in the order of the pass.
        statistic: what the cells show.
        first: the place to be marked, as `Slot.at` says it.
        title: shown above; escaped like everything else.
    """
    names = list(dict.fromkeys(one.name for one in slots if statistic in one.figures))
    values = {(one.layer, one.name): one for one in slots if statistic in one.figures}
    middles = {
        name: median(one.figures[statistic] for one in slots if (one.layer, name) in values
                     and one.name == name and statistic in one.figures)
        for name in names
    }  # fmt: skip
    rows = []
    for layer in sorted({one.layer for one in values.values()}, key=lambda at: (at < 0, at)):
        cells = [
            _cell(values.get((layer, name)), statistic, middles[name], first) for name in names
        ]
        rows.append(f"<tr><th>{'end' if layer < 0 else layer}</th>{''.join(cells)}</tr>")
    head = "".join(f"<th>{html.escape(name)}</th>" for name in names)
    safe = html.escape(title)
    marked = f"<p>First anomaly: <b>{html.escape(first)}</b></p>" if first else "<p>No anomaly.</p>"
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{safe}</title>'
        f"<style>{_STYLE}</style></head><body><h1>{safe}</h1>{marked}"
        f"<p>{html.escape(statistic)} by layer and slot</p>"
        f"<table><tr><th>layer</th>{head}</tr>{''.join(rows)}</table></body></html>\n"
    )


def _cell(slot: Slot | None, statistic: str, middle: float, first: str | None) -> str:
    if slot is None:
        return "<td></td>"
    value = slot.figures[statistic]
    mark = ' class="first"' if slot.at == first else ""
    return f'<td{mark} style="background:{_colour(value, middle)}">{value:.4g}</td>'


def _colour(value: float, middle: float) -> str:
    """White at the median, red above and blue below, full at a factor of 32."""
    if not math.isfinite(value) or not math.isfinite(middle):
        return "#f0f"
    if value <= 0 or middle <= 0:
        return "#fff"
    share = max(-1.0, min(1.0, math.log(value / middle, 32)))
    rest = round(255 * (1 - abs(share)))
    return f"rgb(255,{rest},{rest})" if share > 0 else f"rgb({rest},{rest},255)"
