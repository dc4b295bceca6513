"""The packed lane, for most faults: many injections share a run of the faulty layer, and their changes one clean suffix."""

from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass, replace
from functools import cached_property
from itertools import groupby
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from bitswap_onnx.graph.edits import InjectionEdits, WeightEdit
from bitswap_onnx.graph.slices import Slicer
from bitswap_onnx.graph.stretches import ROWS, ChannelwiseStretch, Feed, StretchRow
from bitswap_onnx.outcome import Scores
from bitswap_onnx.runtime.lanes import Block, FaultyScores, LaneKind, flat, same
from bitswap_onnx.runtime.memory import aligned_empty
from bitswap_onnx.runtime.model_lanes import WholeLane
from bitswap_onnx.runtime.session import Numerics
from bitswap_onnx.runtime.submodel import Submodel, open_part

#: Bytes of changed values, with their scores, that wait for the suffix; the more wait, the fuller are its batches.
_WAITING_BYTES = 1 << 26


@dataclass(frozen=True, eq=False)
class _Pairs:
    """Pairs of an input and an injection that changed channels of the layer's output there.

    ``inputs`` (p,): rows of a block. ``owner`` (p,): the injections. ``channels`` (p, width) and ``values``
    (p, width, ...): each injection's channels and their faulty values.
    """

    inputs: NDArray[np.intp]
    owner: NDArray[np.intp]
    values: NDArray[Any]
    channels: NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class Pack:
    """Injections that share a run of the stretch, each with equally many rows: ``places`` (injections, width)."""

    numbers: list[int]
    rows: list[StretchRow]
    places: NDArray[np.intp]

    @property
    def width(self) -> int:
        """Rows of each injection."""
        return int(self.places.shape[1])

    def pairs(self, changed: NDArray[np.bool_]) -> tuple[NDArray[np.intp], ...]:
        """Return the pairs of an input and an injection of which some row is ``changed`` (inputs, rows).

        They come as four arrays: inputs (p,), injections (p,), their rows (p, width), and their channels (p, width).
        """
        inputs, owner = np.nonzero(changed[:, self.places].any(axis=2))
        channels = np.array([row.channel for row in self.rows], np.intp)
        return inputs, owner, self.places[owner], channels[self.places[owner]]


def _packs(injections: Sequence[tuple[int, list[StretchRow]]]) -> Iterator[Pack]:
    """Put injections, each with its rows, into packs that fit a stretch; packs of equal width are adjacent."""
    ordered = sorted(injections, key=lambda injection: len(injection[1]))
    for width, group in groupby(ordered, key=lambda injection: len(injection[1])):
        members = list(group)
        for first in range(0, len(members), ROWS // width):
            chosen = members[first : first + ROWS // width]
            rows = [row for _, injection_rows in chosen for row in injection_rows]
            yield Pack([number for number, _ in chosen], rows, np.arange(len(rows)).reshape(-1, width))


@dataclass(frozen=True, eq=False)
class PackedLane:
    """Runs many injections in one run of the faulty layer; then the channels that changed go through one clean suffix.

    An input on which no channel of an injection changed has the golden scores and goes no further. ``blocked`` says, for
    the stretch and for the suffix, whether images enter in blocked layout (`bitswap_onnx.runtime.submodel.open_part`).
    Injections that the stretch cannot carry run on ``fallback``.
    """

    kind: ClassVar[LaneKind] = "packed"

    slicer: Slicer
    numerics: Numerics
    stretch: ChannelwiseStretch
    cuts: tuple[str, ...]
    fallback: WholeLane
    blocked: tuple[bool, bool] = (False, False)

    @property
    def values(self) -> frozenset[str]:
        """As `Lane.values`."""
        return frozenset((*self.cuts, self.stretch.value, *(feed.value for feed in self.stretch.feeds)))

    def run(self, injections: Sequence[InjectionEdits], block: Block) -> Iterator[FaultyScores]:
        """As `Lane.run`.

        Two kinds of injections run as the whole model: those that hit more channels than a stretch has rows, and those that
        make a weight Inf or NaN. Such a weight times the zeros around an image gives a result that depends on the kernel,
        and the stretch may run on another kernel.
        """
        narrow = []
        for number, edits in enumerate(injections):
            rows = self.rows(edits) or [StretchRow(0, {})]
            if len(rows) <= ROWS and self._stays_finite(edits):
                narrow.append((number, rows))
            else:
                yield from (replace(faulty, numbers=[number]) for faulty in self.fallback.run([edits], block))
        yield from self._run_packs(_packs(narrow), block)

    def _stays_finite(self, edits: InjectionEdits) -> bool:
        masks: dict[tuple[str, int], int] = {}
        for tensor, changes in edits.weights.items():
            for element, mask in changes:
                masks[tensor, element] = masks.get((tensor, element), 0) ^ mask
        return all(self.stretch.stays_finite(tensor, element, mask) for (tensor, element), mask in masks.items())

    def _run_packs(self, packs: Iterator[Pack], block: Block) -> Iterator[FaultyScores]:
        """Collect changed values until they fill many batches of the suffix, then run it."""
        waiting: list[_Pairs] = []
        numbers: list[int] = []
        for pack in packs:
            if waiting and waiting[0].channels.shape[1] != pack.width:
                yield self._finish(numbers, waiting, block)
                waiting, numbers = [], []
            for start, value, changed in self._run_stretch(pack.rows, block):
                inputs, owner, places, channels = pack.pairs(changed[: block.count - start])
                values = np.moveaxis(value, self.stretch.axis, 1)[inputs[:, None], places]
                waiting.append(_Pairs(inputs + start, owner + len(numbers), values, channels))
            numbers += pack.numbers
            scores = block.scores[:1].nbytes
            if sum(pairs.values.nbytes + len(pairs.inputs) * scores for pairs in waiting) > _WAITING_BYTES:
                yield self._finish(numbers, waiting, block)
                waiting, numbers = [], []
        if numbers:
            yield self._finish(numbers, waiting, block)

    def control(self, block: Block, rows: NDArray[np.intp]) -> NDArray[np.bool_]:
        """As `Lane.control`: the stretch runs with clean rows of channels from all over the layer, then the suffix."""
        clean = self._sample()
        batches = list(self._run_stretch(clean, block))
        values = np.concatenate([np.moveaxis(value, self.stretch.axis, 1) for _, value, _ in batches])[:, : len(clean)]
        changed = np.concatenate([changed for _, _, changed in batches])
        channels = np.tile([row.channel for row in clean], (len(rows), 1))
        scores = self._scores(block, _Pairs(rows, rows, values[rows], channels))
        return same(scores, block.scores[rows]) & ~changed[rows].any(axis=1)

    def keeps_places(self, block: Block) -> bool:
        """Whether a clean channel keeps its bits in every row of the stretch: the first, a middle and the last one."""
        last = self.stretch.channels - 1
        for channel in sorted({0, last // 2, last}):
            if any(
                changed[: block.count - start].any()
                for start, _, changed in self._run_stretch([StretchRow(channel, {})], block)
            ):
                return False
        return True

    def _sample(self) -> list[StretchRow]:
        """Return clean rows of channels all over the layer, not in their order."""
        channels = np.unique(np.linspace(0, self.stretch.channels - 1, ROWS).astype(int))[::-1]
        return [StretchRow(int(channel), {}) for channel in channels]

    def rows(self, edits: InjectionEdits) -> list[StretchRow]:
        """Return an injection as rows of the stretch, one per output channel that it hits."""
        by_channel: dict[int, dict[str, list[WeightEdit]]] = {}
        for tensor, changes in edits.weights.items():
            for element, mask in changes:
                channel_edits = by_channel.setdefault(self.stretch.channel(tensor, element), {})
                channel_edits.setdefault(tensor, []).append(WeightEdit(element, mask))
        return [StretchRow(channel, channel_edits) for channel, channel_edits in by_channel.items()]

    def _run_stretch(self, rows: Sequence[StretchRow], block: Block) -> Iterator[tuple[int, Any, NDArray[np.bool_]]]:
        """Run the stretch with ``rows``, batch by batch.

        Yield for each batch its first input, the stretch's value, and whether a row lost the golden bits (inputs, rows).
        """
        padded = [*rows, *[StretchRow(rows[-1].channel, {})] * (ROWS - len(rows))]
        part = open_part(self.stretch.build(padded), self.numerics, self.blocked[0])
        channels, axis = [row.channel for row in padded], self.stretch.axis
        for start in block.starts:
            feeds = {feed.name: _fed(block.batch(feed.value, start), feed, padded) for feed in self.stretch.feeds}
            (value,) = part.run(feeds)
            differs = _bits(value) != _bits(block.batch(self.stretch.value, start).take(channels, axis))
            yield start, value, differs.any(axis=tuple(i for i in range(1, differs.ndim) if i != axis))

    def _finish(self, numbers: list[int], waiting: list[_Pairs], block: Block) -> FaultyScores:
        """Run changed values through the suffix and sort the scores by injection."""
        pairs = _Pairs(*(np.concatenate(parts) for parts in zip(*(astuple(pairs) for pairs in waiting), strict=True)))
        scores = self._scores(block, pairs)
        order = np.argsort(pairs.owner, kind="stable")
        bounds = np.searchsorted(pairs.owner[order], np.arange(len(numbers) + 1)).tolist()
        return FaultyScores(block.count, numbers, pairs.inputs[order], bounds, scores[order])

    def _scores(self, block: Block, pairs: _Pairs) -> Scores:
        """Return the scores of pairs: the suffix runs on golden values, into which each pair's faulty channels are put."""
        if not len(pairs.inputs):
            return block.scores[:0]
        size = self.numerics.batch_size
        scores = []
        feeds = {name: aligned_empty((size, *v.shape[1:]), v.dtype) for name, v in self._golden_of(block).items()}
        for chosen in padded_batches(np.arange(len(pairs.inputs)), size):
            for name, buffer in feeds.items():
                np.take(block.values[name], pairs.inputs[chosen], 0, out=buffer, mode="clip")
            faulty = np.moveaxis(feeds[self.stretch.value], self.stretch.axis, 1)
            faulty[np.arange(size)[:, None], pairs.channels[chosen]] = pairs.values[chosen]
            scores.append(self._suffix.run(feeds)[0] if self._suffix else feeds[self.stretch.value].copy())
        return flat(np.concatenate(scores))[: len(pairs.inputs)]

    def _golden_of(self, block: Block) -> dict[str, NDArray[Any]]:
        return {name: block.values[name] for name in self._fed}

    @cached_property
    def loaded_bytes(self) -> int:
        """As `Lane.loaded_bytes`: the suffix, and the constants that the stretch is built from."""
        return self.slicer.loaded_bytes(self.cuts, (self.slicer.output,)) + self.stretch.loaded_bytes

    @property
    def _fed(self) -> tuple[str, ...]:
        return self.cuts if self.stretch.value in self.cuts else (*self.cuts, self.stretch.value)

    @cached_property
    def _suffix(self) -> Submodel | None:
        """The clean suffix; None where the stretch's value is the scores."""
        if self.stretch.value == self.slicer.output:
            return None
        model = self.slicer.extract(self.cuts, (self.slicer.output,))
        return open_part(model, self.numerics, self.blocked[1])


def _fed(value: NDArray[Any], feed: Feed, rows: Sequence[StretchRow]) -> NDArray[Any]:
    if feed.axis is None:
        return value
    channels = feed.channels(rows)
    assert 0 <= channels.min() <= channels.max() < value.shape[feed.axis]
    shape = (*value.shape[: feed.axis], len(channels), *value.shape[feed.axis + 1 :])
    return value.take(channels, feed.axis, out=aligned_empty(shape, value.dtype), mode="clip")


def padded_batches(rows: NDArray[np.intp], size: int) -> list[NDArray[np.intp]]:
    """Cut ``rows`` into batches of one size; the last one repeats its last row."""
    pieces = [rows[first : first + size] for first in range(0, len(rows), size)]
    return [np.pad(batch, (0, size - len(batch)), mode="edge") for batch in pieces]


def _bits(array: NDArray[Any]) -> NDArray[Any]:
    return array.view(f"u{array.dtype.itemsize}")
