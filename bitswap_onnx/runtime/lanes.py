"""Lanes: ways to run the faults of one faulty path. This module has the types and functions that all lanes share.

A lane takes injections and the golden values of some inputs, and hands on the rows that a fault has changed. All lanes
that are used give the same bits: `bitswap_onnx.runtime.incremental` chooses among those that are exact.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from bitswap_onnx.graph.edits import InjectionEdits
from bitswap_onnx.outcome import Scores
from bitswap_onnx.runtime.session import as_floats

#: The keys of the stored tensors and neuron sites that an injection changes, sorted.
FaultyPath = tuple[str, ...]

#: Names of the kinds of lanes, as runs record them.
LaneKind = Literal["packed", "neuron", "stages", "whole"]


@dataclass(frozen=True, eq=False)
class Block:
    """Consecutive inputs, run in batches of ``size``; the last batch is padded.

    ``scores`` (count, classes) are the golden ones. ``first`` is the place of the block's first input in the dataset.
    """

    inputs: NDArray[Any]
    scores: Scores
    size: int
    first: int

    @property
    def count(self) -> int:
        """Number of inputs."""
        return len(self.scores)

    @property
    def starts(self) -> range:
        """The first input of each batch."""
        return range(0, self.count, self.size)


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
