"""Paired statistics of two runs of the same faults on the same inputs: equivalence, McNemar, agreement.

With d = f^B - f^A, one value per fault, the mean of d and its clustered standard error give the distance of two models.
Two one-sided tests tell whether that is small enough to call them equal, McNemar's test whether one model has more
harmful faults, kappa and positive agreement whether single inferences have the same outcome.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitswap_onnx.stats.clustered import Mean

_Flags = NDArray[np.bool_]
_Counts = NDArray[np.integer[Any]]

EQUIVALENT, DIFFERENT, NOT_SHOWN = "equivalent", "different", "not shown"

#: The fewest faults for a verdict: nearly all of them have no difference, so fewer do not fit a normal approximation.
FEWEST = 30


@dataclass(frozen=True, slots=True)
class Equivalence:
    """The result of two one-sided tests.

    ``low``, ``high``: the 1 - 2 alpha interval of the mean difference (90 % by default). ``p``: the larger p-value.
    """

    low: float
    high: float
    p: float
    verdict: str


@dataclass(frozen=True, slots=True)
class McNemar:
    """The faults over the threshold in A only and in B only, and the p-value that both are equally likely."""

    a_only: int
    b_only: int
    p: float


def equivalence(difference: Mean, delta: float, alpha: float = 0.05) -> Equivalence:
    """Test whether the mean difference lies within ±``delta``, both as shares.

    Schuirmann 1987, doi 10.1007/BF01068419. ``equivalent``: the 1 - 2 alpha interval lies inside ±delta. ``different``:
    it does not, and the 1 - alpha interval excludes zero. ``not shown``: neither, or fewer than `FEWEST` faults. p is
    the larger p-value of the two one-sided tests.
    """
    from scipy import special

    low, high = difference.interval(1 - 2 * alpha)
    distance = abs(difference.mean) - delta
    if difference.n < 2:
        p = np.nan
    elif difference.se:
        p = float(special.stdtr(difference.n - 1, distance / difference.se))
    else:
        p = float(distance >= 0)
    if difference.n < FEWEST:
        return Equivalence(low, high, p, NOT_SHOWN)
    low_two_sided, high_two_sided = difference.interval(1 - alpha)
    if -delta < low and high < delta:
        verdict = EQUIVALENT
    else:
        verdict = DIFFERENT if low_two_sided > 0 or high_two_sided < 0 else NOT_SHOWN
    return Equivalence(low, high, p, verdict)


def mcnemar(a: _Flags, b: _Flags) -> McNemar:
    """Return McNemar's exact two-sided test on paired flags (faults,): binomial with 1/2 over the discordant pairs."""
    from scipy import stats

    a_only, b_only = int(np.sum(a & ~b)), int(np.sum(b & ~a))
    p = 2 * float(stats.binom.cdf(min(a_only, b_only), a_only + b_only, 0.5))
    return McNemar(a_only, b_only, min(1.0, p))


def kappa(table: _Counts) -> float:
    """Return Cohen's kappa of a (classes, classes) table, rows A, columns B (doi 10.1177/001316446002000104).

    (p_o - p_e) / (1 - p_e); NaN for an empty table and where both always give one and the same class.
    """
    total, agreed = int(table.sum()), int(np.trace(table))
    chance = sum(int(a) * int(b) for a, b in zip(table.sum(axis=1), table.sum(axis=0), strict=True))
    beyond = total**2 - chance  # in whole numbers, so that agreement in everything is exactly 1
    return (total * agreed - chance) / beyond if beyond else np.nan


def positive_agreement(table: _Counts) -> float:
    """Return 2a / (2a + b + c) of the last class: a in both, b and c in one alone; NaN where it never occurs.

    Cicchetti and Feinstein, doi 10.1016/0895-4356(90)90159-M: it shows disagreement that kappa hides for a rare class.
    """
    either = int(table[-1].sum() + table[:, -1].sum())
    return 2 * int(table[-1, -1]) / either if either else np.nan
