"""Figures for people."""

from __future__ import annotations

import math
from collections.abc import Collection


def headroom(value: float, limit: float, *, below: bool) -> float | None:
    """Percent of the limit that the value stays on its good side; None where that means nothing."""
    if limit == 0 or not math.isfinite(value) or not math.isfinite(limit):
        return None
    return (limit - value if below else value - limit) / abs(limit) * 100


def short(value: float) -> str:
    """A figure for people: six significant digits."""
    return f"{value:.6g}"


def several(items: Collection[object], limit: int = 3) -> str:
    """The first few of many."""
    shown = ", ".join(str(item) for item in list(items)[:limit])
    return shown + (f" and {len(items) - limit} more" if len(items) > limit else "")
