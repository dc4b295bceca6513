"""The lane for most neuron faults: golden values are changed in numpy, and the suffix runs on them, without flip nodes.

A row of the suffix is a pair of an input and an injection, so that faults of one input each also fill its batches.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from bitswap_onnx.faults.bits import to_bits
from bitswap_onnx.graph.edits import InjectionEdits, NeuronEdit
from bitswap_onnx.graph.neurons import Flips, by_input, flips, tapped_value
from bitswap_onnx.graph.sites import NeuronSite
from bitswap_onnx.graph.slices import Slicer
from bitswap_onnx.outcome import Scores
from bitswap_onnx.runtime.lanes import Block, FaultyScores, LaneKind, affected, flat, same
from bitswap_onnx.runtime.packed import padded_batches
from bitswap_onnx.runtime.session import Numerics
from bitswap_onnx.runtime.submodel import Submodel, open_part

#: Pairs that run together at most, which bounds the memory of their scores.
_PAIRS = 4096

#: Site key → for each injection of a group, its edits of the site, as `by_input` returns them.
_Edits = dict[str, list[dict[int, list[NeuronEdit]]]]


@dataclass(frozen=True, eq=False)
class NeuronLane:
    """Runs faults of ``sites``. No site may depend on another one, so the values at ``cuts`` are golden.

    ``slicer`` has the model in which each site has a value of its own (`bitswap_onnx.graph.neurons.tap`).
    """

    kind: ClassVar[LaneKind] = "neuron"

    slicer: Slicer
    numerics: Numerics
    sites: tuple[NeuronSite, ...]
    cuts: tuple[str, ...]

    @cached_property
    def _sources(self) -> dict[str, str]:
        """Input of the suffix → the golden value that it is fed with; a tap is fed with the value that it is a copy of."""
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

    def run(self, injections: Sequence[InjectionEdits], block: Block) -> Iterator[FaultyScores]:
        """As `Lane.run`."""
        numbers: list[int] = []
        rows: list[NDArray[np.intp]] = []
        for number, edits in enumerate(injections):
            injection_rows = affected(edits, block)
            if rows and sum(map(len, rows)) + len(injection_rows) > _PAIRS:
                yield self._group(numbers, rows, injections, block)
                numbers, rows = [], []
            numbers.append(number)
            rows.append(injection_rows)
        if numbers:
            yield self._group(numbers, rows, injections, block)

    def control(self, block: Block, rows: NDArray[np.intp]) -> NDArray[np.bool_]:
        """As `Lane.control`."""
        clean: _Edits = {site.key: [{}] for site in self.sites}
        return same(self._scores(block, rows, np.zeros(len(rows), np.intp), clean), block.scores[rows])

    def _group(
        self, numbers: list[int], rows: list[NDArray[np.intp]], injections: Sequence[InjectionEdits], block: Block
    ) -> FaultyScores:
        edits = {
            site.key: [by_input(injections[number].neurons.get(site.key, ())) for number in numbers]
            for site in self.sites
        }
        lengths = list(map(len, rows))
        inputs, owner = np.concatenate(rows), np.repeat(np.arange(len(numbers)), lengths)
        bounds = [0, *np.cumsum(lengths).tolist()]
        return FaultyScores(block.count, numbers, inputs, bounds, self._scores(block, inputs, owner, edits))

    def _scores(self, block: Block, inputs: NDArray[np.intp], owner: NDArray[np.intp], edits: _Edits) -> Scores:
        """Return the scores of pairs: ``inputs`` of the block, each with the edits of the injection ``owner``."""
        size = self.numerics.batch_size
        arrays = {name: _on_host(block.values[source]) for name, source in self._sources.items()}
        scores = [block.scores[:0]]
        for chosen in padded_batches(np.arange(len(inputs)), size):
            feeds = {name: array.take(inputs[chosen], 0) for name, array in arrays.items()}
            for site in self.sites:
                bits = to_bits(feeds[tapped_value(site.key)])
                for changes in _changes(edits[site.key], inputs[chosen] + block.first, owner[chosen], site):
                    changes.apply(bits)
            scores.append(flat(self._suffix.run(feeds)[0] if self._suffix else feeds[self.slicer.output]))
        return np.concatenate(scores)[: len(inputs)]

    @cached_property
    def _suffix(self) -> Submodel | None:
        """The clean suffix; None where the site is the scores themselves."""
        if self.cuts == (self.slicer.output,):
            return None
        return open_part(self.slicer.extract(self.cuts, (self.slicer.output,)), self.numerics)


def _changes(
    edits: Sequence[dict[int, list[NeuronEdit]]], inputs: NDArray[np.intp], owner: NDArray[np.intp], site: NeuronSite
) -> Iterator[Flips]:
    """Yield the changes of a batch whose rows are dataset ``inputs``, for each stretch of rows with one ``owner``."""
    starts = np.flatnonzero(np.diff(owner, prepend=-1))
    for start, stop in zip(starts, [*starts[1:], len(owner)], strict=True):
        yield flips(edits[owner[start]], inputs[start:stop].tolist(), site).behind(int(start) * site.elements)


def _on_host(values: Any) -> NDArray[Any]:
    """Return a golden value as one array; on a device it is a list of one per batch."""
    return np.concatenate([value.numpy() for value in values]) if isinstance(values, list) else values
