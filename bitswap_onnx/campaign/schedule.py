"""Units of work: the injections that run over the same inputs in one go, and the worker that takes them."""

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from bitswap_onnx.data.chunks import Chunk
from bitswap_onnx.runtime.messages import Work

#: Approximate seconds of a unit. A stopped campaign waits for the units that have begun.
UNIT_SECONDS = 3.0

#: Number of faulty paths with several tensors or sites up to which a campaign keeps them apart.
_WIDE_PATHS = 8

#: Injections of the first unit of a path, and of the largest. Between them, units are multiples of the first.
FIRST_UNIT, LARGEST_UNIT = 32, 1024

#: First input of a block → faulty path → positions of the injections that run over that block. None is the only key where
#: injections run over all inputs.
Queue = dict[int | None, dict[int, NDArray[np.int64]]]


@dataclass(eq=False)
class Lot:
    """The remaining work of one faulty path over one chunk: injections by position, and before them the null control.

    ``control``: whether the first unit is still to come; it has the null control. ``controlled_lane``: the lane whose null
    control has already passed; a worker skips the control there, a new lane needs its own.
    """

    chunk: Chunk
    path: int
    positions: NDArray[np.int64]
    control: bool
    controlled_lane: str | None = None

    @property
    def is_handed_out(self) -> bool:
        """Whether all of the work has been handed to workers."""
        return not len(self.positions) and not self.control


@dataclass
class Schedule:
    """Divides the ``lots`` of a campaign among workers.

    A worker stays with its chunk of inputs, since it holds the golden values of that chunk. Workers go through the faulty
    paths of their chunks, every second one backwards, so that each finds the lanes of about half of the paths for the
    others. A worker without a chunk helps with the chunk that has most lots left. Units take about ``unit_seconds`` and
    have at most ``largest`` injections.
    """

    lots: Iterable[Lot]
    unit_seconds: float = UNIT_SECONDS
    largest: int = LARGEST_UNIT
    _queues: dict[Chunk, deque[Lot]] = field(default_factory=dict)
    _begun: list[Lot] = field(default_factory=list)
    _current: dict[int, Lot] = field(default_factory=dict)
    _seconds: dict[int, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for lot in self.lots:
            if not lot.is_handed_out:
                self._queues.setdefault(lot.chunk, deque()).append(lot)
        for queue in list(self._queues.values())[1::2]:
            queue.reverse()

    def take(self, worker: int) -> Work | None:
        """Return the next work for a worker, or None if nothing is left."""
        lot = self._current.get(worker)
        if lot is None or lot.is_handed_out:
            lot = self._next(lot.chunk if lot else None, {other.chunk for other in self._current.values()})
            if lot is None:
                return None
            self._current[worker] = lot
        size = self._size(lot)
        positions, lot.positions = lot.positions[:size], lot.positions[size:]
        control, lot.control = lot.control, False
        return Work(lot.chunk, lot.path, tuple(positions.tolist()), control, lot.controlled_lane)

    def replace(self, path: int, lots: Iterable[Lot]) -> None:
        """Put ``lots`` in place of the remaining work of a path."""
        for lot in (*self._begun, *self._current.values()):
            if lot.path == path:
                lot.positions, lot.control = lot.positions[:0], False
        for queue in self._queues.values():
            others = [lot for lot in queue if lot.path != path]
            queue.clear()
            queue.extend(others)
        for lot in lots:
            if not lot.is_handed_out:
                self._queues.setdefault(lot.chunk, deque()).append(lot)
        self._seconds.pop(path, None)

    def learn(self, work: Work, seconds: float) -> None:
        """Note the seconds that some work took; the size of the next units of its path follows from them."""
        if work.positions:
            self._seconds[work.path] = seconds / (len(work.positions) * len(work.chunk))

    def _size(self, lot: Lot) -> int:
        seconds = self._seconds.get(lot.path)
        if seconds is None:
            return min(FIRST_UNIT, self.largest)
        size = int(self.unit_seconds / max(seconds * len(lot.chunk), 1e-9))
        size = size if size < FIRST_UNIT else size // FIRST_UNIT * FIRST_UNIT
        return min(max(size, 1), self.largest)

    def _next(self, current: Chunk | None, taken: set[Chunk]) -> Lot | None:
        """Return a lot of the ``current`` chunk, else of one that no worker has taken, else of the fullest one."""
        queues = {chunk: queue for chunk, queue in self._queues.items() if queue}
        free = [chunk for chunk in queues if chunk not in taken]
        if current in queues:
            lot = queues[current].popleft()
        elif free:
            lot = queues[free[0]].popleft()
        elif queues:
            lot = max(queues.values(), key=len).pop()
        else:
            self._begun = [lot for lot in self._begun if not lot.is_handed_out]
            return max(self._begun, key=lambda lot: len(lot.positions), default=None)
        self._begun.append(lot)
        return lot


def join_paths(paths: Iterable[tuple[str, ...]]) -> dict[tuple[str, ...], tuple[str, ...]]:
    """Return, for each faulty path of several tensors or sites, the union of all such paths; nothing where they are few.

    Each distinct path costs a null control and a search for its lane; the union costs both once.
    """
    wide = sorted({path for path in paths if len(path) > 1})
    if len(wide) <= _WIDE_PATHS:
        return {}
    union = tuple(sorted({key for path in wide for key in path}))
    return dict.fromkeys(wide, union)


def make_lots(
    chunks: Sequence[Chunk],
    queue: Queue,
    finished: Callable[[Chunk], NDArray[np.int64]],
    controlled: Callable[[Chunk], Mapping[int, str]],
) -> list[Lot]:
    """Return the remaining work, per chunk and path: everything in the ``queue`` that is not ``finished``.

    ``finished``: positions of the injections that have run over a chunk. ``controlled``: the lane of each path whose null
    control has run over it.
    """
    lots = []
    for chunk in chunks:
        done, controlled_lanes = finished(chunk), controlled(chunk)
        for path, positions in (queue.get(None) or queue.get(chunk.first, {})).items():
            remaining = positions if not len(done) else positions[~np.isin(positions, done)]
            lots.append(Lot(chunk, path, remaining, len(remaining) > 0, controlled_lanes.get(path)))
    return lots
