"""Fingerprints: equal where the rules call scores equal, different where anything that is stored differs."""

import numpy as np
import pytest
from numpy.typing import NDArray

from bitswap_onnx.outcome import Golden, TopOne, judge_rows
from bitswap_onnx.runtime.fingerprint import fingerprint

GOLDEN = np.array([[1, 0], [0, 1], [2, 1], [0, 3], [5, 4]], np.float32)


def of(scores: dict[int, list[float]], inputs: list[int], golden: NDArray[np.float32] = GOLDEN) -> int:
    """The fingerprint of an injection that has these scores, by input, and golden ones elsewhere."""
    rows, faulty = np.array(list(scores), np.intp), np.array(list(scores.values()), np.float32).reshape(-1, 2)
    (outcomes,) = judge_rows(Golden(golden, np.zeros(len(golden), np.int64), TopOne()), rows, faulty, (0, len(rows)))
    return fingerprint(outcomes, golden, rows, faulty, np.array(inputs, np.intp))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({}, {1: [0, 1]}),
        ({1: [0, 1]}, {1: [-0.0, 1]}),
        ({3: [7, 7], 1: [2, 3]}, {1: [2, 3], 3: [7, 7]}),
        ({1: [np.nan, 1]}, {1: [-np.nan, 1]}),
        ({0: [9, 9], 1: [2, 3]}, {1: [2, 3], 4: [8, 8]}),
    ],
    ids=["golden", "zeros", "order", "nan", "other inputs"],
)
def test_equal(one: dict[int, list[float]], other: dict[int, list[float]]) -> None:
    assert of(one, [1, 3]) == of(other, [1, 3])


@pytest.mark.parametrize(
    "other",
    [{}, {1: [2, 3.0000002]}, {3: [2, 3]}, {1: [np.nan, 3]}, {1: [2, 3], 3: [0, 4]}],
    ids=["golden", "a last bit", "another input", "nan", "one more"],
)
def test_different(other: dict[int, list[float]]) -> None:
    assert of({1: [2, 3]}, [1, 3]) != of(other, [1, 3])


def test_outcomes_count_too() -> None:
    """The same faulty scores, judged by other golden ones."""
    everywhere = {i: [float(i), 2.0] for i in range(5)}
    assert of(everywhere, [1, 3]) != of(everywhere, [1, 3], golden=GOLDEN[:, ::-1].copy())


def test_the_scores_that_came_in_stay() -> None:
    golden = GOLDEN.copy()
    of({1: [np.nan, -0.0]}, [0, 1], golden)
    assert (golden == GOLDEN).all()
