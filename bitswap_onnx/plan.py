"""Work units: which inputs an injection runs over in one go."""

from dataclasses import dataclass

#: A unit may take about this long: a campaign that is stopped waits for the units at hand.
UNIT_SECONDS = 10.0

#: Batches in one unit at most, so that what a worker holds at once is bounded.
BATCHES_PER_UNIT = 64


@dataclass(frozen=True, slots=True)
class Chunk:
    """The inputs from ``first`` up to ``stop`` (excluded)."""

    first: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.first


def unit_length(batch_size: int, seconds_per_input: float) -> int:
    """Return how many inputs a unit has: whole batches, so that every batch is the same whichever unit it is in."""
    batches = UNIT_SECONDS / max(seconds_per_input * batch_size, 1e-9)
    return batch_size * int(min(max(batches, 1), BATCHES_PER_UNIT))


def chunks(inputs: int, length: int) -> tuple[Chunk, ...]:
    """Cut ``inputs`` into chunks of ``length``; the last one may be shorter."""
    return tuple(Chunk(first, min(first + length, inputs)) for first in range(0, inputs, length))
