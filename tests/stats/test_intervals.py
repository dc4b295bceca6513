"""Intervals of mean shares: scipy's binomial and hypergeometric distributions as oracles, hand calculations, properties."""

import math
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from bitswap_onnx.stats.intervals import bonferroni, fewest_faults, finite_shrink, share_interval

SHARES = st.lists(st.floats(0, 1), min_size=1, max_size=12)


@pytest.mark.parametrize("level", [0.9, 0.95, 0.99])
@pytest.mark.parametrize(
    ("hits", "n"), [(0, 1), (1, 1), (0, 5), (3, 5), (5, 5), (1, 500), (0, 16_627), (16_626, 16_627)]
)
def test_yes_no_shares_are_scipys(hits: int, n: int, level: float) -> None:
    expected = stats.binomtest(hits, n).proportion_ci(level)
    low, high = share_interval([hits / n], [n], level)
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_a_mean_between_is_between() -> None:
    """2.5 of 10: limits between those of 2 and of 3 hits, by hand Beta(2.5, 8.5) and Beta(3.5, 7.5)."""
    low, high = share_interval([0.25], [10], 0.95)
    assert (low, high) == pytest.approx((stats.beta.ppf(0.025, 2.5, 8.5), stats.beta.ppf(0.975, 3.5, 7.5)))
    two, three = (stats.binomtest(hits, 10).proportion_ci(0.95) for hits in (2, 3))
    assert two.low < low < three.low
    assert two.high < high < three.high


def test_vectors_are_their_elements() -> None:
    means, n = np.array([0.0, 0.2, 1.0]), np.array([3, 50, 4])
    lows, highs = share_interval(means[:, None], n[:, None], 0.95)
    for i, (mean, size) in enumerate(zip(means, n, strict=True)):
        assert (lows[i], highs[i]) == share_interval([mean], [size], 0.95)


def test_strata_without_hits_have_the_largest_weights_limit() -> None:
    """Nothing hit: prod (1 - p_h)^n_h >= alpha / 2 lets the share be at most about max W_h / n_h x ln(2 / alpha)."""
    weights, n = np.array([0.5, 0.3, 0.2]), np.array([1000, 200, 800])
    low, high = share_interval(np.zeros(3), n, 0.95, weights)
    assert low == 0
    assert high == pytest.approx(0.3 / 200 * math.log(40), rel=0.02)


def test_equal_weights_are_one_stratum_where_nothing_was_hit() -> None:
    parts = share_interval(np.zeros(20), np.full(20, 25), 0.99, np.full(20, 0.05))
    whole = share_interval([0.0], [500], 0.99)
    assert parts[1] == pytest.approx(float(whole[1]))


def test_a_stratum_all_hit_leaves_both_sides_open() -> None:
    """Hits of weight 0.03 / 5 each, by hand: Beta(5, 1 / 0.006 - 4) and Beta(6, 1 / 0.006 - 5)."""
    low, high = share_interval([1.0, 0.0], [5, 300], 0.95, [0.03, 0.97])
    expected = stats.beta.ppf(0.025, 5, 1 / 0.006 - 4), stats.beta.ppf(0.975, 6, 1 / 0.006 - 5)
    assert (low, high) == pytest.approx(expected)
    assert low < 0.03 * stats.binomtest(5, 5).proportion_ci(0.95).low
    assert high > 0.03 + 0.97 * stats.binomtest(0, 300).proportion_ci(0.95).high


def hypergeometric_high(hits: int, n: int, population: int, level: float) -> float:
    """The exact upper limit of a share of a finite population: the largest K that leaves so few hits likely enough."""
    possible = [k for k in range(population + 1) if stats.hypergeom.cdf(hits, population, k, n) > (1 - level) / 2]
    return max(possible) / population


@pytest.mark.parametrize("n", [100, 500, 900, 990])
@pytest.mark.parametrize("hits", [0, 3, 50])
def test_finite_populations_are_not_underestimated(hits: int, n: int) -> None:
    """The hypergeometric limit is one of whole faults: within one of 1,000."""
    _, high = share_interval([hits / n], [n], 0.95, 1.0, finite_shrink(n, 1000))
    exact = hypergeometric_high(hits, n, 1000, 0.95)
    assert high > exact - 0.001
    assert high < hits / n + 1.6 * (exact - hits / n) + 0.001


def test_shrink() -> None:
    assert finite_shrink(10, math.inf) == 1
    assert finite_shrink(10, 10) == 0
    assert finite_shrink(1, 2) == pytest.approx(0.5 / math.log(2))
    assert share_interval([0.2], [10], 0.95, 1.0, 0.0) == pytest.approx((0.2, 0.2))


@given(st.integers(1, 10**9), st.integers(0, 10**9))
def test_shrink_is_never_below_that_of_a_standard_error(n: int, more: int) -> None:
    shrink = float(finite_shrink(n, n + more))
    assert math.sqrt(1 - n / (n + more)) - 1e-9 <= shrink <= 1


@given(SHARES, st.integers(1, 40), st.floats(0.5, 0.999), st.randoms(use_true_random=False))
def test_intervals_hold_their_mean_and_turn_around(means: list[float], n: int, level: float, random: Random) -> None:
    weights = np.array([random.random() + 0.01 for _ in means])
    weights /= weights.sum()
    low, high = share_interval(means, n, level, weights)
    assert 0 <= low <= float(weights @ means) + 1e-9
    assert float(weights @ means) - 1e-9 <= high <= 1
    if abs(float(weights @ means) - 0.5) > 1e-9:
        turned = share_interval(1 - np.array(means), n, level, weights)
        assert (1 - turned[1], 1 - turned[0]) == pytest.approx((float(low), float(high)), abs=1e-6)
    wider = share_interval(means, n, (1 + level) / 2, weights)
    assert wider[0] <= low + 1e-9
    assert wider[1] >= high - 1e-9


def test_intervals_cover_values_between() -> None:
    """Shares drawn mostly 0, rarely large, as faults' are: 95 % intervals cover at least that often for n of 3, 30, 300."""
    rng = np.random.default_rng(0)
    for n in (3, 30, 300):
        values = np.where(rng.random((4000, n)) < 0.03, rng.random((4000, n)), 0)
        low, high = share_interval(values.mean(axis=1)[:, None], n, 0.95)
        assert ((low <= 0.015) & (high >= 0.015)).mean() > 0.95


def test_levels_and_fewest_faults() -> None:
    assert bonferroni(0.95, 1) == pytest.approx(0.95)
    assert bonferroni(0.95, 32) == pytest.approx(1 - 0.05 / 32)
    for level in (0.9, 0.95, 0.99):
        fewest = fewest_faults(level)
        assert stats.binomtest(0, fewest).proportion_ci(level).high <= 0.5 < stats.binomtest(0, fewest - 1).proportion_ci(level).high  # fmt: skip  # noqa: E501
    assert (fewest_faults(0.95), fewest_faults(0.99)) == (6, 8)
