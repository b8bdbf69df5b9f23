"""Binomial decisions about a quantile: exact integers, and log space where those get too long.

A sample lies on the bad side of a limit with probability `rate` when the quantile is at the limit.
So the count of bad samples decides (order statistics: David and Nagaraja, 3rd ed., section 7.1).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from itertools import count, pairwise
from typing import Any, NamedTuple

EXACT_UP_TO = 5_000
"""Samples up to which tails are exact integers; above, log space (relative error below 1e-9)."""

Ratio = tuple[int, int]
"""Numerator and denominator."""

SIGNIFICANT = 1.65
"""Standard errors above which a lag-1 autocorrelation counts (one-sided 5 %)."""


@dataclass(frozen=True)
class Critical:
    """The counts K of bad samples at which a verdict turns."""

    passes_up_to: int
    """PASS iff K <= this; -1 where no count passes."""
    fails_from: int
    """FAIL iff K >= this; n + 1 where no count fails."""


def critical_counts(n: int, rate: Fraction, alpha: Fraction) -> Critical:
    """The counts K out of n that are significant at `alpha`, one-sided.

    P[Bin(n, rate) <= K] <= alpha passes, P[Bin(n, rate) >= K] <= alpha fails.
    """
    # Known by whole numbers: to hash a fraction is to divide modulo a prime.
    return _critical_counts(n, rate.as_integer_ratio(), alpha.as_integer_ratio())


@lru_cache(maxsize=4096)
def _critical_counts(n: int, rate_ratio: Ratio, alpha_ratio: Ratio) -> Critical:
    rate, alpha = Fraction(*rate_ratio), Fraction(*alpha_ratio)
    assert n >= 0
    assert 0 < rate < 1
    assert 0 < alpha <= Fraction(1, 2)
    below = _significant(n, rate, alpha)
    above = _significant(n, 1 - rate, alpha)
    return Critical(passes_up_to=below - 1, fails_from=n - above + 1)


def _significant(n: int, rate: Fraction, alpha: Fraction) -> int:
    """How many of the counts 0, 1, 2, ... have a cumulated probability of at most alpha."""
    if n <= EXACT_UP_TO:
        budget = alpha * rate.denominator**n
        return _counted(_weights(n, rate), math.floor(budget))
    return _counted_logs(_log_weights(n, rate), math.log(alpha))


def _weights(n: int, rate: Fraction) -> Iterator[int]:
    """C(n, k) a^k (b - a)^(n - k) for k = 0, 1, ...: the probabilities times b^n, rate = a / b."""
    hit, miss = rate.numerator, rate.denominator - rate.numerator
    weight = miss**n
    for k in range(n + 1):
        yield weight
        weight = weight * (n - k) * hit // ((k + 1) * miss)


def _counted(weights: Iterator[int], budget: int) -> int:
    total = 0
    count = 0
    for weight in weights:
        total += weight
        if total > budget:
            break
        count += 1
    return count


def _log_weights(n: int, rate: Fraction) -> Iterator[float]:
    log_hit, log_miss = math.log(rate), math.log1p(-float(rate))
    log_factorial = math.lgamma(n + 1)
    for k in range(n + 1):
        choose = log_factorial - math.lgamma(k + 1) - math.lgamma(n - k + 1)
        yield choose + k * log_hit + (n - k) * log_miss


def _counted_logs(weights: Iterator[float], budget: float) -> int:
    total = -math.inf
    count = 0
    for weight in weights:
        high, low = max(total, weight), min(total, weight)
        total = high + math.log1p(math.exp(low - high))
        if total > budget:
            break
        count += 1
    return count


def bare_minimum(rate: Fraction, alpha: Fraction) -> int:
    """Fewest samples of which some outcome is significant on both sides."""
    larger = max(rate, 1 - rate)
    guess = math.ceil(math.log(alpha) / math.log(larger))
    # The logarithms are rounded, so settle the last count exactly.
    while larger**guess > alpha:
        guess += 1
    while guess > 1 and larger ** (guess - 1) <= alpha:
        guess -= 1
    return guess


def lag1_autocorrelation(samples: Sequence[float]) -> float:
    """Lag-1 autocorrelation of the samples' ranks, 0 where it is not significant.

    Ranks, because the decision depends on the order of sizes alone: one extreme step must not hide
    that the others are correlated, and infinite samples or NaN (ranked above all) have a rank too.
    Only a positive correlation above 1.65 / sqrt(n) counts.
    """
    if len(set(samples)) <= 1:
        return 0.0
    return _lag1(tuple(samples))


@lru_cache(maxsize=64)
def _lag1(samples: tuple[float, ...]) -> float:
    """The same; many gates hold one window of one run against different limits."""
    n = len(samples)
    ranks = _ranks(samples)
    mean = (n - 1) / 2
    centred = [rank - mean for rank in ranks]
    variance = sum(value * value for value in centred)
    if variance == 0:
        return 0.0
    r = sum(a * b for a, b in pairwise(centred)) / variance
    return r if r > SIGNIFICANT / math.sqrt(n) else 0.0


def _ranks(samples: Sequence[float]) -> list[float]:
    keys: Sequence[Any] = samples
    if any(map(math.isnan, samples)):
        keys = [_nan_last(value) for value in samples]
    elif len(set(samples)) == len(samples):
        places = dict(zip(sorted(samples), count(), strict=False))
        return [float(places[value]) for value in samples]
    order = sorted(range(len(keys)), key=keys.__getitem__)
    ranks = [0.0] * len(keys)
    start = 0
    for stop in range(1, len(order) + 1):
        if stop == len(order) or keys[order[stop]] != keys[order[start]]:
            for position in order[start:stop]:
                ranks[position] = (start + stop - 1) / 2
            start = stop
    return ranks


@lru_cache(maxsize=64)
def in_order(samples: tuple[float, ...]) -> tuple[float, ...]:
    """The samples sorted, NaN above all."""
    return tuple(sorted(samples, key=_nan_last if any(map(math.isnan, samples)) else None))


def _nan_last(value: float) -> tuple[bool, float]:
    return (True, 0.0) if math.isnan(value) else (False, value)


class QuantileTest(NamedTuple):
    """How the counts of n correlated samples decide; `critical` is that of the effective size."""

    n: int
    r: float
    n_eff: float
    passes_up_to: int
    fails_from: int

    def passes(self, bad: int) -> bool:
        """Whether `bad` samples on the bad side of the limit are significantly few."""
        return bad <= self.passes_up_to

    def fails(self, bad: int) -> bool:
        """Whether `bad` samples on the bad side of the limit are significantly many."""
        return bad >= self.fails_from


@lru_cache(maxsize=4096)
def _of_independent(n: int, rate_ratio: Ratio, alpha_ratio: Ratio) -> QuantileTest:
    critical = _critical_counts(n, rate_ratio, alpha_ratio)
    return QuantileTest(n, 0.0, float(n), critical.passes_up_to, critical.fails_from)


def quantile_test(samples: Sequence[float], rate: Fraction, alpha: Fraction) -> QuantileTest:
    """The decision rule for these samples.

    With lag-1 autocorrelation r, n samples are worth n_eff = n (1 - r) / (1 + r). The test uses
    floor(n_eff) trials, and the count scaled to it: rounded up to pass, down to fail, so that
    rounding never decides.
    """
    n = len(samples)
    r = lag1_autocorrelation(samples)
    if r == 0:
        return _of_independent(n, rate.as_integer_ratio(), alpha.as_integer_ratio())
    n_eff = n * (1 - r) / (1 + r)
    critical = critical_counts(math.floor(n_eff), rate, alpha)
    # ceil(K n_eff / n) <= c iff K <= c n / n_eff, and floor(K n_eff / n) >= c iff K >= c n / n_eff.
    few, many = critical.passes_up_to, critical.fails_from
    passes_up_to = -1 if few < 0 else math.floor(few * n / n_eff)
    fails_from = n + 1 if many > math.floor(n_eff) else math.ceil(many * n / n_eff)
    return QuantileTest(n, r, n_eff, passes_up_to, min(fails_from, n + 1))
