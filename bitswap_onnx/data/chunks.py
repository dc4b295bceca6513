"""Chunks of inputs: consecutive inputs that are run, stored and counted together."""

from dataclasses import dataclass

#: Longest time, about, of a clean run over one chunk of inputs.
CHUNK_SECONDS = 1.0


#: Most batches in one chunk, which bounds the memory of a worker.
BATCHES_PER_CHUNK = 64


@dataclass(frozen=True, slots=True)
class Chunk:
    """The inputs from ``first`` up to ``stop`` (excluded)."""

    first: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.first


#: Most chunks that short datasets are divided into so that each worker has one.
MOST_SHARES = 4


def chunk_length(inputs: int, batch_size: int, seconds_per_input: float, workers: int) -> int:
    """Return the number of inputs in a chunk: whole batches, so that chunks do not change what is in a batch.

    Every chunk costs each faulty model a load, so there are no more than time, memory and ``workers`` ask for.
    """
    affordable = CHUNK_SECONDS / max(seconds_per_input * batch_size, 1e-9)
    shared = -(-inputs // (batch_size * max(1, min(workers, MOST_SHARES))))
    return batch_size * int(max(1, min(affordable, shared, BATCHES_PER_CHUNK)))


def chunks(inputs: int, length: int) -> tuple[Chunk, ...]:
    """Cut ``inputs`` into chunks of ``length``; the last one may be shorter."""
    return tuple(Chunk(first, min(first + length, inputs)) for first in range(0, inputs, length))
