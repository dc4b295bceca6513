"""Clustered means and the stratified bootstrap: scipy, the reference data's figures, coverage by simulation."""

import csv

import numpy as np
import pytest
from scipy import stats

from bitswap_onnx.stats.clustered import Mean, bootstrap_interval, clustered_mean, upper_share
from tests import reference


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_mean_and_interval_are_those_of_a_t_test() -> None:
    values = rng().normal(size=40) ** 2
    mean = clustered_mean(values)
    assert mean.se == pytest.approx(stats.sem(values))
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.9)
    assert mean.interval(0.9) == pytest.approx((expected.low, expected.high))


def test_one_fault_has_no_spread() -> None:
    mean = clustered_mean(np.array([0.25]))
    assert (mean.n, mean.mean) == (1, 0.25)
    assert np.isnan([mean.se, *mean.interval(0.95)]).all()
    assert np.isnan(bootstrap_interval(np.array([0.25]), np.array(["a"]), rng())).all()
    assert Mean(2, 1.0, 0.0).interval(0.95) == (1.0, 1.0)


@reference.needed
def test_published_standard_error() -> None:
    """ResNet20's published criticals: 1.276 % ± 0.081 with faults as sampling units."""
    with (reference.RESNET_FILES / "ResNet20_FL.csv").open() as file:
        shares = np.array([int(row["critical"]) / int(row["n_injections"]) for row in csv.DictReader(file)])
    mean = clustered_mean(shares)
    assert (round(100 * mean.mean, 3), round(100 * mean.se, 3)) == (1.276, 0.081)


def test_bootstrap_is_scipys_for_one_stratum() -> None:
    values = rng(1).exponential(size=200).round(1)
    ours = bootstrap_interval(values, np.zeros(200), rng(2), draws=20_000)
    theirs = stats.bootstrap(
        (values,), np.mean, n_resamples=20_000, method="percentile", random_state=rng(3)
    ).confidence_interval
    assert ours == pytest.approx((theirs.low, theirs.high), abs=0.01)


def test_bootstrap_draws_within_strata() -> None:
    """Strata that differ only from each other leave nothing to vary; lone faults are drawn from together."""
    values = np.repeat([0.0, 1.0], 50)
    assert bootstrap_interval(values, values, rng()) == (0.5, 0.5)
    low, high = bootstrap_interval(values, np.zeros(100), rng())
    assert low < 0.45 < 0.55 < high
    low, high = bootstrap_interval(values, np.arange(100), rng())
    assert low < 0.45 < 0.55 < high


def test_bootstrap_is_seeded() -> None:
    values, strata = rng(4).normal(size=50), np.repeat(np.arange(5), 10)
    assert bootstrap_interval(values, strata, rng(7)) == bootstrap_interval(values, strata, rng(7))
    assert bootstrap_interval(values, strata, rng(7)) != bootstrap_interval(values, strata, rng(8))


def test_intervals_cover_as_often_as_they_say() -> None:
    """Three layers of different means; 400 samples; 95 % intervals within four standard errors of 95 %."""
    means, sizes = np.array([0.0, 0.2, 1.0]), np.array([40, 60, 100])
    strata, truth = np.repeat(np.arange(3), sizes), float(means @ sizes / sizes.sum())
    draw = rng(5)
    hits = np.zeros(2)
    for _ in range(400):
        values = draw.exponential(size=200) - 1 + means[strata]
        low, high = bootstrap_interval(values, strata, draw, draws=400)
        hits[0] += low <= truth <= high
        low, high = clustered_mean(values).interval(0.95)
        hits[1] += low <= truth <= high
    assert (np.abs(hits / 400 - 0.95) < 0.045).all(), hits
    assert hits[1] >= hits[0]  # what lies between the strata is no part of the stratified interval


@pytest.mark.parametrize(("hits", "n"), [(0, 42), (1, 42), (41, 42), (42, 42), (3, 16_627)])
def test_upper_bound_of_a_share_is_scipys(hits: int, n: int) -> None:
    expected = stats.binomtest(hits, n, alternative="less").proportion_ci(0.95).high
    assert upper_share(hits, n) == pytest.approx(expected)
    assert upper_share(0, 0) == 1
