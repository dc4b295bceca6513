"""Planners: how a campaign draws its next round, and the estimate after each; one for each scheme of drawing."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from bitswap_onnx.campaign.records import InterimEstimate
from bitswap_onnx.errors import BitswapError
from bitswap_onnx.sampling.rounds import Indices, Piece, Round
from bitswap_onnx.sampling.sizes import FLOOR
from bitswap_onnx.stats.allocation import allocate
from bitswap_onnx.stats.confidence_sequence import Interval, Ledger
from bitswap_onnx.stats.intervals import Values
from bitswap_onnx.stats.iterative_sfi import PILOT_MARGIN, next_margin, planned, wald_margin
from bitswap_onnx.until.goal import Goal, UntilScheme


class Planner(Protocol):
    """Plans rounds and estimates the share, from the draws in its ledger."""

    ledger: Ledger

    def begin(self) -> Round:
        """Return the pilot, the first round."""

    def interval(self) -> Interval:
        """Return the estimate from all draws so far."""

    def go_on(self) -> Round:
        """Return the next round."""


class Stratified:
    """Draws from strata by Neyman's allocation and estimates by a confidence sequence."""

    def __init__(self, populations: Values, family: Indices, goal: Goal, *, with_replacement: bool = False) -> None:
        self.ledger, self.goal = Ledger(populations, family, with_replacement=with_replacement), goal

    def begin(self) -> Round:
        """Return the smallest number of draws from every stratum."""
        return Round(FLOOR)

    def interval(self) -> Interval:
        """Return an interval that holds after every round."""
        return self.ledger.interval(self.goal.level)

    def go_on(self) -> Round:
        """Return the next round, sized to reach the goal.

        It has at most as many draws as there were so far, or 256 if that is more.
        """
        probabilities, draws = allocate(self.ledger, self.goal.level, self.goal.margin)
        return Round(draws, tuple(probabilities.tolist()))


class Iterative:
    """Draws from one stratum and estimates by Wald's margin: `bitswap_onnx.stats.iterative_sfi`."""

    def __init__(self, populations: Values, family: Indices, goal: Goal, *, with_replacement: bool = False) -> None:
        if with_replacement:
            raise BitswapError(
                "`scheme` iterative: expected all inputs for every fault; leave `inputs_per_injection` out"
            )
        self.ledger, self.goal = Ledger(populations, family), goal
        (self.population,) = np.asarray(populations).astype(int).tolist()

    def begin(self) -> Round:
        """Return the pilot of the method."""
        return Round(planned(self.population, PILOT_MARGIN, self.goal.level), (1.0,))

    def interval(self) -> Interval:
        """Return the mean and Wald's margin, which does not hold where it is computed after every round."""
        mean = self.ledger.mean_seen
        margin = wald_margin(self.population, len(self.ledger), mean, self.goal.level)
        return Interval(mean, mean - margin, mean + margin)

    def go_on(self) -> Round:
        """Return a round with the draws, at least one, that the sample still needs for the method's next margin."""
        n, mean = len(self.ledger), self.ledger.mean_seen
        margin = next_margin(wald_margin(self.population, n, mean, self.goal.level), self.goal.margin, mean)
        return Round(max(planned(self.population, margin, self.goal.level, mean) - n, 1), (1.0,))


SCHEMES: dict[UntilScheme, type[Stratified] | type[Iterative]] = {"stratified": Stratified, "iterative": Iterative}


def add_round(planner: Planner, pieces: Sequence[Piece], values: Values, target_half_width: float) -> None:
    """Add the draws of a round, with their ``values`` (draws,) in order, to a planner's ledger; see `Ledger.add`."""
    first = 0
    for piece in pieces:
        stop = first + len(piece.strata)
        planner.ledger.add(piece.strata, values[first:stop], piece.probabilities, target_half_width)
        first = stop


def interim_estimate(planner: Planner, goal: Goal, number: int, inferences: int) -> InterimEstimate:
    """Return the estimate after round ``number``, with the number of inferences so far."""
    interval, population = planner.interval(), int(planner.ledger.populations.sum())
    pilot = planned(population, PILOT_MARGIN, goal.level)
    iterative = max(pilot, planned(population, goal.margin, goal.level, interval.mean))
    return InterimEstimate(
        number, len(planner.ledger), inferences, interval.mean, interval.low, interval.high, str(goal), iterative
    )
