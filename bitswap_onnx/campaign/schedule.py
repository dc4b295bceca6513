"""Work units: which injections run over which inputs in one go, and which worker takes them."""

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from bitswap_onnx.data.chunks import Chunk
from bitswap_onnx.runtime.messages import Work

#: A unit may take about this long: a campaign that is stopped waits for the units at hand.
UNIT_SECONDS = 3.0

#: Faulty paths of several tensors or sites that a campaign keeps apart, at most.
_WIDE_PATHS = 8

#: Injections in a unit: whole multiples of what runs together, as far as the time allows.
FIRST_UNIT, LARGEST_UNIT = 32, 1024

#: First input of a block → faulty path → positions of the injections that run over that block. None, then the only key: over
#: all inputs.
Queue = dict[int | None, dict[int, NDArray[np.int64]]]


@dataclass(eq=False)
class Lot:
    """What is left to do for one faulty path over one chunk: injections by position, and first of all its null control.

    ``controlled_lane``: the lane whose null control has already passed; a new lane needs its own.
    """

    chunk: Chunk
    path: int
    positions: NDArray[np.int64]
    control: bool
    controlled_lane: str | None = None

    @property
    def is_done(self) -> bool:
        """Whether everything has been handed out."""
        return not len(self.positions) and not self.control


@dataclass
class Schedule:
    """Hands out the work of a campaign, so that a worker stays with its chunk of inputs, whose golden values it holds.

    Units take about ``unit_seconds`` and have at most ``largest`` injections.

    Workers walk through the paths of their chunks, every other chunk backwards: what one finds out about a path, the
    others know when they come to it. Who has no chunk left helps the one that has most left.
    """

    lots: Iterable[Lot]
    unit_seconds: float = UNIT_SECONDS
    largest: int = LARGEST_UNIT
    _queues: dict[Chunk, deque[Lot]] = field(default_factory=dict)
    _begun: list[Lot] = field(default_factory=list)
    _of: dict[int, Lot] = field(default_factory=dict)
    _seconds: dict[int, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for lot in self.lots:
            if not lot.is_done:
                self._queues.setdefault(lot.chunk, deque()).append(lot)
        for queue in list(self._queues.values())[1::2]:
            queue.reverse()

    def take(self, worker: int) -> Work | None:
        """Return the next work for a worker, or None if nothing is left."""
        lot = self._of.get(worker)
        if lot is None or lot.is_done:
            lot = self._next(lot.chunk if lot else None, {other.chunk for other in self._of.values()})
            if lot is None:
                return None
            self._of[worker] = lot
        size = self._size(lot)
        positions, lot.positions = lot.positions[:size], lot.positions[size:]
        control, lot.control = lot.control, False
        return Work(lot.chunk, lot.path, tuple(positions.tolist()), control, lot.controlled_lane)

    def again(self, path: int, lots: Iterable[Lot]) -> None:
        """Hand out ``lots`` in place of what is left of a path."""
        for lot in (*self._begun, *self._of.values()):
            if lot.path == path:
                lot.positions, lot.control = lot.positions[:0], False
        for queue in self._queues.values():
            kept = [lot for lot in queue if lot.path != path]
            queue.clear()
            queue.extend(kept)
        for lot in lots:
            if not lot.is_done:
                self._queues.setdefault(lot.chunk, deque()).append(lot)
        self._seconds.pop(path, None)

    def learn(self, work: Work, seconds: float) -> None:
        """Take in how long some work took: the next units of its path are cut by it."""
        if work.positions:
            self._seconds[work.path] = seconds / (len(work.positions) * len(work.chunk))

    def _size(self, lot: Lot) -> int:
        seconds = self._seconds.get(lot.path)
        if seconds is None:
            return min(FIRST_UNIT, self.largest)
        size = int(self.unit_seconds / max(seconds * len(lot.chunk), 1e-9))
        size = size if size < FIRST_UNIT else size // FIRST_UNIT * FIRST_UNIT
        return min(max(size, 1), self.largest)

    def _next(self, own: Chunk | None, taken: set[Chunk]) -> Lot | None:
        queues = {chunk: queue for chunk, queue in self._queues.items() if queue}
        free = [chunk for chunk in queues if chunk not in taken]
        if own in queues:
            lot = queues[own].popleft()
        elif free:
            lot = queues[free[0]].popleft()
        elif queues:
            lot = max(queues.values(), key=len).pop()
        else:
            self._begun = [lot for lot in self._begun if not lot.is_done]
            return max(self._begun, key=lambda lot: len(lot.positions), default=None)
        self._begun.append(lot)
        return lot


def join_paths(paths: Iterable[tuple[str, ...]]) -> dict[tuple[str, ...], tuple[str, ...]]:
    """Return the faulty paths that run as one: those of several tensors or sites, where they are many.

    Each distinct path costs a null control and a search for its lane. What touches all of them has both once.
    """
    wide = sorted({path for path in paths if len(path) > 1})
    if len(wide) <= _WIDE_PATHS:
        return {}
    union = tuple(sorted({key for path in wide for key in path}))
    return dict.fromkeys(wide, union)


def make_lots(
    parts: Sequence[Chunk],
    queue: Queue,
    finished: Callable[[Chunk], NDArray[np.int64]],
    controlled: Callable[[Chunk], Mapping[int, str]],
) -> list[Lot]:
    """Return what is left of a campaign: per chunk and path what is in the ``queue`` and not ``finished``.

    ``controlled``: the lane of each path whose null control has run over a chunk.
    """
    lots = []
    for chunk in parts:
        done, controlled_lanes = finished(chunk), controlled(chunk)
        for path, positions in (queue.get(None) or queue.get(chunk.first, {})).items():
            left = positions if not len(done) else positions[~np.isin(positions, done)]
            lots.append(Lot(chunk, path, left, len(left) > 0, controlled_lanes.get(path)))
    return lots
