"""The lane for most neuron faults: golden values, changed in place, and the suffix behind them. No flip node is run.

Rows of the suffix are pairs of an input and an injection, so that faults of one input each fill its batches too.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitswap_onnx.faults.bits import to_bits
from bitswap_onnx.graph.edits import InjectionEdits, NeuronEdit
from bitswap_onnx.graph.neurons import Flips, by_input, flips, tapped_value
from bitswap_onnx.graph.sites import NeuronSite
from bitswap_onnx.graph.slices import Slicer
from bitswap_onnx.outcome import Scores
from bitswap_onnx.runtime.lanes import Block, Faulty, affected, flat, same
from bitswap_onnx.runtime.packed import padded_batches
from bitswap_onnx.runtime.session import Numerics
from bitswap_onnx.runtime.submodel import Submodel, open_part

#: Pairs that run together at most: what their scores take is bounded by it.
_PAIRS = 4096

#: A site's edits, as `by_input` has them, per injection of a group.
_Edits = dict[str, list[dict[int, list[NeuronEdit]]]]


@dataclass(frozen=True, eq=False)
class NeuronLane:
    """Faults of ``sites`` none of which lies behind another: their values are golden, and so are the other ``cuts``.

    The model is cut in ``slicer``, where each site has a value of its own (`bitswap_onnx.graph.neurons.tap`).
    """

    slicer: Slicer
    numerics: Numerics
    sites: tuple[NeuronSite, ...]
    cuts: tuple[str, ...]
    _suffix: list[Submodel] = field(default_factory=list)

    @cached_property
    def _sources(self) -> dict[str, str]:
        """What the suffix takes in → the golden value it is: what one node takes in is what all others do."""
        taps = {tapped_value(site.key): site.value for site in self.sites}
        return {name: taps.get(name, name) for name in dict.fromkeys((*self.cuts, *taps))}

    @property
    def values(self) -> frozenset[str]:
        """As `Lane.values`."""
        return frozenset(self._sources.values())

    @cached_property
    def loaded_bytes(self) -> int:
        """As `Lane.loaded_bytes`."""
        return self.slicer.loaded_bytes(self.cuts, (self.slicer.output,))

    def run(self, injections: Sequence[InjectionEdits], block: Block) -> Iterator[Faulty]:
        """As `Lane.run`."""
        numbers: list[int] = []
        rows: list[NDArray[np.intp]] = []
        for number, edits in enumerate(injections):
            own = affected(edits, block)
            if rows and sum(map(len, rows)) + len(own) > _PAIRS:
                yield self._group(numbers, rows, injections, block)
                numbers, rows = [], []
            numbers.append(number)
            rows.append(own)
        if numbers:
            yield self._group(numbers, rows, injections, block)

    def control(self, block: Block, rows: NDArray[np.intp]) -> NDArray[np.bool_]:
        """As `Lane.control`."""
        clean: _Edits = {site.key: [{}] for site in self.sites}
        return same(self._scores(block, rows, np.zeros(len(rows), np.intp), clean), block.scores[rows])

    def _group(
        self, numbers: list[int], rows: list[NDArray[np.intp]], injections: Sequence[InjectionEdits], block: Block
    ) -> Faulty:
        edits = {
            site.key: [by_input(injections[number].neurons.get(site.key, ())) for number in numbers]
            for site in self.sites
        }
        lengths = [len(own) for own in rows]
        inputs, owner = np.concatenate(rows), np.repeat(np.arange(len(numbers)), lengths)
        bounds = [0, *np.cumsum(lengths).tolist()]
        return Faulty(block.count, numbers, inputs, bounds, self._scores(block, inputs, owner, edits))

    def _scores(self, block: Block, inputs: NDArray[np.intp], owner: NDArray[np.intp], edits: _Edits) -> Scores:
        """Return the scores of pairs: the block's ``inputs`` with what their ``owner`` among the injections changes."""
        size = self.numerics.batch_size
        arrays = {name: _on_host(block.values[source]) for name, source in self._sources.items()}
        scores = [block.scores[:0]]
        for chosen in padded_batches(np.arange(len(inputs)), size):
            feeds = {name: array.take(inputs[chosen], 0) for name, array in arrays.items()}
            for site in self.sites:
                bits = to_bits(feeds[tapped_value(site.key)])
                for changes in _changes(edits[site.key], inputs[chosen] + block.first, owner[chosen], site):
                    changes.apply(bits)
            scores.append(flat(self._part.run(feeds)[0] if self._part else feeds[self.slicer.output]))
        return np.concatenate(scores)[: len(inputs)]

    @property
    def _part(self) -> Submodel | None:
        """The clean suffix; None where the site is the scores themselves."""
        if self.cuts == (self.slicer.output,):
            return None
        if not self._suffix:
            self._suffix.append(open_part(self.slicer.extract(self.cuts, (self.slicer.output,)), self.numerics))
        return self._suffix[0]


def _changes(
    edits: Sequence[dict[int, list[NeuronEdit]]], inputs: NDArray[np.intp], owner: NDArray[np.intp], site: NeuronSite
) -> Iterator[Flips]:
    """Yield what changes in a batch whose rows are dataset ``inputs``, for each run of rows of one ``owner``."""
    starts = np.flatnonzero(np.diff(owner, prepend=-1))
    for start, stop in zip(starts, [*starts[1:], len(owner)], strict=True):
        yield flips(edits[owner[start]], inputs[start:stop].tolist(), site).behind(int(start) * site.elements)


def _on_host(values: Any) -> NDArray[Any]:
    """Return a golden value as one array; on a device it is a list of one per batch."""
    return np.concatenate([value.numpy() for value in values]) if isinstance(values, list) else values
