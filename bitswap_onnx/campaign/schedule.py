"""Units of work: the injections that run over the same inputs in one go, and the worker that takes them."""

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from bitswap_onnx.data.chunks import Chunk
from bitswap_onnx.runtime.messages import PathWork, Work

#: Approximate seconds of a unit. A stopped campaign waits for the units that have begun.
UNIT_SECONDS = 3.0

#: Batches that a unit should fill, since its last one runs half empty, and how many times longer it may take for that.
FULL_BATCHES, LONGEST_UNIT = 4, 4

#: Number of faulty paths with several tensors or sites up to which a campaign keeps them apart.
_WIDE_PATHS = 8

#: Injections of the first units, of the largest, and of the smallest that a short list is divided into.
FIRST_UNIT, LARGEST_UNIT, SMALLEST_UNIT = 32, 1024, 8

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
    """Divides the ``lots`` of a campaign among ``workers``.

    A worker stays with its chunk of inputs, since it holds the golden values of that chunk, and goes through the lots of the
    chunk in order. A worker without a chunk helps with the chunk that has most lots left. A unit takes lots until it is
    likely to take ``unit_seconds``, or longer if it would not fill `FULL_BATCHES` of ``batch_size`` rows; it has at most
    ``largest`` injections, and towards the end a share of what is left, so that workers end together. ``clean_seconds``: of
    a clean inference, by which units are sized before any has run; 0 if not known.
    """

    lots: Iterable[Lot]
    workers: int = 1
    unit_seconds: float = UNIT_SECONDS
    largest: int = LARGEST_UNIT
    batch_size: int = 1
    clean_seconds: float = 0.0
    _queues: dict[Chunk, deque[Lot]] = field(default_factory=dict)
    _begun: list[Lot] = field(default_factory=list)
    _current: dict[int, Lot] = field(default_factory=dict)
    _seconds: dict[int, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.add(self.lots)

    def add(self, lots: Iterable[Lot]) -> None:
        """Take in more work."""
        for lot in lots:
            if not lot.is_handed_out:
                self._queues.setdefault(lot.chunk, deque()).append(lot)

    def take(self, worker: int) -> Work | None:
        """Return the next work for a worker, or None if nothing is left."""
        lot = self._next(worker)
        if lot is None:
            return None
        chunk, parts = lot.chunk, list[PathWork]()
        most = max(SMALLEST_UNIT, -(-self._left() // (2 * max(self.workers, 1))))
        most, room = min(most, self.largest), 1.0
        while lot is not None and lot.chunk == chunk and room > 0 and most > 0:
            size = self._size(lot)
            number = max(1, min(int(size * room), most))
            positions, lot.positions = lot.positions[:number], lot.positions[number:]
            control, lot.control = lot.control, False
            parts.append(PathWork(lot.path, tuple(positions.tolist()), control, lot.controlled_lane))
            room -= len(positions) / size
            most -= len(positions)
            lot = self._next(worker) if self._queues.get(chunk) or not lot.is_handed_out else None
        return Work(chunk, tuple(parts))

    def replace(self, path: int, lots: Iterable[Lot]) -> None:
        """Put ``lots`` in place of the remaining work of a path."""
        for lot in (*self._begun, *self._current.values()):
            if lot.path == path:
                lot.positions, lot.control = lot.positions[:0], False
        for queue in self._queues.values():
            others = [lot for lot in queue if lot.path != path]
            queue.clear()
            queue.extend(others)
        self.add(lots)
        self._seconds.pop(path, None)

    def learn(self, work: Work, seconds: float) -> None:
        """Note the seconds that some work took; the size of the next units with its paths follows from them."""
        injections = sum(len(part.positions) for part in work.parts)
        if injections:
            each = seconds / (injections * len(work.chunk))
            self._seconds |= {part.path: each for part in work.parts if part.positions}

    def _left(self) -> int:
        """Return how many injections have not been handed out."""
        waiting = [lot for queue in self._queues.values() for lot in queue]
        return sum(len(lot.positions) for lot in (*waiting, *self._begun))

    def _size(self, lot: Lot) -> int:
        """Return how many injections of a lot make a unit of the wanted time."""
        known = self._seconds.get(lot.path, max(self._seconds.values(), default=None))
        largest = min(FIRST_UNIT, self.largest) if known is None else self.largest
        each = len(lot.chunk) * (self.clean_seconds if known is None else known)
        in_time = int(self.unit_seconds / max(each, 1e-9))
        if in_time >= largest:
            return largest
        filling = -(-FULL_BATCHES * self.batch_size // len(lot.chunk))
        return max(1, in_time, min(filling, int(LONGEST_UNIT * self.unit_seconds / each), largest))

    def _next(self, worker: int) -> Lot | None:
        """Return the worker's lot, or a new one: of its chunk, else of one that no worker has, else of the fullest one."""
        lot = self._current.get(worker)
        if lot is not None and not lot.is_handed_out:
            return lot
        taken = {other.chunk for other in self._current.values()}
        queues = {chunk: queue for chunk, queue in self._queues.items() if queue}
        free = [chunk for chunk in queues if chunk not in taken]
        if lot is not None and lot.chunk in queues:
            lot = queues[lot.chunk].popleft()
        elif free:
            lot = queues[free[0]].popleft()
        elif queues:
            lot = max(queues.values(), key=len).pop()
        else:
            self._begun = [lot for lot in self._begun if not lot.is_handed_out]
            lot = max(self._begun, key=lambda begun: len(begun.positions), default=None)
            if lot is not None:
                self._current[worker] = lot
            return lot
        self._begun.append(lot)
        self._current[worker] = lot
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
