"""Intervals for mean shares over faults: valid for tiny shares, for no or only hits, and for one fault.

A fault's share f lies in [0, 1], so its variance is at most p (1 - p), that of a yes/no with the same mean (Bhatia and
Davis 2000, doi 10.1080/00029890.2000.12005203). Korn and Graubard 1998 (Survey Methodology 24, 193) put the effective
size p (1 - p) / Var into Clopper and Pearson's interval (1934, doi 10.1093/biomet/26.4.404); for whole faults that size
is never below n - 1. Here it is at most n: a larger spread than the drawn faults show counts as possible. The interval
is then Clopper and Pearson's for n faults of which n p were hit, exact for yes/no, conservative otherwise. Without that
bound, a sample that misses the rare harmful faults gives an interval of nearly no width: 99 % intervals over 70 faults
of a layer then cover about 63 % (``python -m tests.benchmarks.estimate_coverage``).

Strata are combined as Fay and Feuer 1997 combine weighted counts (Statistics in Medicine 16, 791): hits of different
weights w, each of which adds w to the sum, count as y^2 / v hits of weight v / y, with y = sum w and v = sum w^2; the
upper limit has one more hit, of the largest weight. Beta distributions take the place of their gamma distributions,
which for one stratum gives the interval above.
"""

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

Values = NDArray[np.float64]

#: Confidence level of a two-sided interval where nothing else is asked for.
CONFIDENCE_LEVEL = 0.95


def share_interval(
    means: ArrayLike, n: ArrayLike, level: float, weights: ArrayLike = 1.0, shrink: ArrayLike = 1.0
) -> tuple[Values, Values]:
    """Return the two-sided interval (...,) of sum ``weights`` x share, from ``means`` (..., strata).

    ``n``: the faults of each mean, at least 1. ``weights`` add up to 1. ``shrink``: `finite_shrink` of each stratum.
    All arguments broadcast. For a share over one half, misses are counted instead of hits.
    """
    p, size, weight, side = np.broadcast_arrays(*(np.asarray(a, np.float64) for a in (means, n, weights, shrink)))
    turned = (weight * p).sum(axis=-1) > 0.5
    p = np.clip(np.where(turned[..., None], 1 - p, p), 0, 1)
    tail, hit = (1 - level) / 2, weight * side / size
    total, squares, largest = (weight * p).sum(axis=-1), (hit**2 * p * size).sum(axis=-1), hit.max(axis=-1)
    low = _quantile(tail, total, squares)
    high = _quantile(1 - tail, total + largest, squares + largest**2)
    return np.where(turned, 1 - high, low), np.where(turned, 1 - low, high)


def _quantile(share: float, total: Values, squares: Values) -> Values:
    """Return the quantile of Beta(hits, 1 / w - hits + 1), for total / w hits of the weight w = squares / total."""
    from scipy import special

    certain = squares <= 0
    weight = np.where(certain, 1.0, squares / np.where(certain, 1.0, total))
    hits, misses = total / weight, (1 - total) / weight + 1
    known = ~certain & (misses > 0)
    limits = special.betaincinv(np.where(known, hits, 1.0), np.where(known, misses, 1.0), share)
    return np.asarray(np.where(known, limits, np.where(certain, total, 1.0)), np.float64)


def finite_shrink(n: ArrayLike, population: ArrayLike) -> Values:
    """Return the factor of an interval's sides when ``n`` of ``population`` faults were drawn: f / -ln(1 - f).

    f = n / N. The factor is the logarithmic mean of 1 and 1 - f: never below sqrt(1 - f), the correction of a standard
    error, and that of the exact (hypergeometric) upper limit without a hit: K hits stay unseen with probability (1 -
    f)^K. 1 for an infinite population, 0 for a census.
    """
    drawn = np.asarray(n, np.float64) / np.asarray(population, np.float64)
    part = np.clip(drawn, 1e-12, 1 - 1e-12)
    return np.asarray(np.where(drawn >= 1, 0.0, np.where(drawn <= 1e-12, 1.0, -part / np.log1p(-part))))


def bonferroni(level: float, rows: int) -> float:
    """Return the level of each of ``rows`` intervals at which all hold together with at least ``level``."""
    return 1 - (1 - level) / max(rows, 1)


def fewest_faults(level: float) -> int:
    """Return the fewest faults that give an estimate; with fewer, even equal outcomes give an interval past one half.

    Solves 1 - (alpha / 2)^(1 / n) <= 1/2 for n: 6 at 95 %, 8 at 99 %.
    """
    return math.ceil(math.log2(2 / (1 - level)))
