"""Pictures as inline SVG, drawn by Vega-Lite without a browser; colours are the page's own.

A colour is a CSS variable (`var(--accent)`), so that one drawing serves light, dark and print.
"""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any
from xml.etree import ElementTree

from pytest_gates.evidence import Evidence
from pytest_gates.model.telemetry import METRICS

SVG = "http://www.w3.org/2000/svg"
WIDTH = 640
WIDEST_LETTER = 6.8
"""Pixels, of the labels' font in a browser; the drawing assumes less."""
MOST_POINTS = 240
"""Points of a line: more than one a 2.7 pixels nobody can see."""
LONG_NUMBER = re.compile(r"-?\d+\.\d{2,}(?![\d%])")
CLIP = re.compile(r"clip\d+")
DROPPED = {"role", "aria-roledescription", "aria-hidden", "aria-label", "pointer-events", "class"}

_numbers = itertools.count()


@dataclass(frozen=True)
class Picture:
    """A drawing with its words; the words carry all that the drawing shows."""

    title: str
    caption: str
    svg: str
    found: str = ""
    """What the check says of it, for who cannot see it; people read it at the check."""


def color(name: str) -> str:
    """A colour of the page by its name."""
    return f"var(--{name})"


def mark(kind: str, paint: str, **more: Any) -> dict[str, Any]:
    """A mark in one of the page's colours."""
    return {"type": kind, "color": color(paint), **more}


def layer(values: Sequence[Mapping[str, Any]], drawn: Mapping[str, Any], **encoding: Any) -> Any:
    """One layer with data of its own."""
    return {"data": {"values": list(values)}, "mark": drawn, "encoding": encoding}


def named_line(
    value: float, text: str, paint: str, axis: Mapping[str, Any], width: int, *, under: bool = False
) -> list[Any]:
    """A horizontal line with its name at the right end, over it or under it.

    The name has a halo of paper, so that it stays readable over what is behind it.
    """
    at = [{"y": value, "t": text}]
    dashes = [2, 3] if paint == "mute" else [1, 0]
    rule = mark("rule", paint, strokeWidth=1.5, strokeDash=dashes)
    place = {"align": "right", "dy": 12 if under else -8}
    halo = mark("text", "paper", stroke=color("paper"), strokeWidth=4, **place)
    names = [
        layer(at, drawn, y=axis, x={"value": width}, text={"field": "t"})
        for drawn in (halo, mark("text", paint, **place))
    ]
    return [layer(at, rule, y=axis), *names]


def quantity(field: str, title: str | None, **more: Any) -> dict[str, Any]:
    """A quantitative axis."""
    return {"field": field, "type": "quantitative", "title": title, **more}


def finite(pairs: Iterable[tuple[Any, Any]]) -> list[tuple[float, float]]:
    """The pairs of which both are finite numbers: others have no place in a picture."""
    return [
        (float(x), float(y))
        for x, y in pairs
        if isinstance(x, float | int)
        and isinstance(y, float | int)
        and math.isfinite(x)
        and math.isfinite(y)
    ]


def points_of(evidence: Evidence, metric: str) -> list[tuple[float, float]]:
    """A metric by step, where both are finite."""
    columns = evidence.main.steps.columns
    return finite(zip(columns.get("step", ()), columns.get(metric, ()), strict=False))


def titled(metric: str) -> str:
    """A metric with its unit."""
    unit = METRICS[metric].unit
    return f"{metric} ({unit})" if unit else metric


def domain(low: float, high: float, share: float = 0.06) -> dict[str, Any]:
    """A scale from low to high with a margin, both visible."""
    margin = (high - low or abs(high) or 1.0) * share
    return {"domain": [low - margin, high + margin], "zero": False, "nice": False}


def svg(spec: Mapping[str, Any]) -> str:
    """Draw a Vega-Lite specification; identifiers in it are unique in this process."""
    whole = {
        **spec,
        "background": None,
        "config": CONFIG,
        "padding": {"left": 14, "right": 14, "top": 4, "bottom": 4},
    }
    drawn = _drawn(json.dumps(whole, allow_nan=False))
    number = next(_numbers)
    return CLIP.sub(lambda found: f"p{number}-{found.group()}", drawn)


@lru_cache(maxsize=256)
def _drawn(spec: str) -> str:
    from vl_convert import vegalite_to_svg  # noqa: PLC0415 - heavy, and in an optional extra

    return _lean(vegalite_to_svg(spec))


def _lean(text: str) -> str:
    """The drawing without what a page does not need: hidden parts, roles, long fractions."""
    root = ElementTree.fromstring(text)  # noqa: S314 - the library's own output, no stranger's
    for parent in list(root.iter()):
        for child in list(parent):
            if child.get("display") == "none" or child.get("d") in {"", "M0,0h0v0h0Z"}:
                parent.remove(child)
    for element in root.iter():
        for name in DROPPED & element.attrib.keys():
            del element.attrib[name]
        for name in ("d", "transform"):
            if name in element.attrib:
                element.attrib[name] = LONG_NUMBER.sub(_rounded, element.attrib[name])
    root.attrib["class"] = "chart"
    # On a phone a drawing scrolls rather than shrinks beyond what can be read.
    root.attrib["style"] = f"min-width:min(32rem,{float(root.attrib['width']):.0f}px)"
    ElementTree.register_namespace("", SVG)
    return ElementTree.tostring(root, encoding="unicode")


def _rounded(found: re.Match[str]) -> str:
    return f"{float(found.group()):.1f}".removesuffix(".0")


def thinned(points: Sequence[tuple[float, float]], most: int = MOST_POINTS) -> list[dict[str, Any]]:
    """Points as `x` and `y`; of many the lowest and the highest of each stretch."""
    kept: list[tuple[float, float]] = []
    if len(points) <= most:
        kept = list(points)
    else:
        stretches = most // 2
        edges = [index * len(points) // stretches for index in range(stretches + 1)]
        for first, last in itertools.pairwise(edges):
            part = points[first:last]
            ends = {min(part, key=lambda one: one[1]), max(part, key=lambda one: one[1])}
            kept += sorted(ends)
    return [{"x": x, "y": y} for x, y in kept]


CONFIG: dict[str, Any] = {
    "aria": False,
    "font": "system-ui, sans-serif",
    "view": {"stroke": None},
    "axis": {
        "labelColor": color("mute"),
        "titleColor": color("mute"),
        "titleFontWeight": "normal",
        "titleFontSize": 12,
        "labelFontSize": 12,
        "gridColor": color("line"),
        "domain": False,
        "ticks": False,
        "labelPadding": 6,
        "tickCount": 5,
    },
    "axisX": {"grid": False, "domain": True, "domainColor": color("line"), "titlePadding": 8},
    "axisY": {
        "titleAngle": 0,
        "titleAlign": "left",
        "titleAnchor": "start",
        "titleBaseline": "bottom",
        "titleX": 0,
        "titleY": -8,
    },
    "legend": {
        "labelColor": color("ink"),
        "titleColor": color("mute"),
        "titleFontWeight": "normal",
        "labelFontSize": 12,
        "titleFontSize": 12,
        "symbolStrokeWidth": 2,
    },
    "text": {"fontSize": 12},
}
