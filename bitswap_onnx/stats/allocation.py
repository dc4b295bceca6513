"""How many draws the next round has and how they are shared among strata: Neyman allocation with a floor.

Neyman (1934, doi 10.2307/2342192) draws in proportion to W_h s_h, which is best where s_h is known. A stratum that has
shown no spread yet would get too few draws, and the interval has to allow for rare harmful faults in the stratum with
the fewest draws. So a share of all draws, the floor, goes to strata in proportion to W_h: no draw then weighs more than
1 / floor.
"""

import math

import numpy as np

from bitswap_onnx.stats.confidence_sequence import Ledger
from bitswap_onnx.stats.intervals import Values

#: The floors to choose from.
_FLOORS = np.arange(0.1, 1.0, 0.05)
#: The weight, in faults, that the spread of a stratum's family has in the guess of its spread.
_BORROWED = 4.0
#: A round has at least this share of the draws so far.
_SMALLEST_SHARE = 0.1
#: A round has at most as many draws as there were so far, or this number if that is more.
_ALWAYS_ALLOWED = 256


def allocate(ledger: Ledger, level: float, half_width: float) -> tuple[Values, int]:
    """Return the probabilities of the next round's strata (strata,), and its number of draws (1 or more).

    The floor is the one expected to reach ``half_width`` at ``level`` with the fewest draws.
    """
    shares = ledger.left / ledger.left.sum()
    weights = ledger.left / ledger.populations.sum()
    spreads = _spreads(ledger)
    neyman = weights * spreads / (weights * spreads).sum()
    plans = [(1 - floor) * neyman + floor * shares for floor in _FLOORS]
    needs = [_draws_needed(weights, spreads, plan, level, half_width) for plan in plans]
    best = int(np.argmin(needs))
    so_far = len(ledger)
    size = min(max(needs[best] - so_far, _SMALLEST_SHARE * so_far), max(so_far, _ALWAYS_ALLOWED))
    return plans[best], max(1, math.ceil(size))


def _spreads(ledger: Ledger) -> Values:
    """Return a guess of each stratum's standard deviation (strata,), never 0."""
    pooled, count = ledger.pooled(ledger.sums), ledger.pooled(ledger.drawn)
    mean = pooled / np.maximum(count, 1)
    family = np.maximum(ledger.pooled(ledger.squares) / np.maximum(count, 1) - mean**2, 0) + 0.25 / (count + 1)
    squares = np.maximum(ledger.squares - ledger.sums**2 / np.maximum(ledger.drawn, 1), 0)
    return np.asarray(np.sqrt((squares + _BORROWED * family) / (ledger.drawn + _BORROWED)), np.float64)


def _draws_needed(weights: Values, spreads: Values, plan: Values, level: float, half_width: float) -> float:
    """Return how many draws by ``plan`` (strata,) make an interval of width 2 ``half_width``.

    Against a mean at distance d from the true one, n draws with a bet b win ln(2 / alpha) where n (b d - b^2 V / 2) =
    ln(2 / alpha), V being the variance of a term. So a limit is d = ln(2 / alpha) / (n b) + b V / 2 away from the mean,
    and the distances of both limits are to add up to 2 ``half_width``. The bet on a smaller mean is at most 1 over the
    largest term, since terms reach far above the mean, but not far below it.
    """
    known = plan > 0
    variance = float((weights[known] ** 2 * spreads[known] ** 2 / plan[known]).sum())
    largest = float((weights[known] / plan[known]).max())
    goal, up = math.log(2 / (1 - level)), half_width / variance
    down = min(up, 1 / largest)
    room = 2 * half_width - up * variance / 2 - down * variance / 2
    return goal * (1 / up + 1 / down) / room
