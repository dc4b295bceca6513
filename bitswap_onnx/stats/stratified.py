"""The mean of a bounded value over faults drawn from strata: weighted, with its standard error and an interval.

Over strata h with n_h of N_h faults drawn and W_h = N_h / N: p = sum W_h mean(f_h) and
Var = sum W_h^2 (1 - n_h / N_h) s_h^2 / n_h (Cochran, Sampling Techniques, 1977, sec. 5.3-5.4).

A group may cut through strata, like one bit of a list drawn by layer. It has N_hg faults in stratum h, a number that
the design gives, and d_h of these were drawn. For a given d_h they are a simple random sample of the N_hg, so the
formulas above hold with N_hg and d_h (subpopulations: chapters 2 and 5A there). The estimate N_h d_h / n_h in place of
N_hg would make the weights vary from list to list, most where strata differ in size, and the mean less precise.

Where N_hg > 0 but d_h = 0, nothing is known of that part of the group, of weight u: the mean is that of the other
strata, and the interval covers every value from the lowest to the highest possible there. Where N_hg is not known, N_h
d_h / n_h replaces it and the mean is a ratio. Its variance is, to first order, that of sum N_h z_h over the sum of the
estimated sizes, where z is the distance to the mean in the group and 0 outside. Its interval treats the weights as
known. Intervals: `bitswap_onnx.stats.intervals`.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from bitswap_onnx.errors import RunError
from bitswap_onnx.sampling.rounds import Indices
from bitswap_onnx.sampling.strata import StratumPart
from bitswap_onnx.stats.intervals import Values, fewest_faults, finite_shrink, share_interval


@dataclass(frozen=True)
class Strata:
    """The strata of a list: ``sizes`` (1 or more) injections drawn from ``populations`` of them, in each stratum.

    ``bits``: the bits of memory that the population covers, None if its injections are not all single flips. ``order``:
    the stratum of each injection; None: the list has one stratum after the other. ``parts``: the faults by layer and
    bit, None if not known.
    """

    names: tuple[str, ...]
    sizes: tuple[int, ...]
    populations: tuple[int, ...]
    bits: int | None = None
    order: tuple[int, ...] | None = None
    parts: tuple[StratumPart, ...] | None = None


class Frame(NamedTuple):
    """The ``stratum`` of each injection (injections,), and the injections drawn from each stratum and its population.

    ``inputs_drawn``: inputs were drawn for every injection, so even all faults together are a sample and there is no
    population correction. ``parts``: as in `Strata`.
    """

    stratum: Indices
    sizes: Values
    populations: Values
    inputs_drawn: bool = False
    parts: tuple[StratumPart, ...] | None = None


class Weights(NamedTuple):
    """The weights of a group's faults in its mean.

    Of each fault (faults,): its injection (``member``), and the number of its stratum among the strata of the group
    (``place``). Of each of these strata (strata,): the faults of the group ``drawn`` from it, its weight (``shares``,
    which add up to 1), ``unseen`` 1 - d_h / N_hg, and ``shrink`` `finite_shrink`; both are 1 without a population
    correction. ``unknown``: u, the part of the group in strata from which none of it was drawn. ``listed``: the faults
    of each stratum in the list, group or not, where ``shares`` are estimated from them, else None.
    """

    member: Indices
    place: Indices
    drawn: Indices
    shares: Values
    unseen: Values
    shrink: Values
    unknown: float = 0.0
    listed: Values | None = None

    @property
    def census(self) -> bool:
        """Whether every fault of the group was drawn."""
        return not self.unseen.any() and not self.unknown

    def too_few(self, level: float) -> bool:
        """Whether the interval of a share would reach past one half even if the share were 0 for all faults drawn."""
        if self.census or len(self.member) < fewest_faults(level):
            return not self.census
        _, high = share_interval(np.zeros(len(self.drawn)), self.drawn, level, self.shares, self.shrink)
        return (1 - self.unknown) * float(high) + self.unknown > 0.5


class Bounded(NamedTuple):
    """One value per injection (injections,), all from ``low`` to ``high``, low <= 0 <= high."""

    values: Values
    low: float = 0.0
    high: float = 1.0


class Estimate(NamedTuple):
    """A mean over ``n`` faults, its standard error (NaN for one fault, which has no spread) and its interval.

    ``census``: every fault of the group was drawn.
    """

    n: int
    mean: float
    se: float
    low: float
    high: float
    census: bool


def frame_of(source: str, injections: int, strata: Strata | None, inputs_drawn: bool = False) -> Frame:
    """Return the frame of a number of ``injections``; without strata they are a sample of an infinite population.

    Raises RunError, which names ``source``, where the strata are those of another list.
    """
    if strata is None:
        return Frame(np.zeros(injections, np.intp), np.array([float(injections)]), np.array([math.inf]), inputs_drawn)
    within = all(size <= population for size, population in zip(strata.sizes, strata.populations, strict=True))
    fits = within or inputs_drawn  # the same fault may come again, over other inputs
    if sum(strata.sizes) != injections or not fits:
        raise RunError(
            f"{source}: its {injections:,} injections are not the {sum(strata.sizes):,} of the design; "
            "give the design of this list"
        )
    in_turn = np.repeat(np.arange(len(strata.sizes)), strata.sizes)
    numbers = in_turn if strata.order is None else np.array(strata.order, np.intp)
    sizes, populations = (np.array(column, np.float64) for column in (strata.sizes, strata.populations))
    return Frame(numbers, sizes, populations, inputs_drawn, strata.parts)


def weigh(frame: Frame, member: Indices, group_sizes: Values | None = None) -> Weights:
    """Return the weights of a group, whose injections are ``member`` (indices, at least one).

    ``group_sizes``: the number of the group's faults in each stratum (strata,). None: it is not known; it is then the
    size of the stratum where all drawn faults are the group's, 0 where none is, and estimated elsewhere. A group that
    was found in one stratum alone counts as lying in it completely.
    """
    strata, place, drawn = np.unique(frame.stratum[member], return_inverse=True, return_counts=True)
    sizes, populations = frame.sizes[strata], frame.populations[strata]
    if group_sizes is not None:
        whole = populations = group_sizes[strata]
        sizes, listed, unknown = drawn.astype(np.float64), None, float(1 - whole.sum() / group_sizes.sum())
    else:
        whole = np.ones(1) if len(strata) == 1 else populations / sizes * drawn
        listed, unknown = (None if len(strata) == 1 or (drawn == sizes).all() else sizes), 0.0
    corrected = np.full(len(strata), math.inf) if frame.inputs_drawn else populations
    unseen, shrink = 1 - sizes / corrected, finite_shrink(sizes, corrected)
    return Weights(member, place, drawn, whole / whole.sum(), unseen, shrink, unknown, listed)


def estimate_mean(
    frame: Frame, member: Indices, quantity: Bounded, level: float, group_sizes: Values | None = None
) -> Estimate:
    """Return the mean of ``quantity`` over the group of injections ``member``; ``group_sizes`` as in `weigh`."""
    return weighted_mean(weigh(frame, member, group_sizes), quantity, level)


def weighted_mean(weights: Weights, quantity: Bounded, level: float) -> Estimate:
    """Return the mean of ``quantity``, which has a value for every injection, over a group.

    A stratum with one fault of the group shows no spread; the spread of the whole group takes its place.
    """
    values = quantity.values[weights.member]
    place, drawn = weights.place, weights.drawn
    means = np.bincount(place, values) / drawn
    mean = float(weights.shares @ means)
    low, high = _interval(Bounded(values, quantity.low, quantity.high), weights, level)
    low, high = (
        (1 - weights.unknown) * limit + weights.unknown * bound
        for limit, bound in ((low, quantity.low), (high, quantity.high))
    )
    low, high = (mean, mean) if weights.census else (min(low, mean), max(high, mean))  # rounding can cross the mean
    return Estimate(len(values), mean, _standard_error(values, means, mean, weights), low, high, weights.census)


def _standard_error(values: Values, means: Values, mean: float, weights: Weights) -> float:
    place, drawn, listed = weights.place, weights.drawn, weights.listed
    squares = np.bincount(place, (values - means[place]) ** 2)
    pooled = np.var(values, ddof=1) if len(values) > 1 else math.nan
    if listed is None:
        variances = np.where(drawn > 1, squares / np.maximum(drawn - 1, 1), pooled) / drawn
    else:  # (z - mean z)^2, summed over the stratum: within the group, and between it and other faults
        spread = squares + drawn * (1 - drawn / listed) * (means - mean) ** 2
        variances = np.where(listed > 1, spread / np.maximum(listed - 1, 1), pooled) * listed / drawn**2
    return math.sqrt(np.where(weights.unseen > 0, weights.shares**2 * weights.unseen * variances, 0.0).sum())


def _interval(quantity: Bounded, weights: Weights, level: float) -> tuple[float, float]:
    """Return the interval of the weighted mean of a share, or of the difference of two shares.

    A value of either sign is a gain minus a loss, each a share of one bound; the distances of their limits from their
    means add as squares (MOVER: Zou and Donner 2008, doi 10.1002/sim.3095).
    """

    def share_of(bound: float) -> tuple[float, float, float]:
        if not bound:
            return 0.0, 0.0, 0.0
        means = np.bincount(weights.place, np.clip(quantity.values / bound, 0, 1)) / weights.drawn
        low, high = share_interval(means, weights.drawn, level, weights.shares, weights.shrink)
        return abs(bound) * float(weights.shares @ means), abs(bound) * float(low), abs(bound) * float(high)

    gain, gain_low, gain_high = share_of(quantity.high)
    loss, loss_low, loss_high = share_of(quantity.low)
    low = gain - loss - math.hypot(gain - gain_low, loss_high - loss)
    high = gain - loss + math.hypot(gain_high - gain, loss - loss_low)
    return max(low, quantity.low), min(high, quantity.high)
