"""A confidence sequence for the mean of values in [0, 1] over strata: its interval holds at every interim estimate.

A campaign may therefore compute the interval after every round and stop at any of them. Draw t takes stratum h with a
probability q_h that was set before the draw, and from that stratum one of the faults that are left, all with equal
probability. S_h is the sum of the values seen in stratum h, R_h the number of faults left there, N the population,
W_h = R_h / N, and c_h a guess, made before the draw, of the mean of the faults left. Then the term

    X_t = sum_g (S_g / N + W_g c_g) + W_h / q_h (f - c_h)

of a draw with value f has the mean p of the whole population as its expectation, given all earlier draws. Values that
were seen count as known; the guess removes the spread between strata (Waudby-Smith et al. 2022, arXiv:2210.10768;
without replacement: Shekhar et al. 2023, arXiv:2305.06884).

A bet against a mean m multiplies a capital by 1 + b (X_t - m). The size b is set before the draw and keeps the capital
positive. Against the true mean the expected capital never grows, so the probability that it ever exceeds 2 / alpha is
at most alpha / 2 (Ville's inequality). The interval holds every m that is refuted neither by the bets on a larger mean
nor by those on a smaller one (Waudby-Smith and Ramdas 2024, doi 10.1093/jrsssb/qkad009).

With ``with_replacement``, f is only an estimate of the fault's share, because its inputs are drawn too. A drawn fault
is therefore not fully known. Each draw is then from all faults of its stratum: R_h stays their number, and no value
counts as known.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from bitswap_onnx.sampling.rounds import Indices
from bitswap_onnx.stats.intervals import Values

#: The share of the capital that one bet may lose.
_RISK = 0.95
#: The weight, in faults, that the mean of a stratum's family has in the guess of its mean.
_BORROWED = 2.0
#: Draws between two updates of the guesses: a share of the draws so far, at least and at most so many.
_PACE, _FEWEST, _MOST = 1 / 8, 16, 1024
#: Bisections of the search for a limit: it ends within a billionth of the range.
_HALVINGS = 30


class Interval(NamedTuple):
    """An estimated mean and the limits of its interval."""

    mean: float
    low: float
    high: float


class Ledger:
    """The draws so far, in order, from strata of ``populations`` (strata,) faults.

    ``family`` (strata,): strata with the same number are expected to behave alike. ``with_replacement``: each draw was
    from all faults of its stratum. ``drawn``, ``sums``, ``squares`` (strata,): number, sum and sum of squares of the
    values seen. ``terms`` (terms,): X_t; ``least``, ``most`` (terms,): the limits of what X_t could have been;
    ``target_half_widths`` (terms,): the half width that `add` got for the draw.
    """

    def __init__(self, populations: Values, family: Indices, *, with_replacement: bool = False) -> None:
        self.with_replacement = with_replacement
        self.populations = np.asarray(populations, np.float64)
        self.family = family
        self.drawn, self.sums, self.squares = (np.zeros(len(self.populations)) for _ in range(3))
        self.terms, self.least, self.most, self.target_half_widths = (np.zeros(0) for _ in range(4))

    def __len__(self) -> int:
        return int(self.drawn.sum())

    @property
    def left(self) -> Values:
        """The number of faults that can still be drawn from each stratum (strata,)."""
        return self.populations if self.with_replacement else self.populations - self.drawn

    @property
    def known(self) -> float:
        """The part of the population's mean that is certain: the sum of the values seen, over the population."""
        return 0.0 if self.with_replacement else float(self.sums.sum() / self.populations.sum())

    @property
    def mean(self) -> float:
        """The mean of the population, from the mean seen in each stratum, or its guess where no value was seen."""
        means = np.where(self.drawn > 0, self.sums / np.maximum(self.drawn, 1), self.guesses())
        return float((self.populations * means).sum() / self.populations.sum())

    @property
    def mean_seen(self) -> float:
        """The plain mean of the values seen."""
        return float(self.sums.sum() / len(self))

    def guesses(self) -> Values:
        """Return a guess of each stratum's mean (strata,): the mean seen there, pulled towards that of its family."""
        pooled = self.pooled(self.sums) / (self.pooled(self.drawn) + 1)
        return np.asarray((self.sums + _BORROWED * pooled) / (self.drawn + _BORROWED), np.float64)

    def pooled(self, values: Values) -> Values:
        """Return, for each stratum, the sum of ``values`` (strata,) over its family."""
        return np.asarray(np.bincount(self.family, values)[self.family], np.float64)

    def add(self, strata: Indices, values: Values, probabilities: Values | None, target_half_width: float) -> None:
        """Add draws, in order: the ``strata`` that they hit and their ``values``, both (draws,).

        ``probabilities`` (strata,): the probabilities of the strata, 0 where nothing is left. None: the number of draws
        from each stratum was fixed beforehand; such draws make no terms, but their values are counted.
        ``target_half_width``: the distance of the limits from the mean that was aimed at when these draws were planned.
        Bets are sized to do best at that distance. Choosing it after seeing outcomes would invalidate the interval.
        """
        if probabilities is None:
            self._count(strata, values)
            return
        self.target_half_widths = np.concatenate([self.target_half_widths, np.full(len(values), target_half_width)])
        while len(values):
            size = int(min(max(len(self) * _PACE, _FEWEST), _MOST))
            self._add(strata[:size], values[:size], probabilities)
            strata, values = strata[size:], values[size:]

    def _add(self, strata: Indices, values: Values, probabilities: Values) -> None:
        draws, guesses, total = np.arange(len(values)), self.guesses(), self.populations.sum()
        hits = np.zeros((len(values), len(self.populations)))
        hits[draws, strata] = 1
        left, seen = np.broadcast_to(self.left, hits.shape), np.zeros(len(values))
        if not self.with_replacement:
            left = left - (np.cumsum(hits, axis=0) - hits)
            seen = self.known + (np.cumsum(values) - values) / total
        base = seen + left @ guesses / total
        assert probabilities[self.left > 0].all(), "a stratum with probability 0 would stay unknown"
        factors = left / total / np.where(probabilities > 0, probabilities, 1)
        terms = base + factors[draws, strata] * (values - guesses[strata])
        self.terms = np.concatenate([self.terms, terms])
        self.least = np.concatenate([self.least, base - (factors * guesses).max(axis=1)])
        self.most = np.concatenate([self.most, base + (factors * (1 - guesses)).max(axis=1)])
        self._count(strata, values)

    def _count(self, strata: Indices, values: Values) -> None:
        for sums, weights in ((self.drawn, None), (self.sums, values), (self.squares, values**2)):
            sums += np.bincount(strata, weights, minlength=len(sums))

    def interval(self, level: float) -> Interval:
        """Return the interval at confidence ``level``."""
        floor, ceiling = self.known, self.known + float(self.left.sum() / self.populations.sum())
        if not len(self.terms) or not self.left.any():
            return Interval(self.mean, floor, ceiling)
        bets = self.target_half_widths / self._variances()
        goal = math.log(2 / (1 - level))

        def for_more(mean: float) -> float:
            risked = np.minimum(bets, _RISK / np.maximum(mean - self.least, 1e-300))
            return float(np.log1p(risked * (self.terms - mean)).sum())

        def for_less(mean: float) -> float:
            risked = np.minimum(bets, _RISK / np.maximum(self.most - mean, 1e-300))
            return float(np.log1p(risked * (mean - self.terms)).sum())

        low = _boundary(for_more, goal, floor, ceiling)
        high = _boundary(for_less, goal, ceiling, floor)
        return Interval(min(max(self.mean, low), high), low, high)

    def _variances(self) -> Values:
        """Return, for each term, an estimate of its variance from the terms before it (terms,)."""
        count = np.arange(1, len(self.terms) + 1)
        means = np.cumsum(self.terms) / count
        first = ((self.most[0] - self.least[0]) / 20) ** 2
        after = (first + np.cumsum((self.terms - means) ** 2)) / count
        return np.concatenate([[first], after[:-1]])


def _boundary(capital: Callable[[float], float], goal: float, refuted: float, possible: float) -> float:
    """Return where ``capital``, a logarithm that falls from ``refuted`` to ``possible``, comes down to ``goal``."""
    if capital(refuted) < goal:
        return refuted
    if capital(possible) >= goal:
        return possible
    for _ in range(_HALVINGS):
        middle = (refuted + possible) / 2
        if capital(middle) >= goal:
            refuted = middle
        else:
            possible = middle
    return refuted
