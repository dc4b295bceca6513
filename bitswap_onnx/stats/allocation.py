"""Where the next draws go, and how many: Neyman allocation with a floor in every stratum.

Neyman (1934, doi 10.2307/2342192) draws in proportion to W_h s_h, which is best where s_h is known and nothing rare hides.
What has shown no spread yet gets too little of it, and a limit has to allow for what may hide in the least watched stratum:
where a share of all draws goes to strata in proportion to W_h, no draw weighs more than one over that share.
"""

import math

import numpy as np

from bitswap_onnx.stats.confidence_sequence import Ledger
from bitswap_onnx.stats.intervals import Values

#: What shares of the draws may go in proportion to the strata's sizes.
_FLOORS = np.arange(0.1, 1.0, 0.05)
#: Faults that a spread takes from strata like it.
_BORROWED = 4.0
#: A round has at least a share of the draws so far, at most as many as them, or as few as make a round worth its start.
_SMALLEST, _WORTH = 0.1, 256


def allocate(ledger: Ledger, level: float, half_width: float) -> tuple[Values, int]:
    """Return the probabilities of the next round's strata (strata,), and its number of draws (1 or more).

    The floor is the one that reaches ``half_width`` at ``level`` with the fewest draws, as far as one can tell now.
    """
    shares = ledger.left / ledger.left.sum()
    weights = ledger.left / ledger.populations.sum()
    spreads = _spreads(ledger)
    neyman = weights * spreads / (weights * spreads).sum()
    plans = [(1 - floor) * neyman + floor * shares for floor in _FLOORS]
    needs = [_draws_needed(weights, spreads, plan, level, half_width) for plan in plans]
    best = int(np.argmin(needs))
    so_far = len(ledger)
    size = min(max(needs[best] - so_far, _SMALLEST * so_far), max(so_far, _WORTH))
    return plans[best], max(1, math.ceil(size))


def _spreads(ledger: Ledger) -> Values:
    """Return a guess of each stratum's standard deviation, never 0."""
    pooled, count = ledger.pooled(ledger.sums), ledger.pooled(ledger.drawn)
    mean = pooled / np.maximum(count, 1)
    family = np.maximum(ledger.pooled(ledger.squares) / np.maximum(count, 1) - mean**2, 0) + 0.25 / (count + 1)
    own = np.maximum(ledger.squares - ledger.sums**2 / np.maximum(ledger.drawn, 1), 0)
    return np.asarray(np.sqrt((own + _BORROWED * family) / (ledger.drawn + _BORROWED)), np.float64)


def _draws_needed(weights: Values, spreads: Values, plan: Values, level: float, half_width: float) -> float:
    """Return how many draws by ``plan`` make an interval of 2 ``half_width``.

    A bet b has won ln(2 / alpha) where n (b d - b^2 V / 2) = ln(2 / alpha), at a distance d from the mean: a limit is
    d = ln(2 / alpha) / (n b) + b V / 2 away, and both distances together are to be 2 ``half_width``. V is the variance of a
    term, and b at most 1 over the largest of them, which is far above the mean and not below it.
    """
    known = plan > 0
    variance = float((weights[known] ** 2 * spreads[known] ** 2 / plan[known]).sum())
    largest = float((weights[known] / plan[known]).max())
    goal, up = math.log(2 / (1 - level)), half_width / variance
    down = min(up, 1 / largest)
    room = 2 * half_width - up * variance / 2 - down * variance / 2
    return goal * (1 / up + 1 / down) / room
