"""When a campaign has run enough, and what it runs next: a goal for one share, and two schemes that work towards it."""

from collections.abc import Sequence
from typing import Literal, Protocol

import numpy as np

from bitswap_onnx.campaign.records import InterimEstimate
from bitswap_onnx.errors import BitswapError
from bitswap_onnx.sampling.rounds import Members, Piece, Round
from bitswap_onnx.sampling.sizes import FLOOR
from bitswap_onnx.stats.allocation import allocate
from bitswap_onnx.stats.confidence_sequence import Interval, Ledger
from bitswap_onnx.stats.intervals import Values
from bitswap_onnx.stats.iterative_sfi import PILOT_MARGIN, next_margin, planned, wald_margin
from bitswap_onnx.until.goal import Goal

UntilScheme = Literal["stratified", "iterative"]


class Planner(Protocol):
    """Decides, from what its ledger has seen, what is known and how the sample goes on."""

    ledger: Ledger

    def begin(self) -> Round:
        """Return the pilot."""

    def interval(self) -> Interval:
        """Return what is known now."""

    def go_on(self) -> Round:
        """Return the next round."""


class Stratified:
    """Strata by layer and class of bits, Neyman's allocation, and a confidence sequence."""

    def __init__(self, populations: Values, family: Members, goal: Goal, *, with_replacement: bool = False) -> None:
        self.ledger, self.goal = Ledger(populations, family, with_replacement=with_replacement), goal

    def begin(self) -> Round:
        """Return what every stratum gets at least."""
        return Round(FLOOR)

    def interval(self) -> Interval:
        """Return an interval that holds whenever one looks."""
        return self.ledger.interval(self.goal.level)

    def go_on(self) -> Round:
        """Return the round that reaches the goal, or comes as near as can be told now."""
        probabilities, draws = allocate(self.ledger, self.goal.level, self.goal.margin)
        return Round(draws, tuple(probabilities.tolist()))


class Iterative:
    """One stratum and Wald's margin: `bitswap_onnx.stats.iterative_sfi`."""

    def __init__(self, populations: Values, family: Members, goal: Goal, *, with_replacement: bool = False) -> None:
        if with_replacement:
            raise BitswapError(
                "--scheme iterative: expected all inputs for every fault; leave --inputs-per-injection out"
            )
        self.ledger, self.goal = Ledger(populations, family), goal
        (self.population,) = np.asarray(populations).astype(int).tolist()

    def begin(self) -> Round:
        """Return the method's pilot."""
        return Round(planned(self.population, PILOT_MARGIN, self.goal.level), (1.0,))

    def interval(self) -> Interval:
        """Return the mean and Wald's margin, which looking again and again wears out."""
        mean = self.ledger.mean_seen
        margin = wald_margin(self.population, len(self.ledger), mean, self.goal.level)
        return Interval(mean, mean - margin, mean + margin)

    def go_on(self) -> Round:
        """Return what lacks for the method's next margin."""
        n, mean = len(self.ledger), self.ledger.mean_seen
        margin = next_margin(wald_margin(self.population, n, mean, self.goal.level), self.goal.margin, mean)
        return Round(max(planned(self.population, margin, self.goal.level, mean) - n, 1), (1.0,))


SCHEMES: dict[UntilScheme, type[Stratified] | type[Iterative]] = {"stratified": Stratified, "iterative": Iterative}


def add_round(planner: Planner, pieces: Sequence[Piece], values: Values, target_half_width: float) -> None:
    """Hand a round's draws (``values`` (draws,), in order) to a planner's ledger; see `Ledger.add`."""
    for piece in pieces:
        own, values = values[: len(piece.strata)], values[len(piece.strata) :]
        planner.ledger.add(piece.strata, own, piece.probabilities, target_half_width)


def interim_estimate(planner: Planner, goal: Goal, number: int, inferences: int) -> InterimEstimate:
    """Return what is known after round ``number``, when so many inferences have run."""
    found, population = planner.interval(), int(planner.ledger.populations.sum())
    pilot = planned(population, PILOT_MARGIN, goal.level)
    iterative = max(pilot, planned(population, goal.margin, goal.level, found.mean))
    return InterimEstimate(
        number, len(planner.ledger), inferences, found.mean, found.low, found.high, str(goal), iterative
    )
