"""Ways for a fault to run: packed by channel behind its layer, alone through its cone, or as the whole model.

A lane takes injections of one faulty path over a `Block` of inputs and gives the scores that can differ from the golden
ones. All lanes give the same bits; `bitswap_onnx.runtime.incremental` finds out which are exact for a model.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from bitswap_onnx.data.dataset import batches
from bitswap_onnx.graph.edits import InjectionEdits, WeightEdits
from bitswap_onnx.graph.model import Model, stored_tensors
from bitswap_onnx.graph.neurons import by_input, flips, instrument
from bitswap_onnx.graph.sites import NeuronSite, is_site
from bitswap_onnx.graph.slices import Slicer
from bitswap_onnx.graph.weights import rewrite
from bitswap_onnx.outcome import Scores
from bitswap_onnx.runtime.session import Numerics, as_floats
from bitswap_onnx.runtime.submodel import Submodel, open_part


@dataclass(frozen=True, eq=False)
class Block:
    """Some consecutive inputs and the golden values that lanes cut at, in whole batches of ``size``, the last one padded.

    A value is one array over all batches, or, on a device, a list of one device value per batch. ``scores`` (count,
    classes) are the golden ones. ``first`` is the place of the block's first input in the dataset.
    """

    inputs: NDArray[Any]
    values: dict[str, Any]
    scores: Scores
    size: int
    first: int = 0

    @property
    def count(self) -> int:
        """Number of inputs."""
        return len(self.scores)

    @property
    def starts(self) -> range:
        """The first input of each batch."""
        return range(0, self.count, self.size)

    def batch(self, name: str, start: int) -> Any:
        """Return a value's rows in the batch that begins at ``start``."""
        value = self.values[name]
        return value[start // self.size] if isinstance(value, list) else value[start : start + self.size]


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

    @property
    def loaded_bytes(self) -> int:
        """About what it keeps in memory from one run to the next."""

    def run(self, injections: Sequence[InjectionEdits], block: Block) -> Iterator[Faulty]:
        """Yield what becomes of ``injections``, each of them once."""

    def control(self, block: Block, rows: NDArray[np.intp]) -> NDArray[np.bool_]:
        """Send no fault the same way, over the block's ``rows`` in this order, none dropped; return which stay golden."""


@dataclass(frozen=True, eq=False)
class _FaultyModel:
    """A model with the faults of a path in it: its tensors rewritten, flip nodes at its sites, fed per input."""

    model: Model
    numerics: Numerics
    output: str
    path: tuple[str, ...]
    sites: Mapping[str, NeuronSite]
    _loaded: list[Submodel] = field(default_factory=list)

    @cached_property
    def _sites(self) -> list[NeuronSite]:
        return [self.sites[key] for key in self.path if key in self.sites]

    @cached_property
    def _stored(self) -> frozenset[str]:
        """The tensors that the model has; a part of it may lack some that a path holds."""
        return frozenset(stored_tensors(self.model.proto))

    def scores(self, edits: InjectionEdits, feeds: Iterator[tuple[int, dict[str, Any]]], block: Block) -> "_Rows":
        """Run the batches that ``edits`` can change; ``feeds`` yields where each begins, and what goes in."""
        part = self._part(edits)
        wanted = affected(edits, block)
        changes = {site.key: by_input(edits.neurons.get(site.key, ())) for site in self._sites}
        rows, scores = [wanted[:0]], [block.scores[:0]]
        for start, fed in feeds:
            own = wanted[(wanted >= start) & (wanted < start + block.size)]
            if not len(own):
                continue
            numbers = range(block.first + start, block.first + min(start + block.size, block.count))
            for site in self._sites:
                fed = fed | flips(changes[site.key], numbers, site).feeds(site)
            rows.append(own)
            scores.append(flat(part.run(fed)[0])[own - start])
        return np.concatenate(rows), np.concatenate(scores)

    def _part(self, edits: InjectionEdits) -> Submodel:
        stored = {tensor: changes for tensor, changes in edits.weights.items() if tensor in self._stored}
        if not stored and self._loaded:
            return self._loaded[0]
        model = rewrite(self.model, stored)
        part = open_part(instrument(model, self._sites) if self._sites else model, self.numerics)
        part = replace(part, outputs=(self.output,))
        if not stored:
            self._loaded.append(part)
        return part

    @property
    def clean(self) -> InjectionEdits:
        """Edits that change nothing, the same way."""
        weights: WeightEdits = {key: () for key in self.path if not is_site(key)}
        return InjectionEdits(weights, {key: () for key in self.path if is_site(key)})


_Rows = tuple[NDArray[np.intp], Scores]


def affected(edits: InjectionEdits, block: Block) -> NDArray[np.intp]:
    """Return the rows of a block that an injection runs over."""
    return affected_inputs(edits, block.first, block.count)


def affected_inputs(edits: InjectionEdits, first: int, count: int) -> NDArray[np.intp]:
    """Return which of ``count`` inputs from ``first`` on an injection runs over: those that all its faults name, or all."""
    inputs = edits.inputs()
    if inputs is None:
        return np.arange(count)
    rows = np.array(inputs, np.intp) - first
    return rows[(rows >= 0) & (rows < count)]


@dataclass(frozen=True, eq=False)
class WholeLane:
    """The whole faulty model, as the reference engine runs it."""

    model: Model
    numerics: Numerics
    output: str
    path: tuple[str, ...]
    sites: Mapping[str, NeuronSite] = field(default_factory=dict)
    values: frozenset[str] = frozenset()
    loaded_bytes: int = 0

    @cached_property
    def _faulty(self) -> _FaultyModel:
        return _FaultyModel(self.model, self.numerics, self.output, self.path, self.sites)

    def run(self, injections: Sequence[InjectionEdits], block: Block) -> Iterator[Faulty]:
        """As `Lane.run`."""
        for number, edits in enumerate(injections):
            yield _alone(number, self._scores(edits, block), block)

    def control(self, block: Block, rows: NDArray[np.intp]) -> NDArray[np.bool_]:
        """As `Lane.control`; the whole model takes the rows in their own order."""
        _, scores = self._scores(self._faulty.clean, block)
        return same(scores, block.scores)[rows]

    def _scores(self, edits: InjectionEdits, block: Block) -> _Rows:
        name = next(v.name for v in self.model.proto.graph.input if v.name not in self._faulty._stored)
        pairs = zip(block.starts, batches(block.inputs, block.size), strict=True)
        return self._faulty.scores(edits, ((start, {name: batch}) for start, (batch, _) in pairs), block)


@dataclass(frozen=True, eq=False)
class ConeLane:
    """The nodes that can see the fault, fed with the golden values they take from the others."""

    slicer: Slicer
    numerics: Numerics
    path: tuple[str, ...]
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
    def _faulty(self) -> _FaultyModel:
        model = self.slicer.extract(self.cuts, (self.slicer.output,))
        return _FaultyModel(model, self.numerics, self.slicer.output, self.path, self.sites)

    def run(self, injections: Sequence[InjectionEdits], block: Block) -> Iterator[Faulty]:
        """As `Lane.run`."""
        for number, edits in enumerate(injections):
            yield _alone(number, self._scores(edits, block), block)

    def control(self, block: Block, rows: NDArray[np.intp]) -> NDArray[np.bool_]:
        """As `Lane.control`; rows keep their own order here, as faults find them."""
        _, scores = self._scores(self._faulty.clean, block)
        return same(scores, block.scores)[rows]

    def _scores(self, edits: InjectionEdits, block: Block) -> _Rows:
        feeds = ((start, {name: block.batch(name, start) for name in self.cuts}) for start in block.starts)
        return self._faulty.scores(edits, feeds, block)


def flat(scores: NDArray[Any]) -> Scores:
    """Return an output as floats of shape (inputs, values per input)."""
    return as_floats(scores.reshape(len(scores), -1))


def same(scores: Scores, golden: Scores) -> NDArray[np.bool_]:
    """Return which rows are golden (IEEE ==)."""
    return np.asarray((scores == golden).all(axis=1))


def _alone(number: int, found: _Rows, block: Block) -> Faulty:
    rows, scores = found
    return Faulty(block.count, [number], rows, [0, len(rows)], scores)
