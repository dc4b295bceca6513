"""Means over faults and their standard errors. The fault is the sampling unit; its inputs are a cluster.

A fault's share is f = critical inputs / inputs. Inputs of one fault are not independent, so the standard error comes
from the spread between faults alone, SE = s_f / sqrt(n) (Cochran, Sampling Techniques, 1977, sec. 9.3). Treating all
inferences as independent would give a standard error about 93 times too small for ResNet20. Everything is conditional
on the inputs.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitswap_onnx.stats.intervals import Values

#: Number of bootstrap resamples.
BOOTSTRAP_DRAWS = 2000


@dataclass(frozen=True, slots=True)
class Mean:
    """The mean of ``n`` faults' values and its clustered standard error (NaN for fewer than two faults)."""

    n: int
    mean: float
    se: float

    def interval(self, level: float) -> tuple[float, float]:
        """Return Student's two-sided interval with n - 1 degrees of freedom; NaN for fewer than two faults."""
        from scipy import special

        half = float(special.stdtrit(self.n - 1, (1 + level) / 2)) * self.se if self.n > 1 else np.nan
        return self.mean - half, self.mean + half


def clustered_mean(values: Values) -> Mean:
    """Return the mean of ``values`` (faults,) with SE = s / sqrt(n)."""
    n = len(values)
    spread = float(np.std(values, ddof=1)) if n > 1 else np.nan
    return Mean(n, float(np.mean(values)) if n else np.nan, spread / np.sqrt(max(n, 1)))


def bootstrap_interval(
    values: Values, strata: NDArray[Any], rng: np.random.Generator, level: float = 0.95, draws: int = BOOTSTRAP_DRAWS
) -> tuple[float, float]:
    """Return the percentile interval of the mean of ``values`` (faults,) under a bootstrap stratified by ``strata``.

    From each stratum as many whole faults are drawn as it has (Efron and Tibshirani, An Introduction to the Bootstrap,
    1993, ch. 13; Davison and Hinkley, Bootstrap Methods and their Application, 1997, sec. 3.2). A stratum of one fault
    would never vary, so all of these count as one stratum. NaN for fewer than two faults.
    """
    if len(values) < 2:
        return np.nan, np.nan
    sums = np.zeros(draws)
    for member in _members(strata):
        distinct, counts = np.unique(values[member], return_counts=True)
        total = counts.sum()
        sums += rng.multinomial(total, counts / total, size=draws) @ distinct
    low, high = np.percentile(sums / len(values), [50 * (1 - level), 50 * (1 + level)])
    return float(low), float(high)


def upper_share(hits: int, n: int, level: float = 0.95) -> float:
    """Return the exact one-sided upper bound of a share, from ``hits`` among ``n`` faults; 1 for n = 0.

    Clopper and Pearson 1934, doi 10.1093/biomet/26.4.404. Without a hit it is about 3 / n at 95 %.
    """
    from scipy import special

    return float(special.betaincinv(hits + 1, n - hits, level)) if hits < n else 1.0


def _members(strata: NDArray[Any]) -> list[NDArray[np.bool_]]:
    """Return the faults of each stratum, as masks; all strata of one fault are one."""
    _, number, counts = np.unique(strata, return_inverse=True, return_counts=True)
    alone = counts[number] == 1
    members = [number == i for i in np.flatnonzero(counts > 1)]
    return [*members, alone] if alone.any() else members
