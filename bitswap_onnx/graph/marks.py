"""Marks: for each element of a value, which input of the batch it depends on.

Marks of a value are an integer array of its rank; an axis along which they are equal has length 1. A mark is the number of
an input, or `NOTHING` (the element depends on no input), `COUNT` (on the number of inputs) or `SEVERAL_INPUTS` (on more
than one of them).
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from bitswap_onnx.graph.nodes import attribute

Marks = NDArray[np.int16]

NOTHING, COUNT, SEVERAL_INPUTS = -1, -2, -3


@dataclass(frozen=True, slots=True)
class MarkedValues:
    """What is known of the inputs and outputs of one node.

    ``marks`` of its inputs, None where one is left out; ``shapes`` of both, ``numbers`` held by small inputs that depend on
    no input of the model (None: not known).
    """

    node: onnx.NodeProto
    opset: int
    marks: Sequence[Marks | None]
    in_shapes: Sequence[tuple[int, ...] | None]
    out_shapes: Sequence[tuple[int, ...]]
    numbers: Sequence[NDArray[Any] | None]
    grows: Sequence[tuple[bool, ...]]

    def setting(self, name: str, default: Any) -> Any:
        """Return an attribute of the node."""
        return attribute(self.node, name, default)

    def given(self) -> list[Marks]:
        """Return the marks of the inputs that are there."""
        return [marks for marks in self.marks if marks is not None]


Rule = Callable[[MarkedValues], list[Marks]]


def merge(first: Marks, *others: Marks) -> Marks:
    """Return the marks of elements that depend on one element of each, broadcast."""
    for other in others:
        first, other = np.broadcast_arrays(first, other)
        either = np.where(first == NOTHING, other, np.where(other == NOTHING, first, SEVERAL_INPUTS))
        first = np.where(first == other, first, either).astype(np.int16)
    return first


def merged(marks: Marks, axes: Iterable[int] | None = None) -> Marks:
    """Return the marks of elements that depend on all along some ``axes`` (None: on all), kept with length 1."""
    over = tuple(range(marks.ndim)) if axes is None else tuple(sorted({axis % marks.ndim for axis in axes}))
    if not over or not marks.size:
        return marks
    anything = marks != NOTHING
    low = np.where(anything, marks, np.iinfo(np.int16).max).min(axis=over, keepdims=True)
    high = np.where(anything, marks, np.iinfo(np.int16).min).max(axis=over, keepdims=True)
    found = np.where(low == high, low, SEVERAL_INPUTS)
    return np.where(anything.any(axis=over, keepdims=True), found, NOTHING).astype(np.int16)


def compressed(marks: Marks) -> Marks:
    """Return marks with length 1 on each axis along which they are equal."""
    for axis in range(marks.ndim):
        if marks.shape[axis] > 1 and (marks == marks.take([0], axis)).all():
            marks = marks.take([0], axis)
    return marks


def plain(rank: int, mark: int = NOTHING) -> Marks:
    """Return the marks of a value whose elements all have one."""
    return np.full((1,) * rank, mark, np.int16)


def whole_mark(marks: Iterable[Marks | None]) -> Marks:
    """Return the one mark, of rank 0, of what depends on all of some values."""
    return merge(plain(0), *(merged(each).reshape(()) for each in marks if each is not None and each.size))
