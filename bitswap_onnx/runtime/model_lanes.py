"""Lanes that load the faulty model itself: as a whole, or only the stages that have the faults."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from bitswap_onnx.data.batches import batches
from bitswap_onnx.graph.edits import InjectionEdits, WeightEdits
from bitswap_onnx.graph.model import Model
from bitswap_onnx.graph.neurons import by_input, flips, instrument
from bitswap_onnx.graph.sites import NeuronSite, is_site
from bitswap_onnx.graph.tensors import stored_tensors
from bitswap_onnx.graph.weights import rewrite
from bitswap_onnx.outcome import Scores
from bitswap_onnx.runtime.chain import Arrays, Chain
from bitswap_onnx.runtime.common_batches import CommonBatches
from bitswap_onnx.runtime.golden_block import GoldenBlock, rows_that_differ, unequal_rows
from bitswap_onnx.runtime.lanes import Block, FaultyPath, FaultyScores, LaneKind, affected, flat, same
from bitswap_onnx.runtime.session import Numerics
from bitswap_onnx.runtime.submodel import Submodel, open_part


@dataclass(eq=False)
class FaultyModel:
    """A model that takes the injections of a path: tensors are rewritten, sites get flip nodes that are fed per input.

    ``outputs``: the values that it makes. ``blocked``: its images enter in blocked layout.
    """

    model: Model
    numerics: Numerics
    outputs: tuple[str, ...]
    path: FaultyPath
    sites: Mapping[str, NeuronSite]
    blocked: bool = False
    _unwritten: Submodel | None = field(default=None, init=False)

    @cached_property
    def stored(self) -> frozenset[str]:
        """Keys of the tensors in the model; a part of a model may lack some of the path's."""
        return frozenset(stored_tensors(self.model.proto))

    @cached_property
    def _path_sites(self) -> list[NeuronSite]:
        return [self.sites[key] for key in self.path if key in self.sites]

    def run(
        self, edits: InjectionEdits, feeds: Iterable[tuple[int, dict[str, Any]]], block: Block
    ) -> Iterator[tuple[int, NDArray[np.intp], list[NDArray[Any]]]]:
        """Run the batches that ``edits`` can change; ``feeds`` yields the first row and the input values of each batch.

        Yield for each batch its first row, the rows that the injection runs over, and the outputs for the whole batch.
        """
        part = self._part(edits)
        affected_rows = affected(edits, block)
        changes = {site.key: by_input(edits.neurons.get(site.key, ())) for site in self._path_sites}
        for start, values in feeds:
            batch_rows = affected_rows[(affected_rows >= start) & (affected_rows < start + block.size)]
            if not len(batch_rows):
                continue
            inputs = range(block.first + start, block.first + min(start + block.size, block.count))
            for site in self._path_sites:
                values = values | flips(changes[site.key], inputs, site).feeds(site)
            yield start, batch_rows, part.run(values)

    def _part(self, edits: InjectionEdits) -> Submodel:
        """Load the model with the weight edits in it; without weight edits it is loaded once and kept."""
        weights = {tensor: changes for tensor, changes in edits.weights.items() if tensor in self.stored}
        if not weights and self._unwritten is not None:
            return self._unwritten
        model = rewrite(self.model, weights)
        part = open_part(
            instrument(model, self._path_sites) if self._path_sites else model, self.numerics, self.blocked
        )
        part = replace(part, outputs=self.outputs)
        if not weights:
            self._unwritten = part
        return part

    @property
    def no_change(self) -> InjectionEdits:
        """Edits that take the same way as the path's injections, and change nothing."""
        weights: WeightEdits = {key: () for key in self.path if not is_site(key)}
        return InjectionEdits(weights, {key: () for key in self.path if is_site(key)})


#: The block's rows that ran, and their scores.
_RowScores = tuple[NDArray[np.intp], Scores]


@dataclass(frozen=True, eq=False)
class WholeLane:
    """The whole faulty model, as the reference engine runs it."""

    kind: ClassVar[LaneKind] = "whole"

    model: Model
    numerics: Numerics
    output: str
    path: FaultyPath
    sites: Mapping[str, NeuronSite] = field(default_factory=dict)
    loaded_bytes: int = 0

    @cached_property
    def _faulty_model(self) -> FaultyModel:
        return FaultyModel(self.model, self.numerics, (self.output,), self.path, self.sites)

    def run(self, injections: Sequence[tuple[int, InjectionEdits]], block: Block) -> Iterator[FaultyScores]:
        """Yield the scores of ``injections``, which come with their numbers."""
        for number, edits in injections:
            rows, scores = self._scores(edits, block)
            yield FaultyScores(block.count, [number], rows, [0, len(rows)], scores)

    def control(self, block: Block) -> int:
        """Run the null control; return how many inputs stay golden."""
        rows, scores = self._scores(self._faulty_model.no_change, block)
        return int(same(scores, block.scores[rows]).sum())

    def _scores(self, edits: InjectionEdits, block: Block) -> _RowScores:
        stored = self._faulty_model.stored
        name = next(value.name for value in self.model.proto.graph.input if value.name not in stored)
        pairs = zip(block.starts, batches(block.inputs, block.size), strict=True)
        rows, scores = [np.empty(0, np.intp)], [block.scores[:0]]
        feeds = ((start, {name: batch}) for start, (batch, _) in pairs)
        for start, batch_rows, (made,) in self._faulty_model.run(edits, feeds, block):
            rows.append(batch_rows)
            scores.append(flat(made)[batch_rows - start])
        return np.concatenate(rows), np.concatenate(scores)


@dataclass(eq=False)
class WholeLanes:
    """Makes the `WholeLane` of any faulty path, and keeps the last one: its flip nodes are loaded once.

    ``model`` is the clean one (`clean_model`); ``sites``, by key, are those that paths may hold.
    """

    model: Model
    numerics: Numerics
    output: str
    sites: Mapping[str, NeuronSite]
    loaded_bytes: int = 0
    _last: WholeLane | None = field(default=None, init=False)

    def lane(self, path: FaultyPath) -> WholeLane:
        """Return the lane of a path."""
        if self._last is None or self._last.path != path:
            self._last = WholeLane(
                self.model, self.numerics, self.output, path, self.sites, loaded_bytes=self.loaded_bytes
            )
        return self._last


def clean_model(model: Model, sites: Mapping[str, NeuronSite]) -> Model:
    """Return the model without a fault; with ``sites``, at the opset of flip nodes, so that it is converted only once."""
    return instrument(model, ()) if sites else model


@dataclass(frozen=True, eq=False)
class StagesLane:
    """The stages that have the faults, loaded with them, from border ``first`` to border ``last`` of the chain."""

    kind: ClassVar[LaneKind] = "stages"

    chain: Chain
    first: int
    last: int
    path: FaultyPath
    sites: Mapping[str, NeuronSite]

    @property
    def covers_all(self) -> bool:
        """Whether it has all stages, so that it is the whole model."""
        return self.last - self.first == self.chain.count

    @cached_property
    def loaded_bytes(self) -> int:
        """Estimated bytes that it keeps in memory between runs."""
        return self.chain.slicer.loaded_bytes(self.chain.borders[self.first], self.chain.borders[self.last])

    @cached_property
    def _faulty_model(self) -> FaultyModel:
        model, chain = self.chain.extract(self.first, self.last), self.chain
        outputs = tuple(value.name for value in model.proto.graph.output)
        return FaultyModel(model, chain.numerics, outputs, self.path, self.sites, self.first in chain.blocked)

    def control(self, block: GoldenBlock) -> int:
        """Return how many inputs stay golden where nothing is changed: all, or it is not exact.

        One stage without flip nodes is not run: it is the chain's own, which has a control.
        """
        if self.last - self.first == 1 and not self.sites:
            return block.count
        behind, lost = block.border(self.last), 0
        for inputs, made, start in self._changed(self._faulty_model.no_change, block):
            values = {name: array[inputs - start] for name, array in made.items()}
            lost += unequal_rows(values, {name: behind[name][inputs] for name in made})
        return block.count - lost

    def run(self, injections: Sequence[tuple[int, InjectionEdits]], block: GoldenBlock, common: CommonBatches) -> None:
        """Add the rows that ``injections``, which come with their numbers, change at the last border."""
        for number, edits in injections:
            for inputs, made, start in self._changed(edits, block):
                self._add(made, start, inputs, number, block, common)
            common.finish([number])

    def _changed(self, edits: InjectionEdits, block: GoldenBlock) -> Iterator[tuple[NDArray[np.intp], Arrays, int]]:
        """Yield each batch that ``edits`` can change: rows with other bits at the last border, its values, its first row."""
        before, behind, faulty = block.border(self.first), block.border(self.last), self._faulty_model
        entering = [value.name for value in faulty.model.proto.graph.input if value.name not in faulty.stored]
        feeds = (
            (start, {name: before[name][start : start + block.size] for name in entering}) for start in block.starts
        )
        for start, rows, outputs in faulty.run(edits, feeds, block):
            made = dict(zip(faulty.outputs, outputs, strict=True))
            differ = rows_that_differ(made, behind, slice(start, start + block.size))
            yield rows[differ[rows - start]], made, start

    def _add(
        self, made: Arrays, start: int, inputs: NDArray[np.intp], number: int, block: GoldenBlock, common: CommonBatches
    ) -> None:
        behind = block.border(self.last)

        def write(arrays: Arrays, part: slice) -> None:
            for name, array in arrays.items():
                source, taken = (made[name], inputs[part] - start) if name in made else (behind[name], inputs[part])
                np.take(source, taken, 0, out=array, mode="clip")

        common.add(self.last, behind, np.full(len(inputs), number), inputs, write)
