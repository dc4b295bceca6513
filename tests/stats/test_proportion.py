"""The interval of a share of inferences: scipy's Wilson interval, and coverage by simulation."""

import numpy as np
import pytest
from scipy import stats

from bitswap_onnx.stats.proportion import Proportion, proportion


def test_interval() -> None:
    """Wilson's for one inference per input; as many inferences as they are worth for several."""
    for hits in (0, 1, 7, 50):
        once = np.arange(50)[:, None] < hits
        low, high = stats.binomtest(hits, 50).proportion_ci(method="wilson")
        check_interval(proportion(once), hits, 50, (low, high))
        again = proportion(np.repeat(once, 4, axis=1))  # trials that repeat the first add nothing
        check_interval(again, 4 * hits, 200, (low, high))
    alike = np.tile([True, False, False, False], (50, 1))  # inputs that do not differ: all inferences count
    low, high = stats.binomtest(50, 200).proportion_ci(method="wilson")
    check_interval(proportion(alike), 50, 200, (low, high))
    empty = proportion(np.empty((0, 3), np.bool_))
    assert (empty.inferences, str(empty.share), str(empty.low)) == (0, "nan", "nan")


def check_interval(found: Proportion, hits: int, inferences: int, interval: tuple[float, float]) -> None:
    assert (found.hits, found.inferences) == (hits, inferences)
    assert (found.low, found.high) == pytest.approx(interval, abs=1e-12)


def test_interval_covers() -> None:
    """Inputs that differ in how easily they are misclassified, five trials each: 95 % of intervals cover the mean."""
    rng = np.random.default_rng(1)
    covered = 0
    for _ in range(400):
        chances = rng.beta(0.3, 5.7, size=(200, 1))  # mean 0.05
        found = proportion(rng.random((200, 5)) < chances)
        covered += found.low <= 0.05 <= found.high
    assert 0.92 < covered / 400 < 0.98
