"""The packed lane, for many faults of a layer: injections share a run of the layer, each in channels of its own."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from bitswap_onnx.graph.edits import InjectionEdits, WeightEdit
from bitswap_onnx.graph.stretches import ROWS, ChannelwiseStretch, Feed, StretchRow
from bitswap_onnx.runtime.chain import Arrays
from bitswap_onnx.runtime.common_batches import CommonBatches, RowPlace, place_facts
from bitswap_onnx.runtime.golden_block import GoldenBlock, InnerValues
from bitswap_onnx.runtime.lanes import LaneKind
from bitswap_onnx.runtime.memory import aligned_empty
from bitswap_onnx.runtime.model_lanes import StagesLane
from bitswap_onnx.runtime.session import Numerics
from bitswap_onnx.runtime.submodel import Submodel, open_part

#: Rows of a run that carry faults; one row is a clean channel, which must stay golden.
FAULTY_ROWS = ROWS - 1

#: Standard deviations of the random values that a stretch is tried with.
_SPREADS = (1.0, 6.0, 0.1)


@dataclass(frozen=True, eq=False)
class Pack:
    """Injections that share a run of the stretch, each with equally many rows: ``places`` (injections, width)."""

    numbers: NDArray[np.intp]
    rows: list[StretchRow]
    places: NDArray[np.intp]

    def pairs(self, changed: NDArray[np.bool_]) -> tuple[NDArray[np.intp], ...]:
        """Return the pairs of an input and an injection of which some row is ``changed`` (inputs, rows).

        They come as four arrays: inputs (p,), injections (p,), their rows (p, width), and their channels (p, width).
        """
        inputs, owner = np.nonzero(changed[:, self.places].any(axis=2))
        channels = np.array([row.channel for row in self.rows], np.intp)
        return inputs, self.numbers[owner], self.places[owner], channels[self.places[owner]]


def packs(injections: Sequence[tuple[int, list[StretchRow]]]) -> Iterator[Pack]:
    """Put injections, each with its number and rows, into packs that fit a stretch beside a clean row."""
    ordered = sorted(injections, key=lambda injection: len(injection[1]))
    for width, group in groupby(ordered, key=lambda injection: len(injection[1])):
        members = list(group)
        for first in range(0, len(members), FAULTY_ROWS // width):
            chosen = members[first : first + FAULTY_ROWS // width]
            rows = [row for _, injection_rows in chosen for row in injection_rows]
            numbers = np.array([number for number, _ in chosen], np.intp)
            yield Pack(numbers, rows, np.arange(len(rows)).reshape(-1, width))


@dataclass(frozen=True, eq=False)
class PackedLane:
    """Runs many injections in one run of a stretch of its stage; the rows that change go on from ``place``.

    ``inner`` are the golden values within the stage that it reads. ``blocked``: the stretch's images enter in blocked
    layout. Injections that the stretch cannot carry run on the lane ``beside``.
    """

    kind: ClassVar[LaneKind] = "packed"

    numerics: Numerics
    stretch: ChannelwiseStretch
    place: RowPlace
    inner: InnerValues
    beside: StagesLane
    blocked: bool = False

    @property
    def loaded_bytes(self) -> int:
        """Estimated bytes that it keeps in memory between runs: the rest of the stage, and what the stretch is made of."""
        rest = 0 if isinstance(self.place, int) else self.place.loaded_bytes
        return rest + self.stretch.loaded_bytes

    @property
    def facts(self) -> list[Any]:
        """What tells it from any other lane of its path in the same chain, as JSON has it."""
        return [
            self.kind,
            self.stretch.start,
            self.stretch.value,
            self.blocked,
            place_facts(self.place),
            self.inner.facts,
        ]

    def run(self, injections: Sequence[tuple[int, InjectionEdits]], block: GoldenBlock, common: CommonBatches) -> None:
        """Add the rows that ``injections``, which come with their numbers, change.

        Two kinds of injections run on the lane beside: those that hit more channels than a run has room for, and those that
        make a weight Inf or NaN. Such a weight times the zeros around an image gives a result that depends on the kernel,
        and the stretch may run on another kernel.
        """
        narrow, others = [], []
        for number, edits in injections:
            rows = self.rows(edits) or [StretchRow(0, {})]
            if len(rows) <= FAULTY_ROWS and self._stays_finite(edits):
                narrow.append((number, rows))
            else:
                others.append((number, edits))
        self.beside.run(others, block, common)
        for pack in packs(narrow):
            self._run_pack(pack, block, common)

    def rows(self, edits: InjectionEdits) -> list[StretchRow]:
        """Return an injection as rows of the stretch, one per output channel that it hits."""
        by_channel: dict[int, dict[str, list[WeightEdit]]] = {}
        for tensor, changes in edits.weights.items():
            for element, mask in changes:
                channel_edits = by_channel.setdefault(self.stretch.channel(tensor, element), {})
                channel_edits.setdefault(tensor, []).append(WeightEdit(element, mask))
        return [StretchRow(channel, channel_edits) for channel, channel_edits in by_channel.items()]

    def keeps_channels(self, block: GoldenBlock) -> bool:
        """Whether clean channels keep their bits: all over the layer, and one in every row of the stretch."""
        return not any(
            changed[: block.count - start].any()
            for rows in self._clean_rows()
            for start, _, changed in self._run_stretch(rows, block)
        )

    def keeps_dense_channels(self) -> bool:
        """Whether clean channels keep their bits where no value is 0: golden ones may show nothing behind dead neurons."""
        slicer, draw = self.stretch.slicer, np.random.default_rng(0)
        names = sorted({feed.value for feed in self.stretch.feeds})
        alone = open_part(slicer.extract(names, [self.stretch.value]), self.numerics, self.blocked)
        for spread in _SPREADS:
            values = {name: aligned_empty(slicer.dims(name) or (), slicer.dtype(name)) for name in names}
            for array in values.values():
                array[...] = draw.standard_normal(array.shape) * spread
            (values[self.stretch.value],) = alone.run(values)
            for rows in self._clean_rows():
                part, padded = self._opened(rows)
                if self._run_batch(part, padded, values)[1].any():
                    return False
        return True

    def _clean_rows(self) -> Iterator[list[StretchRow]]:
        """Yield rows without a fault: channels all over the layer in one run, and single ones in all rows."""
        last = self.stretch.channels - 1
        spread = np.unique(np.linspace(0, last, ROWS).astype(int))[::-1].tolist()
        for channels in (spread, *([channel] for channel in sorted({0, last // 2, last}))):
            yield [StretchRow(channel, {}) for channel in channels]

    def _stays_finite(self, edits: InjectionEdits) -> bool:
        masks: dict[tuple[str, int], int] = {}
        for tensor, changes in edits.weights.items():
            for element, mask in changes:
                masks[tensor, element] = masks.get((tensor, element), 0) ^ mask
        return all(self.stretch.stays_finite(tensor, element, mask) for (tensor, element), mask in masks.items())

    def _run_pack(self, pack: Pack, block: GoldenBlock, common: CommonBatches) -> None:
        clean = StretchRow(int(pack.numbers[0]) % self.stretch.channels, {})
        golden = block.border(self.place) if isinstance(self.place, int) else block.inner(self.inner)
        for start, value, changed in self._run_stretch([*pack.rows, clean], block):
            changed = changed[: block.count - start]
            common.report(int(changed[:, len(pack.rows)].sum()))
            inputs, owners, places, channels = pack.pairs(changed)
            faulty = np.moveaxis(value, self.stretch.axis, 1)
            write = self._writer(golden, inputs + start, channels, faulty, (inputs, places))
            common.add(self.place, golden, owners, inputs + start, write)
        common.finish(pack.numbers.tolist())

    def _writer(
        self,
        golden: Arrays,
        inputs: NDArray[np.intp],
        channels: NDArray[np.intp],
        faulty: NDArray[Any],
        taken: tuple[NDArray[np.intp], NDArray[np.intp]],
    ) -> Any:
        """Return what writes rows: the golden values of ``inputs`` with the channels that were ``taken`` from ``faulty``."""

        def write(arrays: Arrays, part: slice) -> None:
            for name, array in arrays.items():
                np.take(golden[name], inputs[part], 0, out=array, mode="clip")
            rows = np.arange(len(inputs[part]))[:, None]
            by_channel = np.moveaxis(arrays[self.stretch.value], self.stretch.axis, 1)
            by_channel[rows, channels[part]] = faulty[taken[0][part][:, None], taken[1][part]]

        return write

    def _run_stretch(
        self, rows: Sequence[StretchRow], block: GoldenBlock
    ) -> Iterator[tuple[int, NDArray[Any], NDArray[np.bool_]]]:
        """Run the stretch with ``rows``, batch by batch.

        Yield for each batch its first input, the stretch's value, and whether a row lost the golden bits (inputs, rows).
        """
        golden = block.inner(self.inner)
        part, padded = self._opened(rows)
        for start in block.starts:
            batch = slice(start, start + block.size)
            yield start, *self._run_batch(part, padded, {name: array[batch] for name, array in golden.items()})

    def _opened(self, rows: Sequence[StretchRow]) -> tuple[Submodel, list[StretchRow]]:
        padded = [*rows, *[StretchRow(rows[-1].channel, {})] * (ROWS - len(rows))]
        return open_part(self.stretch.build(padded), self.numerics, self.blocked), padded

    def _run_batch(
        self, part: Submodel, rows: Sequence[StretchRow], golden: Arrays
    ) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """Run a loaded stretch over one batch; return its value, and whether a row lost the golden bits (inputs, rows)."""
        feeds = {feed.name: _fed(golden[feed.value], feed, rows) for feed in self.stretch.feeds}
        (value,) = part.run(feeds)
        channels, axis = [row.channel for row in rows], self.stretch.axis
        differs = _bits(value) != _bits(golden[self.stretch.value].take(channels, axis))
        return value, differs.any(axis=tuple(i for i in range(1, differs.ndim) if i != axis))


def _fed(value: NDArray[Any], feed: Feed, rows: Sequence[StretchRow]) -> NDArray[Any]:
    if feed.axis is None:
        return value
    channels = feed.channels(rows)
    assert 0 <= channels.min() <= channels.max() < value.shape[feed.axis]
    shape = (*value.shape[: feed.axis], len(channels), *value.shape[feed.axis + 1 :])
    return value.take(channels, feed.axis, out=aligned_empty(shape, value.dtype), mode="clip")


def _bits(array: NDArray[Any]) -> NDArray[Any]:
    return array.view(f"u{array.dtype.itemsize}")
