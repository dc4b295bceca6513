"""The share of inferences with an outcome, and an interval that allows for several inferences of the same input."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bitswap_onnx.stats.intervals import CONFIDENCE_LEVEL


@dataclass(frozen=True, slots=True)
class Proportion:
    """``hits`` among ``inferences``, and the ends of the interval of their share; both ends NaN without inferences."""

    hits: int
    inferences: int
    low: float
    high: float

    @property
    def share(self) -> float:
        """The share, 0 to 1; NaN without inferences."""
        return self.hits / self.inferences if self.inferences else np.nan


def proportion(hits: NDArray[np.bool_], level: float = CONFIDENCE_LEVEL) -> Proportion:
    """Return the share of true ``hits`` (inputs, inferences of each input) with Wilson's interval at ``level``.

    The inferences of one input are not independent. Therefore Wilson's n is their effective number, p (1 - p) / v,
    where v is the variance of the mean, taken between inputs (Franco et al., J. Survey Stat. Methodol. 2019,
    PMC6690503). The effective number lies between the number of inputs and the number of inferences; with one inference
    for each input it is the number of inputs. Where no inference or every inference is a hit, n is the number of
    inputs.
    """
    from scipy import special

    if not hits.size:
        return Proportion(0, 0, np.nan, np.nan)
    inputs, count, share = len(hits), int(np.count_nonzero(hits)), float(hits.mean())
    spread, between = share * (1 - share), float(np.var(hits.mean(axis=1)))
    n = float(inputs) if not spread else min(inputs * spread / between, hits.size) if between else float(hits.size)
    z = float(special.ndtri((1 + level) / 2))
    middle, half = share + z**2 / (2 * n), z * np.sqrt(spread / n + z**2 / (4 * n**2))
    low, high = ((middle + end) / (1 + z**2 / n) for end in (-half, half))
    return Proportion(count, hits.size, low if count else 0.0, high if count < hits.size else 1.0)
