"""Work units: which injections run over which inputs in one go."""

from collections.abc import Iterator
from dataclasses import dataclass

#: Batches of inputs in one unit: short enough to stop soon after Ctrl-C, long enough to hide the loading of a model.
BATCHES_PER_UNIT = 64


@dataclass(frozen=True, slots=True)
class Chunk:
    """The inputs from ``first`` up to ``stop`` (excluded)."""

    first: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.first


def chunks(inputs: int, batch_size: int) -> tuple[Chunk, ...]:
    """Cut ``inputs`` into chunks of whole batches, so that every batch is the same whichever worker runs it."""
    return tuple(_chunks(inputs, batch_size * BATCHES_PER_UNIT))


def _chunks(inputs: int, size: int) -> Iterator[Chunk]:
    for first in range(0, inputs, size):
        yield Chunk(first, min(first + size, inputs))
