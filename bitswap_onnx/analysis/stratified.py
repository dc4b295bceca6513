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
    """How a list was drawn: ``sizes`` (1 or more) of ``populations`` each.

    ``bits``: bits of memory that the whole population covers, None where its injections are not all single flips of them.
    ``order``: the stratum of each injection; None: the list has stratum after stratum.
    """

    names: tuple[str, ...]
    sizes: tuple[int, ...]
    populations: tuple[int, ...]
    bits: int | None = None
    order: tuple[int, ...] | None = None


class Frame(NamedTuple):
    """The stratum of each injection (injections,), and of each stratum how many were drawn and how many there are.

    ``inputs_drawn``: every injection ran over inputs of its own, drawn anew, so that even all faults together are a sample:
    no population correction.
    """

    stratum: Members
    sizes: Values
    populations: Values
    inputs_drawn: bool = False


class Weights(NamedTuple):
    """A group's faults by stratum: the place of each one's (faults,); per stratum, faults, weight, and what was not drawn.

    ``shares`` add up to 1. ``unseen`` is 1 - n_h / N_h, ``shrink`` `finite_shrink`; both 1 without a correction.
    """

    place: Members
    drawn: Members
    shares: Values
    unseen: Values
    shrink: Values


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


def frame_of(source: str, injections: int, strata: Strata | None, inputs_drawn: bool = False) -> Frame:
    """Return the frame of ``injections``; without strata: a sample of an endless population. RunError if they do not fit."""
    if strata is None:
        return Frame(np.zeros(injections, np.intp), np.array([float(injections)]), np.array([math.inf]), inputs_drawn)
    fits = all(size <= population for size, population in zip(strata.sizes, strata.populations, strict=True))
    if sum(strata.sizes) != injections or not fits:
        raise RunError(
            f"{source}: its {injections:,} injections are not the {sum(strata.sizes):,} of the design; "
            "give the design of this list"
        )
    follow = np.repeat(np.arange(len(strata.sizes)), strata.sizes)
    numbers = follow if strata.order is None else np.array(strata.order, np.intp)
    sizes, populations = (np.array(column, np.float64) for column in (strata.sizes, strata.populations))
    return Frame(numbers, sizes, populations, inputs_drawn)


def weigh(frame: Frame, member: Members) -> Weights:
    """Return how the faults of a group (indices, at least one) count."""
    strata, place, drawn = np.unique(frame.stratum[member], return_inverse=True, return_counts=True)
    sizes, populations = frame.sizes[strata], frame.populations[strata]
    shares = np.ones(1) if len(strata) == 1 else populations / sizes * drawn
    corrected = np.full(len(strata), math.inf) if frame.inputs_drawn else populations
    return Weights(place, drawn, shares / shares.sum(), 1 - sizes / corrected, finite_shrink(sizes, corrected))


def estimate_mean(frame: Frame, member: Members, quantity: Bounded, level: float) -> Estimate:
    """Return the mean of ``quantity`` over the group of injections ``member`` (indices, at least one).

    A stratum with one fault of the group has no spread of its own: the group's stands in for it.
    """
    values = quantity.values[member]
    weights = weigh(frame, member)
    place, drawn = weights.place, weights.drawn
    means = np.bincount(place, values) / drawn
    variances = np.bincount(place, (values - means[place]) ** 2) / np.maximum(drawn - 1, 1)
    variances[drawn == 1] = np.var(values, ddof=1) if len(values) > 1 else math.nan
    squares = np.where(weights.unseen > 0, weights.shares**2 * weights.unseen * variances / drawn, 0.0)
    low, high = _interval(Bounded(values, quantity.low, quantity.high), weights, level)
    mean, se = float(weights.shares @ means), math.sqrt(squares.sum())
    return Estimate(len(values), mean, se, low, high, not weights.unseen.any())


def _interval(own: Bounded, weights: Weights, level: float) -> tuple[float, float]:
    """Return the interval of the weighted mean: that of a share, or of the difference of two.

    A value of either sign is a gain less a loss, each a share of its own bound; the distances to their limits add as
    squares (MOVER: Zou and Donner 2008, doi 10.1002/sim.3095).
    """

    def part(bound: float) -> tuple[float, float, float]:
        if not bound:
            return 0.0, 0.0, 0.0
        means = np.bincount(weights.place, np.clip(own.values / bound, 0, 1)) / weights.drawn
        low, high = share_interval(means, weights.drawn, level, weights.shares, weights.shrink)
        return abs(bound) * float(weights.shares @ means), abs(bound) * float(low), abs(bound) * float(high)

    gain, gain_low, gain_high = part(own.high)
    loss, loss_low, loss_high = part(own.low)
    low = gain - loss - math.hypot(gain - gain_low, loss_high - loss)
    high = gain - loss + math.hypot(gain_high - gain, loss - loss_low)
    return max(low, own.low), min(high, own.high)
