"""Sizes of fault lists: published ones to the unit, the formula, proportions worked out by hand."""

import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from bitswap_onnx.sampling.sizes import FLOOR, normal_quantile, proportions_of, sample_size

#: Parameters of ResNet20's convolutions and its linear layer, in order (Ruospo et al., DATE 2023).
RESNET20 = [432, *[2304] * 6, 4608, *[9216] * 5, 18432, *[36864] * 5, 640]


def published(population: int, rounding: str) -> int:
    return sample_size(population, 0.01, 2.58, 0.5, "ceil" if rounding == "ceil" else "nearest")


@pytest.mark.parametrize("rounding", ["nearest", "ceil"])
def test_published_sizes(rounding: str) -> None:
    """Counted with 64 faults per parameter; per bit and layer that is 2 per parameter, one for each stuck value."""
    assert sum(RESNET20) * 64 == 17_173_504
    assert published(sum(RESNET20) * 64, rounding) == 16_625
    assert published(sum(RESNET20) * 32, rounding) == 16_609
    layers = sum(published(elements * 64, rounding) for elements in RESNET20)
    assert layers == {"nearest": 307_649, "ceil": 307_660}[rounding]
    bits = 32 * sum(published(elements * 2, rounding) for elements in RESNET20)
    assert bits == {"nearest": 4_885_632, "ceil": 4_885_696}[rounding]


SHARES = st.floats(0.001, 0.999)


@given(st.integers(1, 10**12), st.floats(1e-4, 0.5), st.floats(0.5, 4), SHARES)
def test_sizes_are_the_formula(population: int, margin: float, t: float, p: float) -> None:
    e, z, q = Fraction(margin), Fraction(t), Fraction(p)
    exact = population / (1 + e**2 * (population - 1) / (z**2 * q * (1 - q)))
    for rounding, bound in (("nearest", Fraction(1, 2)), ("ceil", Fraction(1))):
        size = sample_size(population, margin, t, p, "ceil" if rounding == "ceil" else "nearest")
        assert min(FLOOR, population) <= size <= population
        assert abs(size - exact) <= bound + exact / 10**9 or size == FLOOR


@given(st.integers(1, 10**9), st.integers(1, 10**9), SHARES, SHARES)
def test_sizes_grow(one: int, more: int, share: float, other: float) -> None:
    assert sample_size(one, 0.01, 2.58, 0.5) <= sample_size(one + more, 0.01, 2.58, 0.5)
    narrow, wide = sorted((share, other))
    assert sample_size(one, narrow, 2.58, 0.5) >= sample_size(one, wide, 2.58, 0.5)
    assert sample_size(one, 0.01, narrow, 0.5) <= sample_size(one, 0.01, wide, 0.5)
    assert sample_size(one, 0.01, 2.58, narrow / 2) <= sample_size(one, 0.01, 2.58, wide / 2)


def test_no_stratum_is_empty_and_none_too_large() -> None:
    assert sample_size(10**6, 0.01, 2.58, 0.0) == FLOOR
    assert sample_size(1, 0.01, 2.58, 0.0) == 1
    assert sample_size(math.comb(10**9, 60), 0.01, 2.58, 0.5) == 16_641  # beyond the range of a float


@given(st.floats(0.01, 0.9999))
def test_quantile(confidence: float) -> None:
    assert normal_quantile(confidence) == pytest.approx(stats.norm.ppf((1 + confidence) / 2), rel=1e-9)


def test_quantile_of_the_largest_confidence_there_is() -> None:
    assert normal_quantile(1 - 2**-53) == pytest.approx(-stats.norm.ppf(2**-54))


def test_proportions() -> None:
    """Hand-made: 31 usual distances and an outlier; without one the largest gets 0.5; infinity is an outlier."""
    usual = [float(number) for number in range(31)]
    assert proportions_of([*usual, 1e37]) == pytest.approx([number / 60 for number in range(31)] + [0.5])
    assert proportions_of([1, 2, 5]) == pytest.approx([0, 0.125, 0.5])
    assert proportions_of([1, 3, math.inf]) == pytest.approx([0, 0.5, 0.5])
    assert proportions_of([0, 0]) == (0, 0)
