"""A confidence sequence for the mean of values in [0, 1] over strata: an interval that holds at every look, so at any stop.

Draw t takes stratum h with a probability q_h that was set before, and from it one of the faults that are left, all alike.
With S_h the sum of the values seen there, R_h the number left, N the population, W_h = R_h / N, and c_h a guess of the mean
that is left, made before the draw,

    X_t = sum_g (S_g / N + W_g c_g) + W_h / q_h (f - c_h)

has, whatever came before, the mean p of the whole population: what was seen counts as seen, the guess takes out the spread
between strata (Waudby-Smith et al. 2022, arXiv:2210.10768; without replacement: Shekhar et al. 2023, arXiv:2305.06884).
A bet against a mean m multiplies the capital by 1 + b (X_t - m); b is set before the draw, and keeps it positive. Against
the true mean the capital is expected to stay what it was: that it ever exceeds 2 / alpha has a probability of alpha / 2 at
most (Ville). The interval holds all m that neither those who bet on more nor those who bet on less have refuted
(Waudby-Smith and Ramdas 2024, doi 10.1093/jrsssb/qkad009).

Where f is not the fault's share but an estimate of it, from inputs drawn anew, what was seen is not known: then each draw is
``again`` from all faults of its stratum, and N W_h stays what there is of them, nothing counts as seen.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from bitswap_onnx.sampling.rounds import Members
from bitswap_onnx.stats.intervals import Values

#: How much of the capital a bet may risk.
_RISK = 0.95
#: Faults that a guess of a stratum's mean takes from strata like it.
_BORROWED = 2.0
#: Draws between two guesses: a share of those so far, within bounds.
_PACE, _FEWEST, _MOST = 1 / 8, 16, 1024
#: Steps of the search for a limit: to within a billionth of the range.
_HALVINGS = 30


class Interval(NamedTuple):
    """A mean, and what holds it."""

    mean: float
    low: float
    high: float


class Ledger:
    """What was drawn so far, in order, from strata of ``populations`` (strata,) faults.

    ``family`` (strata,): strata with the same number are expected to be alike. ``again``: each draw was from all faults.
    ``drawn``, ``sums``, ``squares`` (strata,): of the values seen. ``terms``, ``least``, ``most`` (terms,): X_t, and between
    what it had to be; ``hopes`` (terms,): see `add`.
    """

    def __init__(self, populations: Values, family: Members, *, again: bool = False) -> None:
        self.again = again
        self.populations = np.asarray(populations, np.float64)
        self.family = family
        self.drawn, self.sums, self.squares = (np.zeros(len(self.populations)) for _ in range(3))
        self.terms, self.least, self.most, self.hopes = (np.zeros(0) for _ in range(4))

    def __len__(self) -> int:
        return int(self.drawn.sum())

    @property
    def left(self) -> Values:
        """How many faults each stratum still has to draw from."""
        return self.populations if self.again else self.populations - self.drawn

    @property
    def known(self) -> float:
        """The sum of the shares that are known, over the population."""
        return 0.0 if self.again else float(self.sums.sum() / self.populations.sum())

    @property
    def mean(self) -> float:
        """The mean of the population, each stratum's being that of what was seen, or for lack of it what is guessed."""
        means = np.where(self.drawn > 0, self.sums / np.maximum(self.drawn, 1), self.guesses())
        return float((self.populations * means).sum() / self.populations.sum())

    @property
    def mean_seen(self) -> float:
        """The plain mean of the values seen."""
        return float(self.sums.sum() / len(self))

    def guesses(self) -> Values:
        """Return a guess of each stratum's mean: its own, pulled towards those of its family."""
        pooled = self.pooled(self.sums) / (self.pooled(self.drawn) + 1)
        return np.asarray((self.sums + _BORROWED * pooled) / (self.drawn + _BORROWED), np.float64)

    def pooled(self, values: Values) -> Values:
        """Return for each stratum the sum of ``values`` (strata,) over its family."""
        return np.asarray(np.bincount(self.family, values)[self.family], np.float64)

    def add(self, strata: Members, values: Values, probabilities: Values | None, hoped: float) -> None:
        """Take in draws, in order: the ``strata`` that they hit, and their ``values``, both (draws,).

        ``probabilities`` (strata,): what they were drawn with, 0 for a stratum with nothing left; None: how many come from
        each stratum was settled beforehand, which tells what the faults seen are, and makes no terms. ``hoped``: how far
        the limits should be from the mean in the end, as it was hoped before these draws: bets do best there.
        """
        if probabilities is None:
            self._count(strata, values)
            return
        self.hopes = np.concatenate([self.hopes, np.full(len(values), hoped)])
        while len(values):
            size = int(min(max(len(self) * _PACE, _FEWEST), _MOST))
            self._add(strata[:size], values[:size], probabilities)
            strata, values = strata[size:], values[size:]

    def _add(self, strata: Members, values: Values, probabilities: Values) -> None:
        draws, guesses, total = np.arange(len(values)), self.guesses(), self.populations.sum()
        hits = np.zeros((len(values), len(self.populations)))
        hits[draws, strata] = 1
        left, seen = np.broadcast_to(self.left, hits.shape), np.zeros(len(values))
        if not self.again:
            left = left - (np.cumsum(hits, axis=0) - hits)
            seen = self.known + (np.cumsum(values) - values) / total
        base = seen + left @ guesses / total
        assert probabilities[self.left > 0].all(), "a stratum that is never drawn would stay unknown"
        factors = left / total / np.where(probabilities > 0, probabilities, 1)
        terms = base + factors[draws, strata] * (values - guesses[strata])
        self.terms = np.concatenate([self.terms, terms])
        self.least = np.concatenate([self.least, base - (factors * guesses).max(axis=1)])
        self.most = np.concatenate([self.most, base + (factors * (1 - guesses)).max(axis=1)])
        self._count(strata, values)

    def _count(self, strata: Members, values: Values) -> None:
        for sums, weights in ((self.drawn, None), (self.sums, values), (self.squares, values**2)):
            sums += np.bincount(strata, weights, minlength=len(sums))

    def interval(self, level: float) -> Interval:
        """Return the interval at confidence ``level``."""
        floor, ceiling = self.known, self.known + float(self.left.sum() / self.populations.sum())
        if not len(self.terms) or not self.left.any():
            return Interval(self.mean, floor, ceiling)
        bets = self.hopes / self._variances()
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
        """Return what the variance of each term looked like before it was drawn (terms,)."""
        count = np.arange(1, len(self.terms) + 1)
        means = np.cumsum(self.terms) / count
        first = ((self.most[0] - self.least[0]) / 20) ** 2
        after = (first + np.cumsum((self.terms - means) ** 2)) / count
        return np.concatenate([[first], after[:-1]])


def _boundary(capital: Callable[[float], float], goal: float, refuted: float, kept: float) -> float:
    """Return where ``capital`` (its logarithm), falling from ``refuted`` to ``kept``, comes down to ``goal``."""
    if capital(refuted) < goal:
        return refuted
    if capital(kept) >= goal:
        return kept
    for _ in range(_HALVINGS):
        middle = (refuted + kept) / 2
        if capital(middle) >= goal:
            refuted = middle
        else:
            kept = middle
    return refuted
