"""Draws of random bit errors: against the binomial and uniform distributions, and unchanged by other settings."""

import re
from collections.abc import Sequence
from itertools import pairwise, product
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from bitswap_onnx.errors import BitswapError
from bitswap_onnx.experiments.sweep import bit_errors
from bitswap_onnx.experiments.sweep.bit_errors import (
    BitErrors,
    BitRegion,
    SweepPlan,
    draw_errors,
    faults_at,
    plan_sweep,
)
from bitswap_onnx.experiments.sweep.rates import check_rates, parse_rates
from bitswap_onnx.faults.fault import Fault, Site

#: A test of a distribution fails with this probability, were the seed not fixed.
_CHANCE = 1e-3

WEIGHTS = BitRegion("conv", (3, 2, 2), 32, parameter="weight")
NEURONS = BitRegion("fc", (5,), 16, site=Site.OUTPUT, inputs=4)
EMPTY = BitRegion("none", (0, 3), 32, parameter="bias")
SCALAR = BitRegion("scale", (), 8, parameter="scale")
REGIONS = (WEIGHTS, NEURONS, EMPTY, SCALAR)


def draws(bits: int, rate: float, number: int) -> list[BitErrors]:
    return [draw_errors(bits, rate, np.random.SeedSequence(1, spawn_key=(k,))) for k in range(number)]


def is_binomial(flips: Sequence[int], bits: int, rate: float) -> bool:
    """Chi-square of the numbers of flips, pooled where fewer than 10 are expected, against the binomial distribution."""
    law = stats.binom(bits, rate)
    edges = np.unique(law.ppf(np.linspace(0.02, 0.98, 25)))
    expected = len(flips) * np.diff([0.0, *law.cdf(edges), 1.0])
    seen = np.bincount(np.searchsorted(edges, flips), minlength=len(expected))
    enough = expected >= 10
    if not enough.all():
        expected = np.append(expected[enough], expected[~enough].sum())
        seen = np.append(seen[enough], seen[~enough].sum())
    return bool(stats.chisquare(seen, expected).pvalue > _CHANCE)


@pytest.mark.parametrize(
    ("bits", "rate"), [(200, 0.03), (200, 0.97), (8_586_752, 1e-7), (10**13, 1e-13), (10**13, 3e-12)]
)
def test_number_of_flips_is_binomial(bits: int, rate: float) -> None:
    flips = [len(errors.positions) for errors in draws(bits, rate, 4000)]
    assert is_binomial(flips, bits, rate)
    mean, variance = bits * rate, bits * rate * (1 - rate)
    assert np.mean(flips) == pytest.approx(mean, abs=4 * np.sqrt(variance / 4000))
    assert np.var(flips, ddof=1) == pytest.approx(variance, rel=0.15)


def test_number_of_flips_below_the_highest_rate_is_binomial() -> None:
    flips = [int((errors.thresholds < 0.02 / 0.05).sum()) for errors in draws(1000, 0.05, 4000)]
    assert is_binomial(flips, 1000, 0.02)


@pytest.mark.parametrize(("bits", "rate"), [(100, 0.05), (100, 0.6), (10**13, 1e-12)])
def test_positions_and_thresholds_are_uniform(bits: int, rate: float) -> None:
    found = draws(bits, rate, 2000)
    positions = np.concatenate([errors.positions for errors in found])
    thresholds = np.concatenate([errors.thresholds for errors in found])
    assert stats.chisquare(np.bincount(positions * 20 // bits, minlength=20)).pvalue > _CHANCE
    assert stats.kstest(thresholds, "uniform").pvalue > _CHANCE
    assert abs(stats.spearmanr(positions, thresholds).statistic) < 4 / np.sqrt(len(positions))


def test_pairs_of_positions_are_uniform() -> None:
    """All pairs of 6 bits are equally likely, with each of numpy's methods of drawing without replacement."""
    found = [tuple(errors.positions) for errors in draws(6, 0.3, 8000)]
    pairs = [found.count(pair) for pair in product(range(6), repeat=2) if pair[0] < pair[1]]
    assert len(pairs) == 15
    assert stats.chisquare(pairs).pvalue > _CHANCE


@given(bits=st.integers(1, 10**13), expected=st.floats(1e-3, 300), seed=st.integers(0, 2**64))
@settings(deadline=None, max_examples=60)
def test_positions_are_distinct_and_inside(bits: int, expected: float, seed: int) -> None:
    errors = draw_errors(bits, min(expected / bits, 0.999), np.random.SeedSequence(seed))
    assert (np.diff(errors.positions) > 0).all()
    assert errors.positions.dtype == np.int64
    assert not len(errors.positions) or (errors.positions[0] >= 0 and errors.positions[-1] < bits)
    assert ((errors.thresholds >= 0) & (errors.thresholds < 1)).all()


def test_every_bit_is_one_fault() -> None:
    """All positions in order are all bits of all regions: input by input, element by element, least significant first."""
    expected = [
        *(Fault("conv", (a, b, c), bit, parameter="weight") for a, b, c, bit in product(*map(range, (3, 2, 2, 32)))),
        *(Fault("fc", (a,), bit, site=Site.OUTPUT, input=i) for i, a, bit in product(*map(range, (4, 5, 16)))),
        *(Fault("scale", (), bit, parameter="scale") for bit in range(8)),
    ]
    total = sum(region.bits for region in REGIONS)
    assert total == len(expected)
    assert faults_at(REGIONS, np.arange(total)) == expected
    assert faults_at(REGIONS, np.array([383, 384, total - 1])) == [expected[383], expected[384], expected[-1]]
    assert faults_at(REGIONS, np.empty(0, np.int64)) == []


def test_positions_beyond_32_bits() -> None:
    """The last bit of 10 million inputs of a layer of 31 million bits."""
    region = BitRegion("conv", (64, 112, 112), 32, site=Site.OUTPUT, inputs=10**7)
    last = faults_at([WEIGHTS, region], np.array([WEIGHTS.bits + region.bits - 1]))
    assert last == [Fault("conv", (63, 111, 111), 31, site=Site.OUTPUT, input=10**7 - 1)]
    assert type(last[0].index[0]) is int
    assert type(last[0].bit) is int


RATES = st.sets(st.sampled_from([1e-9, 1e-4, 1e-3, 2e-3, 0.01, 0.05, 0.3, 0.9]), min_size=1).map(sorted)


@given(rates=RATES, repeats=st.integers(1, 4), seed=st.integers(0, 1000))
@settings(deadline=None, max_examples=60)
def test_flips_at_a_rate_are_among_those_at_any_higher_one(rates: list[float], repeats: int, seed: int) -> None:
    plan = plan_sweep(REGIONS, rates, repeats, seed)
    assert [(point.rate, point.repeat) for point in plan.points] == list(product(rates, range(repeats)))
    flips = flips_of(plan)
    for repeat in range(repeats):
        of_repeat = [flips[rate, repeat] for rate in rates]
        assert all(low <= high for low, high in pairwise(of_repeat))
    assert len({injection.id for injection in plan.injections}) == len(plan.injections)
    drawn = {(injection.id.split("_r")[1], injection.faults) for injection in plan.injections}
    assert len(drawn) == len(plan.injections), "the same flips of a repeat run twice"
    assert {injection.id for injection in plan.injections} == {point.injection for point in plan.points} - {""}


def flips_of(plan: SweepPlan) -> dict[tuple[float, int], set[Fault]]:
    """Return the flips at each rate and repeat, and check their number."""
    faults = {injection.id: injection.faults for injection in plan.injections} | {"": ()}
    for point in plan.points:
        assert point.flips == len(faults[point.injection]) == len(set(faults[point.injection]))
    return {(point.rate, point.repeat): set(faults[point.injection]) for point in plan.points}


def test_what_stays_when_what_changes() -> None:
    rates = (0.001, 0.01, 0.02)
    flips = flips_of(plan_sweep(REGIONS, rates, 6, seed=3))
    more = flips_of(plan_sweep(REGIONS, rates, 9, seed=3))
    assert {key: more[key] for key in flips} == flips
    others = flips_of(plan_sweep(REGIONS, (0.02, 0.001, 0.005), 6, seed=3))
    assert all(others[key] == flips[key] for key in others.keys() & flips.keys())
    assert len(others.keys() & flips.keys()) == 12
    for changed in (
        plan_sweep(REGIONS, rates, 6, seed=4),
        plan_sweep(REGIONS[:2], rates, 6, seed=3),
        plan_sweep(REGIONS, (*rates, 0.03), 6, seed=3),
    ):
        assert flips_of(changed)[0.02, 0] != flips[0.02, 0]


def test_ids_and_shared_injections() -> None:
    """Where the flips at 2e-8 are those at 1e-8, no further injection runs."""
    region = BitRegion("fc", (2**20,), 32, parameter="weight")
    plan = plan_sweep([region], (1e-8, 2e-8, 1e-6), 40, seed=0)
    names = {(point.rate, point.repeat): point.injection for point in plan.points}
    shared = [repeat for repeat in range(40) if names[2e-8, repeat] == names[1e-8, repeat] != ""]
    assert shared
    assert names[2e-8, shared[0]] == f"1e-08_r{shared[0]}"
    assert names[1e-6, 7] == "1e-06_r7"
    assert sum(point.flips == 0 for point in plan.points) == sum(name == "" for name in names.values()) > 0


@pytest.mark.parametrize(
    ("text", "rates"),
    [
        ("1e-10:1e-6", (1e-10, 1e-9, 1e-8, 1e-7, 1e-6)),
        ("3e-9:3e-7", (3e-9, 3e-8, 3e-7)),
        ("1e-9:5e-8", (1e-9, 1e-8, 5e-8)),
        ("0.3:0.31", (0.3, 0.31)),
        ("1e-6", (1e-6,)),
        ("1e-3, 1e-5,2e-4", (1e-5, 2e-4, 1e-3)),
    ],
)
def test_rates(text: str, rates: tuple[float, ...]) -> None:
    assert parse_rates(text) == rates


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1e-6:1e-10", "`rates`: expected LOW:HIGH with LOW below HIGH, found '1e-6:1e-10'"),
        ("1e-6:1e-6", "`rates`: expected LOW:HIGH with LOW below HIGH, found '1e-6:1e-6'"),
        ("0:1e-6", "`rates`: expected rates between 0 and 1, both excluded, found 0"),
        ("1e-3:1", "`rates`: expected rates between 0 and 1, both excluded, found 1"),
        ("1e-400", "`rates`: expected rates between 0 and 1, both excluded, found 0"),
        ("0.1,1.5", "`rates`: expected rates between 0 and 1, both excluded, found 1.5"),
        ("-1e-6", "`rates`: expected rates between 0 and 1, both excluded, found -1e-06"),
        ("nan", "`rates`: expected rates between 0 and 1, both excluded, found nan"),
        ("1e-9:nan", "`rates`: expected rates between 0 and 1, both excluded, found nan"),
        ("1e-6,1e-7,1e-6", "`rates`: 1e-06 is given twice; give each rate once"),
        *(
            (text, f"`rates`: expected LOW:HIGH or numbers separated by commas, like 1e-10:1e-6, found {text!r}")
            for text in ("", "many", "1e-6,", ":", "1e-9:1e-8:1e-7", "1e-9,1e-8:1e-7")
        ),
    ],
)
def test_wrong_rates(text: str, message: str) -> None:
    with pytest.raises(BitswapError, match=f"^{re.escape(message)}$"):
        parse_rates(text)


def test_wrong_input() -> None:
    with pytest.raises(BitswapError, match="at least one bit error rate, found none"):
        check_rates([])
    with pytest.raises(BitswapError, match="`repeats`: expected a positive number, found 0"):
        plan_sweep(REGIONS, [0.1], 0, 0)
    with pytest.raises(BitswapError, match="there are no bits to flip"):
        plan_sweep([EMPTY], [0.1], 1, 0)


@pytest.mark.parametrize("rates", ["1e-6:1e-5", ["a"], None])
def test_rates_are_numbers(rates: Any) -> None:
    with pytest.raises(BitswapError, match="`rates`: expected numbers like"):
        check_rates(rates)


@pytest.mark.parametrize(
    ("rates", "expected"), [(0.25, (0.25,)), ([0.5, 0.25], (0.25, 0.5)), (iter([np.float32(0.25)]), (0.25,))]
)
def test_one_rate_and_numbers_of_numpy_are_taken(rates: Any, expected: tuple[float, ...]) -> None:
    assert check_rates(rates) == expected


def test_more_flips_than_a_campaign_can_hold_are_refused() -> None:
    """The message names the rate that is too high; a sweep of the lower rates is not refused."""
    region = BitRegion("conv", (10**8,), 32, parameter="weight")
    message = (
        "`rates`: at 0.001, 3,200,000,000 bits have 3,200,000 flips in each of 30 repeats: with the rates below it "
        f"105,600,000 faults in all, more than {bit_errors.MAX_FAULTS:,}; leave out the highest rates"
    )
    with pytest.raises(BitswapError, match=re.escape(message)):
        plan_sweep([region], (1e-4, 1e-3), 30, 0)
    assert len(plan_sweep([region], (1e-10, 1e-8), 30, 0).points) == 60


def test_uniform_over_regions() -> None:
    """Weights, neurons and scales have flips in proportion to their bits."""
    plan = plan_sweep(REGIONS, [0.1], 300, 0)
    layers = [fault.layer for injection in plan.injections for fault in injection.faults]
    seen: NDArray[np.int64] = np.array([layers.count(region.layer) for region in REGIONS])
    bits = np.array([region.bits for region in REGIONS])
    assert seen[2] == 0
    assert stats.chisquare(seen[bits > 0], seen.sum() * bits[bits > 0] / bits.sum()).pvalue > _CHANCE
