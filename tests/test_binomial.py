import math
import random
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from pytest_gates.checks.binomial import (
    EXACT_UP_TO,
    bare_minimum,
    critical_counts,
    lag1_autocorrelation,
    quantile_test,
)

HALF = Fraction(1, 2)
RATES = [HALF, Fraction(1, 10), Fraction(1, 20), Fraction(1, 100), Fraction(99, 100)]
FIVE_PERCENT = Fraction(1, 20)
ONE_SIDED_97_5 = Fraction(1, 40)


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("alpha", [FIVE_PERCENT, ONE_SIDED_97_5, Fraction(1, 1000)])
@pytest.mark.parametrize("n", [1, 5, 30, 59, 80, 300, 2000, EXACT_UP_TO + 1, 100_000])
def test_counts_are_those_of_scipy(n: int, rate: Fraction, alpha: Fraction) -> None:
    critical = critical_counts(n, rate, alpha)
    passes, fails = critical.passes_up_to, critical.fails_from
    p, a = float(rate), float(alpha)
    assert passes == -1 or binom.cdf(passes, n, p) <= a * (1 + 1e-9)
    assert binom.cdf(passes + 1, n, p) > a * (1 - 1e-9)
    assert fails == n + 1 or binom.sf(fails - 1, n, p) <= a * (1 + 1e-9)
    assert binom.sf(fails - 2, n, p) > a * (1 - 1e-9)


@pytest.mark.parametrize(
    ("alpha", "median_of_30", "p95", "p99"),
    [(FIVE_PERCENT, 10, 59, 299), (ONE_SIDED_97_5, 9, 72, 368)],
)
def test_known_figures(alpha: Fraction, median_of_30: int, p95: int, p99: int) -> None:
    assert critical_counts(30, HALF, alpha).passes_up_to == median_of_30
    assert bare_minimum(Fraction(1, 20), alpha) == p95
    assert bare_minimum(Fraction(1, 100), alpha) == p99
    assert critical_counts(p95, Fraction(1, 20), alpha).passes_up_to == 0
    assert critical_counts(p95 - 1, Fraction(1, 20), alpha).passes_up_to == -1


def test_equality_with_alpha_is_significant() -> None:
    # P[Bin(1, 1/20) >= 1] is 1/20 exactly, which binary floats would miss.
    assert critical_counts(1, FIVE_PERCENT, FIVE_PERCENT).fails_from == 1
    assert critical_counts(1, 1 - FIVE_PERCENT, FIVE_PERCENT).passes_up_to == 0


def test_exact_and_log_space_agree_where_they_meet() -> None:
    exact = critical_counts(EXACT_UP_TO, HALF, FIVE_PERCENT)
    logs = critical_counts(EXACT_UP_TO + 2, HALF, FIVE_PERCENT)
    assert logs.passes_up_to - exact.passes_up_to == 1


@given(st.lists(st.floats(allow_nan=True), min_size=2, max_size=60))
def test_autocorrelation_is_never_negative_and_below_one(values: list[float]) -> None:
    assert 0 <= lag1_autocorrelation(values) < 1


def test_autocorrelation_of_noise_and_of_a_drift() -> None:
    noise = random.Random(0)
    white = [noise.gauss(0, 1) for _ in range(400)]
    assert lag1_autocorrelation(white) == 0
    assert lag1_autocorrelation(list(range(100))) > 0.9
    assert lag1_autocorrelation([5.0] * 100) == 0
    assert lag1_autocorrelation([0.0, 1.0] * 50) == 0


def test_one_extreme_step_does_not_hide_a_correlation() -> None:
    drift = [float(step // 10) for step in range(100)]
    with_spike = [*drift[:50], 1e9, *drift[50:]]
    assert lag1_autocorrelation(with_spike) > 0.8


def test_correlated_samples_count_for_fewer() -> None:
    blocks = [float(step // 5 % 2) + step % 5 * 1e-3 for step in range(100)]
    test = quantile_test(blocks, HALF, FIVE_PERCENT)
    assert 0 < test.n_eff < 50
    assert test.n_eff == pytest.approx(100 * (1 - test.r) / (1 + test.r))
    critical = critical_counts(math.floor(test.n_eff), HALF, FIVE_PERCENT)
    for bad in range(101):
        scaled = bad * test.n_eff / 100
        assert test.passes(bad) == (math.ceil(scaled) <= critical.passes_up_to)
        assert test.fails(bad) == (math.floor(scaled) >= critical.fails_from)


def test_too_few_effective_samples_decide_nothing() -> None:
    test = quantile_test(list(range(30)), HALF, FIVE_PERCENT)
    assert not any(test.passes(bad) or test.fails(bad) for bad in range(31))


@given(st.integers(1, 300), st.sampled_from(RATES))
def test_no_count_passes_and_fails(n: int, rate: Fraction) -> None:
    critical = critical_counts(n, rate, FIVE_PERCENT)
    assert critical.passes_up_to < critical.fails_from
