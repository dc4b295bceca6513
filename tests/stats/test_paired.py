"""Equivalence, McNemar, kappa, agreement: against scipy and worked examples."""

import numpy as np
import pytest
from scipy import stats

from bitswap_onnx.stats.clustered import Mean, clustered_mean
from bitswap_onnx.stats.paired import (
    DIFFERENT,
    EQUIVALENT,
    NOT_SHOWN,
    equivalence,
    kappa,
    mcnemar,
    positive_agreement,
)


@pytest.mark.parametrize("shift", [0.0, 0.05, -0.2])
def test_two_one_sided_tests_are_scipys(shift: float) -> None:
    d = np.random.default_rng(0).normal(shift, 1, 80)
    test = equivalence(clustered_mean(d), 0.3)
    lower = stats.ttest_1samp(d, -0.3, alternative="greater").pvalue
    upper = stats.ttest_1samp(d, 0.3, alternative="less").pvalue
    assert test.p == pytest.approx(max(lower, upper))
    expected = stats.ttest_1samp(d, 0).confidence_interval(0.9)
    assert (test.low, test.high) == pytest.approx((expected.low, expected.high))
    assert (test.verdict == EQUIVALENT) == (test.p < 0.05)


@pytest.mark.parametrize(
    ("mean", "verdict"),
    [
        (Mean(1000, 0.0, 0.01), EQUIVALENT),
        (Mean(1000, 0.05, 0.01), EQUIVALENT),  # small and sure
        (Mean(1000, 0.0, 0.1), NOT_SHOWN),
        (Mean(1000, 0.3, 0.05), DIFFERENT),
        (Mean(1000, -0.3, 0.05), DIFFERENT),
        (Mean(1000, 0.09, 0.02), DIFFERENT),
        (Mean(1000, 0.0, 0.0), EQUIVALENT),
        (Mean(1000, 0.1, 0.0), DIFFERENT),
        (Mean(29, 0.0, 0.0), NOT_SHOWN),
        (Mean(1, 0.0, np.nan), NOT_SHOWN),
    ],
)
def test_verdicts(mean: Mean, verdict: str) -> None:
    assert equivalence(mean, 0.1).verdict == verdict


def test_equivalence_is_claimed_wrongly_in_one_of_twenty() -> None:
    """The truth lies on the margin: 5 % of 2,000 samples may be called equivalent."""
    draw = np.random.default_rng(1)
    claims = [equivalence(clustered_mean(draw.normal(0.2, 1, 400)), 0.2).verdict == EQUIVALENT for _ in range(2000)]
    assert np.mean(claims) == pytest.approx(0.05, abs=0.02)


@pytest.mark.parametrize(("a_only", "b_only"), [(0, 0), (0, 1), (5, 5), (3, 12), (12, 3), (40, 20)])
def test_mcnemar_is_a_binomial_test(a_only: int, b_only: int) -> None:
    a = np.array([True] * a_only + [False] * b_only + [True] * 7 + [False] * 9)
    b = np.array([False] * a_only + [True] * b_only + [True] * 7 + [False] * 9)
    result = mcnemar(a, b)
    expected = stats.binomtest(a_only, a_only + b_only).pvalue if a_only + b_only else 1.0
    assert (result.a_only, result.b_only) == (a_only, b_only)
    assert result.p == pytest.approx(expected)


def test_kappa_by_hand() -> None:
    """Cohen's two-rater example: 20, 5; 10, 15: agreement 0.7, by chance 0.5."""
    assert kappa(np.array([[20, 5], [10, 15]])) == pytest.approx(0.4)
    # 3 classes: agreement 0.8; chance .5 * .5 + .3 * .4 + .2 * .1 = 0.39
    assert kappa(np.array([[4, 1, 0], [0, 3, 0], [1, 0, 1]])) == pytest.approx((0.8 - 0.39) / 0.61)
    assert kappa(np.diag([4, 1, 2])) == pytest.approx(1)
    assert np.isnan(kappa(np.zeros((3, 3), np.int64)))
    assert np.isnan(kappa(np.diag([4, 0, 0])))


def test_positive_agreement_by_hand() -> None:
    assert positive_agreement(np.array([[90, 2, 1], [0, 50, 3], [4, 0, 6]])) == pytest.approx(12 / (12 + 4 + 4))
    assert np.isnan(positive_agreement(np.diag([5, 5, 0])))
