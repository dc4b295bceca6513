"""Ways for a fault to run: packed by channel behind its layer, alone through its cone, or as the whole model.

A lane takes injections of one faulty path over a `Block` of inputs and gives the scores that can differ from the golden
ones. All lanes give the same bits; `bitswap_onnx.runtime.incremental` finds out which are exact for a model.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from bitswap_onnx.graph.model import Model, stored_tensors
from bitswap_onnx.graph.slices import Slicer
from bitswap_onnx.graph.weights import Edits, rewrite
from bitswap_onnx.outcome import Scores
from bitswap_onnx.runtime.part import open_part
from bitswap_onnx.runtime.session import Numerics, as_floats, open_session


@dataclass(frozen=True, eq=False)
class Block:
    """Some consecutive inputs and the golden values that lanes cut at, in whole batches of ``size``, the last one padded.

    A value is one array over all batches, or, on a device, a list of one device value per batch. ``scores`` (count,
    classes) are the golden ones.
    """

    inputs: NDArray[Any]
    values: dict[str, Any]
    scores: Scores
    size: int

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
    loaded_bytes: int = 0

    def run(self, injections: Sequence[Edits], block: Block) -> Iterator[Faulty]:
        """As `Lane.run`."""
        for number, edits in enumerate(injections):
            session = open_session(rewrite(self.model, edits), self.numerics, self.output)
            yield _all_rows(number, session.run(block.inputs))

    def control(self, block: Block, rows: NDArray[np.intp]) -> NDArray[np.bool_]:
        """As `Lane.control`; the whole model takes the rows in their own order."""
        (faulty,) = self.run([dict.fromkeys(self.tensors, ())], block)
        return same(faulty.scores, block.scores)[rows]


@dataclass(frozen=True, eq=False)
class ConeLane:
    """The nodes that can see the fault, fed with the golden values they take from the others."""

    slicer: Slicer
    numerics: Numerics
    tensors: tuple[str, ...]
    cuts: tuple[str, ...]

    @property
    def values(self) -> frozenset[str]:
        """As `Lane.values`."""
        return frozenset(self.cuts)

    @cached_property
    def loaded_bytes(self) -> int:
        """As `Lane.loaded_bytes`."""
        return self.slicer.weight_bytes(self.cuts, (self.slicer.output,))

    @cached_property
    def _model(self) -> Model:
        return self.slicer.extract(self.cuts, (self.slicer.output,))

    @cached_property
    def _stored(self) -> frozenset[str]:
        """The tensors that reach the scores; a path may hold others beside them."""
        return frozenset(stored_tensors(self._model.proto))

    def run(self, injections: Sequence[Edits], block: Block) -> Iterator[Faulty]:
        """As `Lane.run`."""
        for number, edits in enumerate(injections):
            yield _all_rows(number, self._scores(edits, block))

    def control(self, block: Block, rows: NDArray[np.intp]) -> NDArray[np.bool_]:
        """As `Lane.control`; rows keep their own order here, as faults find them."""
        scores = self._scores(dict.fromkeys(self.tensors, ()), block)
        return same(scores, block.scores)[rows]

    def _scores(self, edits: Edits, block: Block) -> Scores:
        reached = {tensor: changes for tensor, changes in edits.items() if tensor in self._stored}
        part = open_part(rewrite(self._model, reached), self.numerics)
        batches = [part.run({name: block.batch(name, start) for name in self.cuts})[0] for start in block.starts]
        return flat(np.concatenate(batches))[: block.count]


def flat(scores: NDArray[Any]) -> Scores:
    """Return an output as floats of shape (inputs, values per input)."""
    return as_floats(scores.reshape(len(scores), -1))


def same(scores: Scores, golden: Scores) -> NDArray[np.bool_]:
    """Return which rows are golden (IEEE ==)."""
    return np.asarray((scores == golden).all(axis=1))


def _all_rows(number: int, scores: Scores) -> Faulty:
    return Faulty(len(scores), [number], np.arange(len(scores)), [0, len(scores)], scores)
