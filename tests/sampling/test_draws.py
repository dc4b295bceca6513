"""Draws against chance, a plain-Python oracle and literals."""

import hashlib
import math
from collections import Counter
from itertools import combinations, permutations, product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from bitswap_onnx.errors import BitswapError
from bitswap_onnx.faults.fault import Fault, Injection, Kind
from bitswap_onnx.faults.fault_list import write_fault_list
from bitswap_onnx.sampling.draws import Sample, draw, permute
from bitswap_onnx.sampling.strata import Pattern, Region, Stratum, stratify

STUCK = (Kind.STUCK_AT_0, Kind.STUCK_AT_1)
#: Chance of a right sampler to fail one of the tests of chance here; seeds are fixed, so a pass stays one.
RARE = 1e-3

SMALL = Stratum(
    "small",
    (
        Region("a", "a.weight", ("a", None), "float32", (2, 3), (0, 5, 31)),
        Region("a", "a.bias", ("a", "bias"), "float32", (4,), (7,)),
        Region("b", "scale", ("b", "scale"), "float32", (), (1, 2)),
    ),
)


def oracle(number: int, size: int, key: str) -> int:
    """The permutation in Python's own integers, one number at a time."""
    bits = (size - 1).bit_length()
    low_bits, whole = bits // 2, (1 << 64) - 1

    def mix(value: int) -> int:
        value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9 & whole
        value = (value ^ (value >> 27)) * 0x94D049BB133111EB & whole
        return value ^ (value >> 31)

    while True:
        high, low = number >> low_bits, number & ((1 << low_bits) - 1)
        for step in range(24):
            secret = int.from_bytes(hashlib.sha256(f"{key}/{step}".encode()).digest()[:8], "little")
            if step % 2:
                low ^= mix((high + secret) & whole) & ((1 << low_bits) - 1)
            else:
                high ^= mix((low + secret) & whole) & ((1 << (bits - low_bits)) - 1)
        number = high << low_bits | low
        if number < size:
            return number


def images(size: int, key: str, n: int | None = None) -> NDArray[np.uint64]:
    return permute(np.arange(size if n is None else n, dtype=np.uint64), size, key)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 2**63), st.text(max_size=5), st.data())
def test_permutation_is_the_oracles(size: int, key: str, data: st.DataObject) -> None:
    numbers = data.draw(st.lists(st.integers(0, size - 1), min_size=1, max_size=4, unique=True))
    expected = [oracle(number, size, key) for number in numbers]
    assert permute(np.array(numbers, np.uint64), size, key).tolist() == expected
    assert len(set(expected)) == len(numbers)


@pytest.mark.parametrize("size", [*range(1, 70), 255, 256, 257, 1000, 65_537])
def test_permutation_hits_everything_once(size: int) -> None:
    assert sorted(images(size, "key").tolist()) == list(range(size))


GOLDEN_NETWORK = [4604936, 6668051, 11354716, 13182134, 13928377, 10650601]
GOLDEN_LARGE = [4949463233853498814, 8041267320474564896, 2722793383709555077]
GOLDEN_FAULTS = [
    ("b", "scale", (), 2, "stuck_at_1"),
    ("a", None, (0, 0), 31, "stuck_at_0"),
    ("a", None, (1, 1), 5, "stuck_at_1"),
]
GOLDEN_SET = [
    ("a", None, (0, 2), 31, "stuck_at_1"),
    ("a", None, (1, 2), 31, "stuck_at_0"),
    ("a", "bias", (0,), 7, "stuck_at_1"),
]


def test_golden_draws() -> None:
    """Every version of Python and numpy, on every machine, must draw these."""
    assert images(17_173_504, "0/network", 6).tolist() == GOLDEN_NETWORK
    assert images(2**63, "7/x", 3).tolist() == GOLDEN_LARGE
    drawn = list(draw(SMALL, Pattern(STUCK), 42, 3))
    assert [(f.layer, f.parameter, f.index, f.bit, f.kind.value) for (f,) in drawn] == GOLDEN_FAULTS
    scattered = next(draw(SMALL, Pattern(STUCK, 3), 42, 1))
    assert [(f.layer, f.parameter, f.index, f.bit, f.kind.value) for f in scattered] == GOLDEN_SET


@pytest.mark.parametrize("size", [2, 3, 4, 5])
def test_small_permutations_are_equally_likely(size: int) -> None:
    trials = 3000
    seen = Counter(tuple(images(size, f"{trial}/s").tolist()) for trial in range(trials))
    assert stats.chisquare([seen[order] for order in permutations(range(size))]).pvalue > RARE


@pytest.mark.parametrize("size", [11, 16, 37])
def test_pairs_are_drawn_equally_often(size: int) -> None:
    trials = 3000
    seen = Counter(tuple(sorted(images(size, f"{trial}/s", 2).tolist())) for trial in range(trials))
    assert stats.chisquare([seen[pair] for pair in combinations(range(size), 2)]).pvalue > RARE


@pytest.mark.parametrize("size", [1_000_003, 2**32, 10**18])
def test_large_samples_are_spread_evenly_and_in_random_order(size: int) -> None:
    drawn = images(size, "1/large", 200_000).astype(np.float64) / size
    assert stats.kstest(drawn[:50_000], "uniform").pvalue > RARE
    for lag in (1, 2, 1000):
        table, _, _ = np.histogram2d(drawn[:-lag], drawn[lag:], bins=16, range=[[0, 1], [0, 1]])
        assert stats.chisquare(table.ravel()).pvalue > RARE
    low = images(size, "1/large", 200_000) & np.uint64(63) if size == 2**32 else np.arange(64)
    assert stats.chisquare(np.bincount(low.astype(np.int64))).pvalue > RARE


def test_seeds_are_unrelated() -> None:
    """Places of one rank under neighbouring seeds are as independent as those of one seed."""
    drawn = np.array([images(1000, f"{seed}/s", 20) for seed in range(2000)]).astype(np.float64)
    correlations = np.corrcoef(drawn[:-1, 0], drawn[1:, 0])[0, 1], np.corrcoef(drawn[:, 0], drawn[:, 1])[0, 1]
    assert max(map(abs, correlations)) < 4 / math.sqrt(2000)
    assert stats.chisquare(np.bincount(drawn.astype(np.int64).ravel() // 10, minlength=100)).pvalue > RARE


def everything(stratum: Stratum, kinds: tuple[Kind, ...]) -> list[Fault]:
    return [
        Fault(region.address[0], index, bit, kind, parameter=region.address[1])
        for region in stratum.regions
        for index in np.ndindex(region.shape)
        for bit in region.bits
        for kind in kinds
    ]


@pytest.mark.parametrize("kinds", [(Kind.FLIP,), STUCK, (Kind.FLIP, *STUCK)])
def test_a_whole_stratum_comes_in_order_and_a_part_of_it_at_random(kinds: tuple[Kind, ...]) -> None:
    pattern, faults = Pattern(kinds), everything(SMALL, kinds)
    assert pattern.population(SMALL.slots) == len(faults) == 24 * len(kinds)
    assert list(draw(SMALL, pattern, 3, len(faults))) == [(fault,) for fault in faults]
    part = list(draw(SMALL, pattern, 3, 20))
    assert len(set(part)) == 20
    assert {fault for (fault,) in part} <= set(faults)
    assert part != sorted(part, key=lambda entry: faults.index(entry[0]))


@given(st.integers(0, 2**40), st.integers(1, 20), st.integers(0, 20))
def test_larger_samples_begin_with_smaller_ones(seed: int, size: int, start: int) -> None:
    for pattern in (Pattern(), Pattern(STUCK, 2)):
        long = list(draw(SMALL, pattern, seed, 21))
        assert list(draw(SMALL, pattern, seed, size)) == long[:size]
        assert list(draw(SMALL, pattern, seed, 21, start)) == long[start:]


def test_same_seed_same_list() -> None:
    def listed(seed: int, name: str = "small") -> list[Injection]:
        return list(Sample((Stratum(name, SMALL.regions), SMALL), (5, 6), Pattern(), seed))

    first = listed(0)
    assert [injection.id for injection in first] == [str(number) for number in range(11)]
    assert listed(0) == first
    assert listed(1)[:5] != first[:5]
    assert listed(0, "other")[:5] != first[:5]
    assert listed(0, "other")[5:] == first[5:]  # a stratum's draws are its own


def test_a_sample_of_everything_hits_regions_in_proportion() -> None:
    shapes = {"a": (100, 50), "b": (2000,), "c": (7,)}
    regions = tuple(
        Region(name, name, (name, None), "float32", shape, tuple(range(32))) for name, shape in shapes.items()
    )
    (stratum,) = stratify(regions, lambda region, bit: "network")
    hit = Counter(fault.layer for (fault,) in draw(stratum, Pattern(), 5, 20_000))
    expected = np.array([region.slots for region in regions]) / stratum.slots * 20_000
    assert stats.chisquare([hit[name] for name in shapes], expected).pvalue > RARE


@pytest.mark.parametrize("kinds", [(Kind.FLIP,), STUCK])
@pytest.mark.parametrize("stratum", [SMALL, Stratum("conv", SMALL.regions[:1])])
def test_examples_need_the_columns_of_the_list(kinds: tuple[Kind, ...], stratum: Stratum, tmp_path: Path) -> None:
    sample = Sample((stratum,), (10,), Pattern(kinds), 0)
    assert write_fault_list(tmp_path / "a.csv", sample, sample.examples) == write_fault_list(tmp_path / "b.csv", sample)
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()


def test_scattered_faults_are_all_sets_once() -> None:
    pattern = Pattern(STUCK, 2)
    stratum = Stratum("four", (Region("a", "a", ("a", None), "float32", (2,), (3, 4)),))
    assert pattern.population(stratum.slots) == 24  # 6 pairs of places, 4 pairs of kinds
    sets = [frozenset(faults) for faults in draw(stratum, pattern, 0, 24)]
    places = list(product(range(2), (3, 4)))
    assert set(sets) == {
        frozenset(Fault("a", (i,), bit, kind) for ((i, bit), kind) in zip(pair, kinds, strict=True))
        for pair in combinations(places, 2)
        for kinds in product(STUCK, repeat=2)
    }
    assert len(set(sets)) == 24
    with pytest.raises(BitswapError, match="four: expected at most 24 injections, as many as it has, found 25"):
        list(draw(stratum, pattern, 0, 25))


def test_scattered_sets_are_equally_likely() -> None:
    """Also those of later passes: each pass over 4 places has 2 sets, and 5 are drawn."""
    stratum = Stratum("four", (Region("a", "a", ("a", None), "float32", (2,), (3, 4)),))
    seen = Counter(frozenset(s) for seed in range(600) for s in draw(stratum, Pattern((Kind.FLIP,), 2), seed, 5))
    missing = [600 - count for count in seen.values()]  # one of six is missing per seed
    assert len(seen) == 6
    assert stats.chisquare(missing).pvalue > RARE


@given(st.integers(0, 999), st.integers(2, 5), st.integers(1, 30))
def test_scattered_faults_are_distinct(seed: int, multiplicity: int, size: int) -> None:
    sets = list(draw(SMALL, Pattern((Kind.FLIP, *STUCK), multiplicity), seed, size))
    assert len({frozenset(faults) for faults in sets}) == len(sets) == size
    for faults in sets:
        assert len({(f.layer, f.parameter, f.index, f.bit) for f in faults}) == len(faults) == multiplicity


def test_bursts_hit_neighbouring_bits_of_one_element() -> None:
    stratum = Stratum("a", (Region("a", "a", ("a", "bias"), "float32", (5,), (0, 1, 29)),))
    bursts = list(draw(stratum, Pattern(STUCK, 3, burst=True), 0, 30))
    assert len({frozenset(faults) for faults in bursts}) == 30
    for faults in bursts:
        assert len({(f.layer, f.parameter, f.index, f.kind) for f in faults}) == 1
        assert [f.bit for f in faults] in ([0, 1, 2], [1, 2, 3], [29, 30, 31])
