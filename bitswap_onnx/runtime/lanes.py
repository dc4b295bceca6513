"""Lanes: ways to run the faults of one faulty path. This module has the types and functions that all lanes share.

A lane takes injections and a `Block` of inputs, and returns the scores that can differ from the golden ones. All lanes
that are used give the same bits: `bitswap_onnx.runtime.incremental` tries the candidates of each path and uses the
fastest exact one.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from bitswap_onnx.graph.edits import InjectionEdits
from bitswap_onnx.outcome import Scores
from bitswap_onnx.runtime.session import as_floats

#: The keys of the stored tensors and neuron sites that an injection changes, sorted.
FaultyPath = tuple[str, ...]

#: Names of the kinds of lanes, as runs record them.
LaneKind = Literal["packed", "neuron", "cone", "whole"]


@dataclass(frozen=True, eq=False)
class Block:
    """Consecutive inputs with the golden ``values`` at which lanes cut the model.

    A value is an array over whole batches of ``size`` rows, the last batch padded; on a device it is a list of one device
    value per batch. ``scores`` (count, classes) are the golden ones. ``first`` is the place of the block's first input in
    the dataset.
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
class FaultyScores:
    """Scores of several injections over a block of ``inputs``, for the inputs whose scores can differ from the golden ones.

    Injection ``numbers[i]`` has ``scores[bounds[i] : bounds[i + 1]]``; they belong to the block's inputs
    ``rows[bounds[i] : bounds[i + 1]]``.
    """

    inputs: int
    numbers: list[int]
    rows: NDArray[np.intp]
    bounds: list[int]
    scores: Scores

    @property
    def parts(self) -> list[slice]:
        """For each injection, the slice of ``rows`` and ``scores`` that is its own."""
        return [slice(first, stop) for first, stop in pairwise(self.bounds)]


class Lane(Protocol):
    """A way to run the injections of one faulty path."""

    kind: ClassVar[LaneKind]

    @property
    def values(self) -> frozenset[str]:
        """Names of the golden values that it reads from a block."""

    @property
    def loaded_bytes(self) -> int:
        """Approximate size of what it keeps in memory between runs."""

    def run(self, injections: Sequence[InjectionEdits], block: Block) -> Iterator[FaultyScores]:
        """Yield the scores of ``injections``, each of them once."""

    def control(self, block: Block, rows: NDArray[np.intp]) -> NDArray[np.bool_]:
        """Run the block's ``rows``, in this order, the same way without a fault; return which of them stay golden."""


def affected(edits: InjectionEdits, block: Block) -> NDArray[np.intp]:
    """Return the rows of a block that an injection runs over."""
    return affected_inputs(edits, block.first, block.count)


def affected_inputs(edits: InjectionEdits, first: int, count: int) -> NDArray[np.intp]:
    """Return the inputs that an injection runs over, among ``count`` inputs from ``first`` on, counted from ``first``."""
    inputs = edits.inputs()
    if inputs is None:
        return np.arange(count)
    rows = np.array(inputs, np.intp) - first
    return rows[(rows >= 0) & (rows < count)]


def flat(scores: NDArray[Any]) -> Scores:
    """Return an output as floats of shape (inputs, values per input)."""
    return as_floats(scores.reshape(len(scores), -1))


def same(scores: Scores, golden: Scores) -> NDArray[np.bool_]:
    """Return which rows are golden (IEEE ==)."""
    return np.asarray((scores == golden).all(axis=1))
