"""The slope of a noisy, correlated series, with a confidence interval."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

BLOCKS = 10
"""Means of blocks are nearly independent where single steps are not (method of batch means)."""
FEWEST = 2 * BLOCKS
"""Fewest values of which a slope is told."""


@dataclass(frozen=True)
class Slope:
    """A slope a step, and the one-sided bounds of it at some confidence, one on each side."""

    slope: float
    low: float
    high: float


def slope_interval(values: Sequence[float], confidence: float) -> Slope:
    """Least-squares slope through the means of ten consecutive blocks of finite values.

    The bounds are Student's t with 8 degrees of freedom times the standard error of the slope. A
    curve (a loss falls fast at first) only widens them.
    """
    assert len(values) >= FEWEST
    blocks, x, spread = _blocks(len(values))
    y = [math.fsum(values[first:last]) / (last - first) for first, last in blocks]
    y_mean = math.fsum(y) / BLOCKS
    slope = math.fsum([a * (b - y_mean) for a, b in zip(x, y, strict=True)]) / spread
    residual = math.fsum([(b - y_mean - slope * a) ** 2 for a, b in zip(x, y, strict=True)])
    error = math.sqrt(residual / (BLOCKS - 2) / spread)
    reach = t_quantile(confidence, BLOCKS - 2) * error
    return Slope(slope, slope - reach, slope + reach)


@lru_cache(maxsize=256)
def _blocks(count: int) -> tuple[list[tuple[int, int]], list[float], float]:
    """First and last edge of each block, how far its middle is off the mean, the squares' sum."""
    edges = [index * count // BLOCKS for index in range(BLOCKS + 1)]
    blocks = list(pairwise(edges))
    middles = [(first + last - 1) / 2 for first, last in blocks]
    mean = math.fsum(middles) / BLOCKS
    off = [middle - mean for middle in middles]
    return blocks, off, math.fsum([one**2 for one in off])


@lru_cache(maxsize=64)
def t_quantile(confidence: float, freedom: int) -> float:
    """Student's t at a one-sided confidence, for an even number of degrees of freedom.

    Abramowitz and Stegun, 26.7.4, inverted by bisection over the angle atan(t / sqrt(freedom)).
    """
    assert freedom % 2 == 0
    low, high = 0.0, math.pi / 2
    while (middle := (low + high) / 2) not in {low, high}:
        if _t_one_sided(middle, freedom) < confidence:
            low = middle
        else:
            high = middle
    return math.tan(low) * math.sqrt(freedom)


def _t_one_sided(angle: float, freedom: int) -> float:
    term = total = 1.0
    for k in range(1, freedom // 2):
        term *= (2 * k - 1) / (2 * k) * math.cos(angle) ** 2
        total += term
    return (1 + math.sin(angle) * total) / 2
