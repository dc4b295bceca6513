"""Marks: for each element of a value, the input of the batch on which it depends.

The marks of a value are an integer array of its rank; an axis along which they are equal may have length 1. A mark is
the number of an input, from 0, or `NOTHING` (the element depends on no input), `COUNT` (on the number of inputs alone)
or `SEVERAL_INPUTS` (on more than one input).
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
    """The known facts of one node's inputs and outputs; all sequences but ``out_shapes`` have an entry per input slot.

    ``marks`` of each input, None for an input that is left out. ``in_shapes`` and ``out_shapes``. ``numbers``: the
    elements of small inputs that depend on no input of the model, None if they are not known. ``grows``: per axis of an
    input, whether it is longer in a batch of one more input.
    """

    node: onnx.NodeProto
    opset: int
    marks: Sequence[Marks | None]
    in_shapes: Sequence[tuple[int, ...] | None]
    out_shapes: Sequence[tuple[int, ...]]
    numbers: Sequence[NDArray[Any] | None]
    grows: Sequence[tuple[bool, ...]]

    def setting(self, name: str, default: Any) -> Any:
        """Return the value of an attribute of the node, ``default`` if it is absent."""
        return attribute(self.node, name, default)

    def given(self) -> list[Marks]:
        """Return the marks of the inputs that are not left out."""
        return [marks for marks in self.marks if marks is not None]


Rule = Callable[[MarkedValues], list[Marks]]


def merge(first: Marks, *others: Marks) -> Marks:
    """Return the marks of elements that depend on one element of each argument, broadcast against each other."""
    for second in others:
        first, second = np.broadcast_arrays(first, second)
        either = np.where(first == NOTHING, second, np.where(second == NOTHING, first, SEVERAL_INPUTS))
        first = np.where(first == second, first, either).astype(np.int16)
    return first


def merged(marks: Marks, axes: Iterable[int] | None = None) -> Marks:
    """Return the marks of elements that depend on all elements along ``axes`` (None: all axes), which get length 1."""
    over = tuple(range(marks.ndim)) if axes is None else tuple(sorted({axis % marks.ndim for axis in axes}))
    if not over or not marks.size:
        return marks
    depends = marks != NOTHING
    low = np.where(depends, marks, np.iinfo(np.int16).max).min(axis=over, keepdims=True)
    high = np.where(depends, marks, np.iinfo(np.int16).min).max(axis=over, keepdims=True)
    common = np.where(low == high, low, SEVERAL_INPUTS)
    return np.where(depends.any(axis=over, keepdims=True), common, NOTHING).astype(np.int16)


def compressed(marks: Marks) -> Marks:
    """Return the same marks with length 1 on each axis along which they are equal."""
    for axis in range(marks.ndim):
        if marks.shape[axis] > 1 and (marks == marks.take([0], axis)).all():
            marks = marks.take([0], axis)
    return marks


def plain(rank: int, mark: int = NOTHING) -> Marks:
    """Return the marks of a value whose elements all have the same ``mark``."""
    return np.full((1,) * rank, mark, np.int16)


def whole_mark(marks: Iterable[Marks | None]) -> Marks:
    """Return the mark, an array of rank 0, of an element that depends on all elements of some values."""
    return merge(plain(0), *(merged(each).reshape(()) for each in marks if each is not None and each.size))
