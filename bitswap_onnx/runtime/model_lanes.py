"""Lanes that load the faulty model itself: as a whole, or only the nodes that can see the faults."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from bitswap_onnx.data.dataset import batches
from bitswap_onnx.graph.edits import InjectionEdits, WeightEdits
from bitswap_onnx.graph.model import Model
from bitswap_onnx.graph.neurons import by_input, flips, instrument
from bitswap_onnx.graph.sites import NeuronSite, is_site
from bitswap_onnx.graph.slices import Slicer
from bitswap_onnx.graph.tensors import stored_tensors
from bitswap_onnx.graph.weights import rewrite
from bitswap_onnx.outcome import Scores
from bitswap_onnx.runtime.lanes import Block, FaultyPath, FaultyScores, LaneKind, affected, flat, same
from bitswap_onnx.runtime.session import Numerics
from bitswap_onnx.runtime.submodel import Submodel, open_part


@dataclass(eq=False)
class _FaultyModel:
    """A model that takes the injections of a path: tensors are rewritten, sites get flip nodes that are fed per input."""

    model: Model
    numerics: Numerics
    output: str
    path: FaultyPath
    sites: Mapping[str, NeuronSite]
    _unwritten: Submodel | None = field(default=None, init=False)

    @cached_property
    def stored(self) -> frozenset[str]:
        """Keys of the tensors in the model; a part of a model may lack some of the path's."""
        return frozenset(stored_tensors(self.model.proto))

    @cached_property
    def _path_sites(self) -> list[NeuronSite]:
        return [self.sites[key] for key in self.path if key in self.sites]

    def scores(self, edits: InjectionEdits, feeds: Iterator[tuple[int, dict[str, Any]]], block: Block) -> "_RowScores":
        """Run the batches that ``edits`` can change; ``feeds`` yields the first row and the input values of each batch."""
        part = self._part(edits)
        affected_rows = affected(edits, block)
        changes = {site.key: by_input(edits.neurons.get(site.key, ())) for site in self._path_sites}
        rows, scores = [affected_rows[:0]], [block.scores[:0]]
        for start, values in feeds:
            batch_rows = affected_rows[(affected_rows >= start) & (affected_rows < start + block.size)]
            if not len(batch_rows):
                continue
            inputs = range(block.first + start, block.first + min(start + block.size, block.count))
            for site in self._path_sites:
                values = values | flips(changes[site.key], inputs, site).feeds(site)
            rows.append(batch_rows)
            scores.append(flat(part.run(values)[0])[batch_rows - start])
        return np.concatenate(rows), np.concatenate(scores)

    def _part(self, edits: InjectionEdits) -> Submodel:
        """Load the model with the weight edits in it; without weight edits it is loaded once and kept."""
        weights = {tensor: changes for tensor, changes in edits.weights.items() if tensor in self.stored}
        if not weights and self._unwritten is not None:
            return self._unwritten
        model = rewrite(self.model, weights)
        part = open_part(instrument(model, self._path_sites) if self._path_sites else model, self.numerics)
        part = replace(part, outputs=(self.output,))
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
    values: frozenset[str] = frozenset()
    loaded_bytes: int = 0

    @cached_property
    def _faulty_model(self) -> _FaultyModel:
        return _FaultyModel(self.model, self.numerics, self.output, self.path, self.sites)

    def run(self, injections: Sequence[InjectionEdits], block: Block) -> Iterator[FaultyScores]:
        """As `Lane.run`."""
        for number, edits in enumerate(injections):
            yield _of_one(number, self._scores(edits, block), block)

    def control(self, block: Block, rows: NDArray[np.intp]) -> NDArray[np.bool_]:
        """As `Lane.control`, but the rows run in the block's order: this lane runs faults in that order too."""
        _, scores = self._scores(self._faulty_model.no_change, block)
        return same(scores, block.scores)[rows]

    def _scores(self, edits: InjectionEdits, block: Block) -> _RowScores:
        stored = self._faulty_model.stored
        name = next(value.name for value in self.model.proto.graph.input if value.name not in stored)
        pairs = zip(block.starts, batches(block.inputs, block.size), strict=True)
        return self._faulty_model.scores(edits, ((start, {name: batch}) for start, (batch, _) in pairs), block)


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
class ConeLane:
    """The nodes that can see the fault, fed with the golden values they take from the others."""

    kind: ClassVar[LaneKind] = "cone"

    slicer: Slicer
    numerics: Numerics
    path: FaultyPath
    cuts: tuple[str, ...]
    sites: Mapping[str, NeuronSite] = field(default_factory=dict)

    @property
    def values(self) -> frozenset[str]:
        """As `Lane.values`."""
        return frozenset(self.cuts)

    @cached_property
    def loaded_bytes(self) -> int:
        """As `Lane.loaded_bytes`."""
        return self.slicer.loaded_bytes(self.cuts, (self.slicer.output,))

    @cached_property
    def _faulty_model(self) -> _FaultyModel:
        model = self.slicer.extract(self.cuts, (self.slicer.output,))
        return _FaultyModel(model, self.numerics, self.slicer.output, self.path, self.sites)

    def run(self, injections: Sequence[InjectionEdits], block: Block) -> Iterator[FaultyScores]:
        """As `Lane.run`."""
        for number, edits in enumerate(injections):
            yield _of_one(number, self._scores(edits, block), block)

    def control(self, block: Block, rows: NDArray[np.intp]) -> NDArray[np.bool_]:
        """As `Lane.control`, but the rows run in the block's order: this lane runs faults in that order too."""
        _, scores = self._scores(self._faulty_model.no_change, block)
        return same(scores, block.scores)[rows]

    def _scores(self, edits: InjectionEdits, block: Block) -> _RowScores:
        feeds = ((start, {name: block.batch(name, start) for name in self.cuts}) for start in block.starts)
        return self._faulty_model.scores(edits, feeds, block)


def _of_one(number: int, row_scores: _RowScores, block: Block) -> FaultyScores:
    rows, scores = row_scores
    return FaultyScores(block.count, [number], rows, [0, len(rows)], scores)
