"""Ways for a fault to run: packed by channel behind its layer, alone through its cone, or as the whole model.

A lane takes injections of one faulty path over a `Block` of inputs and gives the scores that can differ from the golden
ones. All lanes give the same bits; `bitswap_onnx.runtime.incremental` finds out which are exact for a model.
"""

from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass, field, replace
from functools import cached_property
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from bitswap_onnx.graph.heads import Feed, Head, Row
from bitswap_onnx.graph.model import Model
from bitswap_onnx.graph.slices import Slicer
from bitswap_onnx.graph.weights import Edits, rewrite
from bitswap_onnx.outcome import Scores
from bitswap_onnx.runtime.session import Numerics, Part, as_floats, open_part, open_session

#: Rows of a head: as many faults, one per row, share one run of a faulty layer.
ROWS = 16

#: Changed values that wait for the suffix, in bytes; the more wait, the fuller its batches are.
_HELD_BYTES = 1 << 26


@dataclass(frozen=True, eq=False)
class Block:
    """Some consecutive inputs and the golden values that lanes cut at, in whole batches (the last one padded).

    ``count`` of the rows are inputs. ``scores`` (count, classes) are the golden ones.
    """

    inputs: NDArray[Any]
    values: dict[str, NDArray[Any]]
    scores: Scores

    @property
    def count(self) -> int:
        """Number of inputs."""
        return len(self.scores)


@dataclass(frozen=True, eq=False)
class Faulty:
    """Scores of several injections, over a block of ``inputs``, where they can differ from the golden ones.

    Injection ``numbers[i]`` has the ``scores`` from ``bounds[i]`` to ``bounds[i + 1]``, of the block's ``rows`` there.
    """

    inputs: int
    numbers: list[int]
    rows: NDArray[np.intp]
    bounds: list[int]
    scores: Scores

    @property
    def parts(self) -> list[slice]:
        """Where each injection's rows and scores are."""
        return [slice(first, stop) for first, stop in pairwise(self.bounds)]


class Lane(Protocol):
    """A way for injections of one faulty path to run."""

    @property
    def values(self) -> frozenset[str]:
        """The golden values it needs in a block."""

    def run(self, injections: Sequence[Edits], block: Block) -> Iterator[Faulty]:
        """Yield what becomes of ``injections``, each of them once."""

    def control(self, block: Block, rows: NDArray[np.intp]) -> NDArray[np.bool_]:
        """Send no fault the same way, over the block's ``rows`` in this order, none dropped; return which stay golden."""


@dataclass(frozen=True, eq=False)
class WholeLane:
    """The whole faulty model, as the reference engine runs it."""

    model: Model
    numerics: Numerics
    output: str
    tensors: tuple[str, ...]
    values: frozenset[str] = frozenset()

    def run(self, injections: Sequence[Edits], block: Block) -> Iterator[Faulty]:
        for number, edits in enumerate(injections):
            session = open_session(rewrite(self.model, edits), self.numerics, self.output)
            yield _all_rows(number, session.run(block.inputs))

    def control(self, block: Block, rows: NDArray[np.intp]) -> NDArray[np.bool_]:
        """As `Lane.control`; the whole model takes the rows in their own order."""
        (faulty,) = self.run([{tensor: () for tensor in self.tensors}], block)
        return _same(faulty.scores, block.scores)[rows]


@dataclass(frozen=True, eq=False)
class ConeLane:
    """The nodes that can see the fault, fed with the golden values they take from the others."""

    slicer: Slicer
    numerics: Numerics
    tensors: tuple[str, ...]
    cuts: tuple[str, ...]

    @property
    def values(self) -> frozenset[str]:
        return frozenset(self.cuts)

    @cached_property
    def _model(self) -> Model:
        return self.slicer.extract(self.cuts, (self.slicer.output,))

    def run(self, injections: Sequence[Edits], block: Block) -> Iterator[Faulty]:
        for number, edits in enumerate(injections):
            yield _all_rows(number, self._scores(edits, block, np.arange(block.count)))

    def control(self, block: Block, rows: NDArray[np.intp]) -> NDArray[np.bool_]:
        scores = self._scores({tensor: () for tensor in self.tensors}, block, rows)
        return _same(scores, block.scores[rows])

    def _scores(self, edits: Edits, block: Block, rows: NDArray[np.intp]) -> Scores:
        part = open_part(rewrite(self._model, edits), self.numerics)
        size = self.numerics.batch_size
        batches = (
            part.run({name: block.values[name].take(chosen, 0) for name in self.cuts})[0]
            for chosen in _padded(rows, size)
        )
        return _flat(np.concatenate(list(batches)))[: len(rows)]


@dataclass(frozen=True, eq=False)
class _Pairs:
    """Pairs of an input and an injection whose channels changed.

    ``inputs`` (p,) of a block; ``owner`` (p,), the injection; ``values`` (p, places, ...) of its ``channels``
    (p, places).
    """

    inputs: NDArray[np.intp]
    owner: NDArray[np.intp]
    values: NDArray[Any]
    channels: NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class PackedLane:
    """Many injections in one run of the faulty layer, then what each of them changed through one clean suffix.

    An input on which no channel of an injection changed has the golden scores and goes no further. ``blocked`` says of
    the head and of the suffix whether images enter it in blocked layout (`bitswap_onnx.runtime.session.open_part`).
    """

    slicer: Slicer
    numerics: Numerics
    head: Head
    cuts: tuple[str, ...]
    fallback: WholeLane
    blocked: tuple[bool, bool] = (False, False)
    _suffix: list[Part] = field(default_factory=list)

    @property
    def values(self) -> frozenset[str]:
        return frozenset((*self.cuts, self.head.value, *(feed.value for feed in self.head.feeds)))

    def run(self, injections: Sequence[Edits], block: Block) -> Iterator[Faulty]:
        packs: list[list[tuple[int, list[Row]]]] = [[]]
        for number, edits in enumerate(injections):
            rows = self.rows(edits)
            if len(rows) > ROWS:
                yield from (replace(faulty, numbers=[number]) for faulty in self.fallback.run([edits], block))
                continue
            if sum(len(own) for _, own in packs[-1]) + len(rows) > ROWS:
                packs.append([])
            packs[-1].append((number, rows))
        widest = max((len(own) for pack in packs for _, own in pack), default=1)
        held: list[_Pairs] = []
        numbers: list[int] = []
        for pack in filter(None, packs):
            held += self._changed(pack, len(numbers), widest, block)
            numbers += [number for number, _ in pack]
            if sum(pairs.values.nbytes for pairs in held) > _HELD_BYTES:
                yield self._finish(numbers, held, block)
                held, numbers = [], []
        if numbers:
            yield self._finish(numbers, held, block)

    def control(self, block: Block, rows: NDArray[np.intp]) -> NDArray[np.bool_]:
        channels = np.unique(np.linspace(0, self.head.channels - 1, ROWS).astype(int))[::-1]
        batches = list(self._head([Row(int(channel), {}) for channel in channels], block))
        values = np.concatenate([value for _, value, _ in batches])[:, : len(channels)]
        changed = np.concatenate([changed for _, _, changed in batches])
        scores = self._scores(block, _Pairs(rows, rows, values[rows], np.tile(channels, (len(rows), 1))))
        return _same(scores, block.scores[rows]) & ~changed[rows].any(axis=1)

    def rows(self, edits: Edits) -> list[Row]:
        """Return an injection as one row per output channel that it hits."""
        found: dict[int, dict[str, list[tuple[int, int]]]] = {}
        for tensor, changes in edits.items():
            for element, mask in changes:
                own = found.setdefault(self.head.channel(tensor, element), {})
                own.setdefault(tensor, []).append((element, mask))
        return [Row(channel, own) for channel, own in found.items()]

    def _changed(
        self, pack: Sequence[tuple[int, list[Row]]], first: int, widest: int, block: Block
    ) -> Iterator["_Pairs"]:
        """Run the faulty layer for a pack; yield the inputs whose channels lost their golden bits, batch by batch.

        The pack's injections count from ``first``; each fills ``widest`` places, its last row over and over.
        """
        rows = [row for _, own in pack for row in own]
        starts = np.cumsum([0, *(len(own) for _, own in pack)])
        places = np.array([[min(i, len(own) - 1) for i in range(widest)] for _, own in pack]) + starts[:-1, None]
        channels = np.array([row.channel for row in rows])[places]
        for begin, value, changed in self._head(rows, block):
            inputs, owner = np.nonzero(changed[: block.count - begin][:, places].any(axis=2))
            yield _Pairs(inputs + begin, owner + first, value[inputs[:, None], places[owner]], channels[owner])

    def _head(
        self, rows: Sequence[Row], block: Block
    ) -> Iterator[tuple[int, NDArray[Any], NDArray[np.bool_]]]:
        """Run the faulty layer, batch by batch from an input on.

        Yield its value (inputs, rows, ...), and (inputs, rows) whether it lost the golden bits.
        """
        padded = [*rows, *[Row(rows[-1].channel, {})] * (ROWS - len(rows))]
        part = open_part(self.head.build(padded), self.numerics, self.blocked[0])
        channels = [row.channel for row in padded]
        size, axis = self.numerics.batch_size, self.head.axis
        for first in range(0, block.count, size):
            batch = slice(first, first + size)
            feeds = {feed.name: _fed(block.values[feed.value][batch], feed, padded) for feed in self.head.feeds}
            (value,) = part.run(feeds)
            other = _bits(value) != _bits(block.values[self.head.value][batch].take(channels, axis))
            yield (
                first,
                np.moveaxis(value, axis, 1),
                other.any(axis=tuple(i for i in range(1, other.ndim) if i != axis)),
            )

    def _finish(self, numbers: list[int], held: list["_Pairs"], block: Block) -> Faulty:
        """Run what changed through the suffix and sort it by injection."""
        pairs = _Pairs(*(np.concatenate(parts) for parts in zip(*(astuple(pairs) for pairs in held), strict=True)))
        scores = self._scores(block, pairs)
        order = np.argsort(pairs.owner, kind="stable")
        bounds = np.searchsorted(pairs.owner[order], np.arange(len(numbers) + 1)).tolist()
        return Faulty(block.count, numbers, pairs.inputs[order], bounds, scores[order])

    def _scores(self, block: Block, pairs: "_Pairs") -> Scores:
        """Return the scores of golden inputs into which the pairs' values are put, channel by channel."""
        if not len(pairs.inputs):
            return block.scores[:0]
        size = self.numerics.batch_size
        scores = []
        feeds = {name: np.empty_like(block.values[name][:size]) for name in self._fed}
        for chosen in _padded(np.arange(len(pairs.inputs)), size):
            for name, buffer in feeds.items():
                np.take(block.values[name], pairs.inputs[chosen], 0, out=buffer, mode="clip")
            faulty = np.moveaxis(feeds[self.head.value], self.head.axis, 1)
            faulty[np.arange(size)[:, None], pairs.channels[chosen]] = pairs.values[chosen]
            scores.append(self._part.run(feeds)[0] if self._part else feeds[self.head.value].copy())
        return _flat(np.concatenate(scores))[: len(pairs.inputs)]

    @property
    def _fed(self) -> tuple[str, ...]:
        return self.cuts if self.head.value in self.cuts else (*self.cuts, self.head.value)

    @property
    def _part(self) -> Part | None:
        """The clean suffix; None where the faulty layer makes the scores."""
        if self.head.value == self.slicer.output:
            return None
        if not self._suffix:
            model = self.slicer.extract(self.cuts, (self.slicer.output,))
            self._suffix.append(open_part(model, self.numerics, self.blocked[1]))
        return self._suffix[0]


def _fed(value: NDArray[Any], feed: Feed, rows: Sequence[Row]) -> NDArray[Any]:
    return value if feed.axis is None else value.take(feed.channels(rows), feed.axis)


def _padded(rows: NDArray[np.intp], size: int) -> list[NDArray[np.intp]]:
    """Cut ``rows`` into batches of one size; the last one repeats its last row."""
    parts = [rows[first : first + size] for first in range(0, len(rows), size)]
    return [np.pad(part, (0, size - len(part)), mode="edge") for part in parts]


def _bits(array: NDArray[Any]) -> NDArray[Any]:
    return array.view(f"u{array.dtype.itemsize}")


def _flat(scores: NDArray[Any]) -> Scores:
    return as_floats(scores.reshape(len(scores), -1))


def _same(scores: Scores, golden: Scores) -> NDArray[np.bool_]:
    return np.asarray((scores == golden).all(axis=1))


def _all_rows(number: int, scores: Scores) -> Faulty:
    return Faulty(len(scores), [number], np.arange(len(scores)), [0, len(scores)], scores)
