"""The lane for most neuron faults: golden values are changed in numpy, and go on from there without flip nodes.

A row is a pair of an input and an injection, so that faults of one input each also fill common batches.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from bitswap_onnx.faults.bits import to_bits
from bitswap_onnx.graph.edits import InjectionEdits, NeuronEdit
from bitswap_onnx.graph.neurons import Flips, by_input, flips, tapped_value
from bitswap_onnx.graph.sites import NeuronSite
from bitswap_onnx.runtime.chain import Arrays
from bitswap_onnx.runtime.common_batches import CommonBatches, RowPlace, place_facts
from bitswap_onnx.runtime.golden_block import GoldenBlock, InnerValues
from bitswap_onnx.runtime.lanes import LaneKind, affected

#: Site key → for each injection, its edits of the site, as `by_input` returns them.
_Edits = dict[str, dict[int, dict[int, list[NeuronEdit]]]]


@dataclass(frozen=True, eq=False)
class NeuronLane:
    """Runs faults of ``sites`` of one stage; no site depends on another one. Rows go on from ``place``.

    ``inner`` are golden values of the stage: those of the sites, and those that are fed beside them.
    """

    kind: ClassVar[LaneKind] = "neuron"

    sites: tuple[NeuronSite, ...]
    place: RowPlace
    inner: InnerValues

    @property
    def loaded_bytes(self) -> int:
        """Estimated bytes that it keeps in memory between runs."""
        return 0 if isinstance(self.place, int) else self.place.loaded_bytes

    @property
    def facts(self) -> list[Any]:
        """What tells it from any other lane of its path in the same chain, as JSON has it."""
        return [self.kind, [site.key for site in self.sites], place_facts(self.place), self.inner.facts]

    def run(self, injections: Sequence[tuple[int, InjectionEdits]], block: GoldenBlock, common: CommonBatches) -> None:
        """Add the rows of ``injections``, which come with their numbers."""
        golden = block.border(self.place) if isinstance(self.place, int) else block.inner(self.inner)
        edits: _Edits = {
            site.key: {number: by_input(each.neurons.get(site.key, ())) for number, each in injections}
            for site in self.sites
        }
        rows = [affected(each, block) for _, each in injections]
        owners = np.repeat(np.array([number for number, _ in injections], np.intp), list(map(len, rows)))
        inputs = np.concatenate([np.empty(0, np.intp), *rows])

        def write(arrays: Arrays, part: slice) -> None:
            for name, array in arrays.items():
                np.take(golden[name], inputs[part], 0, out=array, mode="clip")
            for site in self.sites:
                bits = to_bits(arrays[tapped_value(site.key)])
                for change in _changes(edits[site.key], inputs[part] + block.first, owners[part], site):
                    change.apply(bits)

        common.add(self.place, golden, owners, inputs, write)
        common.finish(number for number, _ in injections)


def _changes(
    edits: dict[int, dict[int, list[NeuronEdit]]], inputs: NDArray[np.intp], owners: NDArray[np.intp], site: NeuronSite
) -> Iterator[Flips]:
    """Yield the changes of rows that are dataset ``inputs``, for each stretch of rows with one owner."""
    starts = np.flatnonzero(np.diff(owners, prepend=-1))
    for start, stop in zip(starts, [*starts[1:], len(owners)], strict=True):
        yield flips(edits[owners[start]], inputs[start:stop].tolist(), site).behind(int(start) * site.elements)
