"""The number of faults that a statistical fault list needs of a stratum."""

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np

from bitswap_onnx.sampling.choices import Rounding

#: The least number of injections of a stratum, if it has as many: an estimate of its variance needs two.
FLOOR = 2


def normal_quantile(confidence: float) -> float:
    """Return t: a normal variable lies within ±t with probability ``confidence`` (0.99: 2.5758)."""
    return -NormalDist().inv_cdf((1 - confidence) / 2)  # the upper tail would round to 1


def sample_size(population: int, margin: float, t: float, p: float, rounding: Rounding = "nearest") -> int:
    """Return n = N / (1 + e² (N - 1) / (t² p (1 - p))), rounded, at least `FLOOR` and at most N.

    So many of N = ``population`` faults estimate a share of about ``p`` within e = ``margin`` (both fractions):
    Leveugle et al., DATE 2009, doi 10.1109/DATE.2009.5090716. For a share of 0 or 1, n is `FLOOR`.
    """
    share = 1 / population
    spread = t * t * p * (1 - p)
    exact = 1 / (share + margin * margin * (1 - share) / spread) if spread > 0 else 0.0
    rounded = math.ceil(exact) if rounding == "ceil" else math.floor(exact + 0.5)
    return min(population, max(FLOOR, rounded))


def proportions_of(distances: Sequence[float]) -> tuple[float, ...]:
    """Return p of each bit for data-aware sizes, from the mean distance that a flip of that bit moves a weight.

    After Ruospo et al., DATE 2023, doi 10.23919/DATE56975.2023.10136998: distances are scaled from [least, largest] to
    [0, 0.5]; outliers get 0.5 and are left out of the scaling. An outlier lies more than three standard deviations
    above the mean of all bits (of float32 weights below 1: bit 30 alone), or is not finite.
    """
    values = np.asarray(distances, np.float64)
    outside = ~np.isfinite(values)
    finite = values[~outside]
    if finite.size:
        relative = values / (finite.max() or 1)
        usual = relative[~outside]
        outside |= relative > usual.mean() + 3 * usual.std()
    inside = values[~outside]
    least, largest = (inside.min(), inside.max()) if inside.size else (0, 0)
    scaled = (values - least) / ((largest - least) or 1) / 2
    return tuple(float(p) for p in np.where(outside, 0.5, scaled))
