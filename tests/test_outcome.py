"""Outcomes against hand-made cases, ranks against a sort by the rule."""

import functools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.special import softmax

from bitswap_onnx.errors import BitswapError
from bitswap_onnx.outcome import (
    CRITICAL,
    MASKED,
    NON_CRITICAL,
    Criterion,
    Golden,
    Tolerance,
    TopOne,
    judge,
    parse_criterion,
    rank,
)

NAN, INF = np.nan, np.inf
Scores = NDArray[np.float32]


def scores(*rows: list[float]) -> Scores:
    return np.array(rows, np.float32)


def golden(values: Scores, labels: list[int] | None = None, criterion: Criterion = TopOne()) -> Golden:
    return Golden(values, None if labels is None else np.array(labels), criterion)


@pytest.mark.parametrize(
    ("clean", "faulty", "code", "nonfinite"),
    [
        ([1, 2, 3], [1, 2, 3], MASKED, False),
        ([0, 2, 3], [-0.0, 2, 3], MASKED, False),  # IEEE ==
        ([1, 2, 3], [1, 2, 3.0000002], NON_CRITICAL, False),
        ([1, 2, 3], [1, 4, 3], CRITICAL, False),
        ([1, 2, 3], [1, NAN, 3], CRITICAL, True),  # NaN is the largest
        ([1, 2, 3], [1, 2, NAN], NON_CRITICAL, True),
        ([1, 2, 3], [NAN, NAN, NAN], CRITICAL, True),  # the first NaN
        ([3, 2, 1], [NAN, NAN, NAN], NON_CRITICAL, True),
        ([1, 2, 3], [1, 2, INF], NON_CRITICAL, True),
        ([1, 2, 3], [3, 2, 3], CRITICAL, False),  # a tie goes to the first maximum
        ([3, 2, 1], [3, 3, 1], NON_CRITICAL, False),
        ([1, 2, INF], [1, 2, INF], MASKED, True),
    ],
)
def test_one_inference(clean: list[float], faulty: list[float], code: int, nonfinite: bool) -> None:
    outcomes = judge(golden(scores(clean)), scores(faulty))
    assert (outcomes.code[0], bool(outcomes.nonfinite[0])) == (code, nonfinite)
    assert outcomes.counts["critical_nonfinite"] == int(code == CRITICAL and nonfinite)


VALUES = st.sampled_from([NAN, -INF, INF, -1.0, -0.0, 0.0, 1.0, 2.0])


@given(rows=st.lists(st.lists(VALUES, min_size=7, max_size=7), min_size=1, max_size=4), data=st.data())
def test_rank_is_the_position_in_the_sorted_order(rows: list[list[float]], data: st.DataObject) -> None:
    def before(a: tuple[float, int], b: tuple[float, int]) -> int:
        (x, i), (y, j) = a, b
        if np.isnan(x) != np.isnan(y):
            return -1 if np.isnan(x) else 1
        if x == y or np.isnan(x):
            return i - j
        return -1 if x > y else 1

    classes = [data.draw(st.integers(0, 6)) for _ in rows]
    orders = [sorted(((x, i) for i, x in enumerate(row)), key=functools.cmp_to_key(before)) for row in rows]
    expected = [[i for _, i in order].index(c) for order, c in zip(orders, classes, strict=True)]
    assert rank(scores(*rows), np.array(classes)).tolist() == expected
    assert [order[0][1] for order in orders] == np.argmax(scores(*rows), axis=1).tolist()


def test_counts_with_labels() -> None:
    clean = scores([6, 5, 4, 3, 2, 1], [6, 5, 4, 3, 2, 1], [1, 2, 3, 4, 5, 6])
    faulty = scores([6, 5, 4, 3, 2, 1], [1, 2, 3, 4, 5, 6], [1, 2, 3, 4, 6, 5])
    counts = judge(golden(clean, [0, 0, 4]), faulty).counts
    assert counts == {
        "top_1_correct": 2,  # inputs 0 and 2 (the fault made it right)
        "top_5_correct": 2,
        "top_1_robust": 1,
        "top_5_robust": 2,  # class 0 of input 1 is last of six now
        "masked": 1,
        "non_critical": 0,
        "critical": 2,
        "nonfinite": 0,
        "critical_nonfinite": 0,
        "sdc_5": 1,  # input 1: its new top class was sixth
        "sdc_10": 2,
        "sdc_20": 2,
    }


def test_counts_without_labels_leave_accuracy_empty() -> None:
    counts = judge(golden(scores([1, 2])), scores([2, 1])).counts
    assert counts["top_1_correct"] is None
    assert counts["top_5_correct"] is None
    assert counts["top_1_robust"] == 0


@given(
    clean=st.lists(st.floats(-5, 5, width=32), min_size=4, max_size=4),
    change=st.lists(st.floats(-1, 1, width=32), min_size=4, max_size=4),
)
def test_sdc_percentages_against_scipy(clean: list[float], change: list[float]) -> None:
    g, f = scores(clean), scores(clean) + scores(change)
    top = int(np.argmax(g))
    before, after = (softmax(x.astype(np.float64), axis=1)[0, top] for x in (g, f))
    shift = abs(after - before) / before
    counts = judge(golden(g), f).counts
    for name, limit in (("sdc_10", 0.1), ("sdc_20", 0.2)):
        if abs(shift - limit) > 1e-9:
            assert counts[name] == int(shift > limit)


def test_probabilities_are_used_as_they_are() -> None:
    clean, faulty = scores([0.5, 0.3, 0.2]), scores([0.44, 0.36, 0.2])
    assert judge(golden(clean, criterion=TopOne(probabilities=True)), faulty).counts["sdc_10"] == 1
    assert judge(golden(clean), faulty).counts["sdc_10"] == 0


def test_an_undefined_softmax_counts_as_moved() -> None:
    counts = judge(golden(scores([1, 2])), scores([INF, 2])).counts
    assert (counts["sdc_10"], counts["sdc_20"]) == (1, 1)


def test_a_masked_inference_moves_nothing() -> None:
    counts = judge(golden(scores([1, INF])), scores([1, INF])).counts
    assert (counts["masked"], counts["sdc_10"], counts["sdc_20"]) == (1, 0, 0)


@pytest.mark.parametrize(
    ("faulty", "code"),
    [([0.0, 10.0], MASKED), ([0.9, 10.0], NON_CRITICAL), ([0.0, 11.5], CRITICAL), ([0.0, NAN], CRITICAL)],
)
def test_tolerance(faulty: list[float], code: int) -> None:
    criterion = Tolerance(tolerance=0.1, span=10.0)
    outcomes = judge(golden(scores([0.0, 10.0]), criterion=criterion), scores(faulty))
    assert outcomes.code.tolist() == [code]
    assert outcomes.counts["top_1_robust"] is None
    assert outcomes.counts["sdc_5"] is None


@pytest.mark.parametrize(
    ("text", "value"), [(None, None), ("top-1", None), ("tolerance=0.05", 0.05), ("tolerance=1e-3", 1e-3)]
)
def test_criterion(text: str | None, value: float | None) -> None:
    assert parse_criterion(text).tolerance == value


@pytest.mark.parametrize(
    "text", ["", "tolerance", "tolerance=", "tolerance=-1", "tolerance=1e999", "top-5", "tolerance=e"]
)
def test_wrong_criteria(text: str) -> None:
    with pytest.raises(BitswapError, match="expected top-1 or tolerance=REL"):
        parse_criterion(text)
