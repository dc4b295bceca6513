"""The mean of a bounded value over faults drawn from strata: weighted, with its standard error and an interval.

Over strata h with n_h of N_h faults drawn and W_h = N_h / N: p = sum W_h mean(f_h) and
Var = sum W_h^2 (1 - n_h / N_h) s_h^2 / n_h (Cochran, Sampling Techniques, 1977, sec. 5.3-5.4). For a group that cuts through
strata, N_h is the part of the stratum that its draw says belongs to the group. Intervals: `bitswap_onnx.analysis.intervals`.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bitswap_onnx.analysis.intervals import Values, finite_shrink, share_interval
from bitswap_onnx.errors import RunError

Members = NDArray[np.intp]


@dataclass(frozen=True)
class Strata:
    """How a list was drawn: stratum after stratum in the list's order, ``sizes`` (1 or more) of ``populations`` each.

    ``bits``: bits of memory that the whole population covers, None where its injections are not all single flips of them.
    """

    names: tuple[str, ...]
    sizes: tuple[int, ...]
    populations: tuple[int, ...]
    bits: int | None = None


class Frame(NamedTuple):
    """The stratum of each injection (injections,), and of each stratum how many were drawn and how many there are."""

    stratum: Members
    sizes: Values
    populations: Values


class Bounded(NamedTuple):
    """One value per injection (injections,), all from ``low`` to ``high``, low <= 0 <= high."""

    values: Values
    low: float = 0.0
    high: float = 1.0


class Estimate(NamedTuple):
    """A mean over ``n`` faults, its standard error (NaN where one fault has no spread) and its interval."""

    n: int
    mean: float
    se: float
    low: float
    high: float
    census: bool


def frame_of(source: str, injections: int, strata: Strata | None) -> Frame:
    """Return the frame of ``injections``; without strata: a sample of an endless population. RunError if they do not fit."""
    if strata is None:
        return Frame(np.zeros(injections, np.intp), np.array([float(injections)]), np.array([math.inf]))
    fits = all(size <= population for size, population in zip(strata.sizes, strata.populations, strict=True))
    if sum(strata.sizes) != injections or not fits:
        raise RunError(
            f"{source}: its {injections:,} injections are not the {sum(strata.sizes):,} of the design; "
            "give the design of this list"
        )
    numbers = np.repeat(np.arange(len(strata.sizes)), strata.sizes)
    return Frame(numbers, np.array(strata.sizes, np.float64), np.array(strata.populations, np.float64))


def estimate_mean(frame: Frame, member: Members, quantity: Bounded, level: float) -> Estimate:
    """Return the mean of ``quantity`` over the group of injections ``member`` (indices, at least one).

    A stratum with one fault of the group has no spread of its own: the group's stands in for it.
    """
    values = quantity.values[member]
    strata, index, drawn = np.unique(frame.stratum[member], return_inverse=True, return_counts=True)
    sizes, populations = frame.sizes[strata], frame.populations[strata]
    weights = np.ones(1) if len(strata) == 1 else populations / sizes * drawn
    weights = weights / weights.sum()
    means = np.bincount(index, values) / drawn
    variances = np.bincount(index, (values - means[index]) ** 2) / np.maximum(drawn - 1, 1)
    variances[drawn == 1] = np.var(values, ddof=1) if len(values) > 1 else math.nan
    unseen = 1 - sizes / populations
    squares = np.where(unseen > 0, weights**2 * unseen * variances / drawn, 0.0)
    shrink = finite_shrink(sizes, populations)
    low, high = _interval(Bounded(values, quantity.low, quantity.high), index, drawn, weights, shrink, level)
    return Estimate(len(values), float(weights @ means), math.sqrt(squares.sum()), low, high, not unseen.any())


def _interval(
    own: Bounded, index: Members, drawn: NDArray[np.intp], weights: Values, shrink: Values, level: float
) -> tuple[float, float]:
    """Return the interval of the weighted mean: that of a share, or of the difference of two.

    A value of either sign is a gain less a loss, each a share of its own bound; the distances to their limits add as
    squares (MOVER: Zou and Donner 2008, doi 10.1002/sim.3095).
    """

    def part(bound: float) -> tuple[float, float, float]:
        if not bound:
            return 0.0, 0.0, 0.0
        means = np.bincount(index, np.clip(own.values / bound, 0, 1)) / drawn
        low, high = share_interval(means, drawn, level, weights, shrink)
        return abs(bound) * float(weights @ means), abs(bound) * float(low), abs(bound) * float(high)

    gain, gain_low, gain_high = part(own.high)
    loss, loss_low, loss_high = part(own.low)
    low = gain - loss - math.hypot(gain - gain_low, loss_high - loss)
    high = gain - loss + math.hypot(gain_high - gain, loss - loss_low)
    return max(low, own.low), min(high, own.high)
