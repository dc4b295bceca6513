"""When a campaign has run enough, and what it runs next: a goal for one share, and two schemes that work towards it."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

import numpy as np

from bitswap_onnx.errors import BitswapError
from bitswap_onnx.faults.bits import FORMATS
from bitswap_onnx.sampling.rounds import Piece, Round
from bitswap_onnx.sampling.sizes import FLOOR
from bitswap_onnx.stats.allocation import allocate
from bitswap_onnx.stats.confidence_sequence import Interval, Ledger
from bitswap_onnx.stats.intervals import Values
from bitswap_onnx.stats.iterative_sfi import PILOT_MARGIN, next_margin, planned, wald_margin
from bitswap_onnx.stats.stratified import Members

Scheme = Literal["stratified", "iterative"]

_NUMBER = r"(\d+\.?\d*|\.\d+)"
_GOAL = re.compile(rf"\s*([a-z0-9_-]+)\s*(?:±|\+/?-)\s*{_NUMBER}\s*%\s*@\s*{_NUMBER}\s*%\s*", re.ASCII)


@dataclass(frozen=True, slots=True)
class Goal:
    """To know the mean of ``quantity`` to ``margin``, at confidence ``level``; both are fractions.

    The margin is half of what is between the interval's limits.
    """

    quantity: str
    margin: float
    level: float

    def __str__(self) -> str:
        return f"{self.quantity}±{_percent(self.margin)}%@{_percent(self.level)}%"


def parse_goal(text: str) -> Goal:
    """Return the goal that ``critical±0.1%@99%`` (also ``+-``, ``+/-``) says; raises BitswapError for another text."""
    match = _GOAL.fullmatch(text)
    if match is not None:
        margin, level = (float(number) / 100 for number in match.groups()[1:])
        if 0 < margin < 1 and 0 < level < 1:
            return Goal(match[1].replace("-", "_"), margin, level)
    raise BitswapError(
        "--until: expected a share, how well it is to be known and how sure (both above 0 and below 100 %), like "
        f"critical±0.1%@99%, found {text!r}"
    )


def bit_group(element_format: str, bit: int) -> str:
    """Return the class of a bit, the top exponent bit being its own: of weights below 2 it makes huge ones, alone."""
    fmt = FORMATS[element_format]
    return "top exponent bit" if fmt.is_float and bit == fmt.exponent[-1] else fmt.bit_class(bit)


def _percent(share: float) -> str:
    return f"{100 * share:.12f}".rstrip("0").rstrip(".")


class Look(NamedTuple):
    """What was known after a round: of how many ``injections``, and how many the iterative method plans at that mean."""

    round: int
    injections: int
    inferences: int
    mean: float
    low: float
    high: float
    goal: str
    iterative: int

    @property
    def half_width(self) -> float:
        """Half of what is between the limits."""
        return (self.high - self.low) / 2


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

    def __init__(self, populations: Values, family: Members, goal: Goal, *, again: bool = False) -> None:
        self.ledger, self.goal = Ledger(populations, family, again=again), goal

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

    def __init__(self, populations: Values, family: Members, goal: Goal, *, again: bool = False) -> None:
        if again:
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


SCHEMES: dict[Scheme, type[Stratified] | type[Iterative]] = {"stratified": Stratified, "iterative": Iterative}


def take(planner: Planner, pieces: Sequence[Piece], values: Values, hoped: float) -> None:
    """Hand a round's draws (``values`` (draws,), in order) to a planner's ledger; see `Ledger.add`."""
    for piece in pieces:
        own, values = values[: len(piece.strata)], values[len(piece.strata) :]
        planner.ledger.add(piece.strata, own, piece.probabilities, hoped)


def look(planner: Planner, goal: Goal, number: int, inferences: int) -> Look:
    """Return what is known after round ``number``, when so many inferences have run."""
    found, population = planner.interval(), int(planner.ledger.populations.sum())
    pilot = planned(population, PILOT_MARGIN, goal.level)
    iterative = max(pilot, planned(population, goal.margin, goal.level, found.mean))
    return Look(number, len(planner.ledger), inferences, found.mean, found.low, found.high, str(goal), iterative)


def is_reached(found: Look, goal: Goal) -> bool:
    """Whether what is known is enough."""
    return found.half_width <= goal.margin
