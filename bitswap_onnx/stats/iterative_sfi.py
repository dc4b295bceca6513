"""Iterative statistical fault injection, for comparison: a random sample that grows until Wald's margin is small.

Ruospo et al., IEEE Transactions on Computers 2025, doi 10.1109/TC.2025.3566863: a pilot planned for a margin of 5
points at p = 1/2; then, while E = z sqrt(p (1 - p) / n) sqrt((N - n) / (N - 1)) exceeds the goal, the sample for the
next margin T = E / 3, or for the goal if T is below it, else for 4 (T - goal) p (1 - p) + goal, within goal and T. The
margin treats every fault as a yes or no, is computed again after every round, and is 0 where no fault did harm, so its
interval holds less often than the confidence says.
"""

import math

from bitswap_onnx.sampling.sizes import normal_quantile, sample_size

#: The margin that the pilot is planned for, and the share that is assumed for it.
PILOT_MARGIN, PILOT_SHARE = 0.05, 0.5


def wald_margin(population: int, n: int, p: float, level: float) -> float:
    """Return E of ``n`` of ``population`` faults with a mean share ``p``, at confidence ``level``; 0 for a census."""
    if n >= population:
        return 0.0
    return normal_quantile(level) * math.sqrt(p * (1 - p) / n) * math.sqrt((population - n) / (population - 1))


def next_margin(margin: float, goal: float, p: float) -> float:
    """Return the margin to plan the next sample for, where the ``margin`` of the last one exceeds ``goal``."""
    third = margin / 3
    return goal if third <= goal else min(max(4 * (third - goal) * p * (1 - p) + goal, goal), third)


def planned(population: int, margin: float, level: float, p: float = PILOT_SHARE) -> int:
    """Return how many of ``population`` faults the method draws for a ``margin`` if the mean share is ``p``."""
    return sample_size(population, margin, normal_quantile(level), p, "ceil")
