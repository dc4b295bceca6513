"""Records that a run stores beside its outcomes."""

from typing import NamedTuple


class InterimEstimate(NamedTuple):
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
