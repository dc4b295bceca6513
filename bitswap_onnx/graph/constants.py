"""Compute values that depend on no input of the model from its stored tensors."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from bitswap_onnx.graph.nodes import attribute, constant_tensor
from bitswap_onnx.graph.slices import Slicer
from bitswap_onnx.graph.tensors import read_tensor, stored_tensors, write_tensor

#: Operators that only copy elements from a stored tensor.
_COPIES = frozenset(("Transpose", "Reshape", "Identity", "Squeeze", "Unsqueeze", "Flatten"))


class NotEvaluatedError(Exception):
    """A constant that ``onnx.reference`` cannot compute, as it lacks an operator, its version or its type."""


@dataclass(frozen=True, eq=False)
class ConstantValue:
    """A constant ``array``.

    ``key`` is the stored tensor that it is or is copied from; None for a computed constant. ``place`` maps a flat
    position in that tensor to the flat position in ``array`` (None: they are the same).
    """

    array: NDArray[Any]
    key: str | None = None
    place: NDArray[np.int32] | None = None


def constant_value(slicer: Slicer, name: str) -> ConstantValue:
    """Return the constant value ``name`` of a model; raises NotEvaluatedError if it cannot be computed."""
    copies: list[onnx.NodeProto] = []
    tensor, source = slicer.stored.get(name), name
    while tensor is None:
        node = slicer.nodes[slicer.producer[source]]
        tensor = constant_tensor(node)
        if tensor is None and (node.op_type not in _COPIES or slicer.dims(source) is None):
            return ConstantValue(_computed(slicer, name))
        if tensor is None:
            copies.append(node)
            source = node.input[0]
            tensor = slicer.stored.get(source)
    array = read_tensor(tensor, slicer.model.folder)
    if not copies:
        return ConstantValue(array, source)
    positions = np.arange(array.size, dtype=np.int32).reshape(array.shape)
    for node in reversed(copies):
        array, positions = (_copied(slicer, node, copied) for copied in (array, positions))
    place = np.empty(positions.size, np.int32)
    place[positions.reshape(-1)] = np.arange(positions.size, dtype=np.int32)
    return ConstantValue(array, source, place)


def _computed(slicer: Slicer, name: str) -> NDArray[Any]:
    from onnx.reference import ReferenceEvaluator

    proto = slicer.extract((), (name,)).proto
    for inner in stored_tensors(proto).values():  # the evaluator does not know the model's folder
        if inner.data_location == onnx.TensorProto.EXTERNAL:
            write_tensor(inner, read_tensor(inner, slicer.model.folder))
    try:
        (array,) = ReferenceEvaluator(proto).run(None, {})
    except Exception as error:  # the evaluator raises whatever its operators raise
        raise NotEvaluatedError(name) from error
    return np.asarray(array)


def _copied(slicer: Slicer, node: onnx.NodeProto, array: NDArray[Any]) -> NDArray[Any]:
    if node.op_type == "Transpose":
        return array.transpose(attribute(node, "perm", range(array.ndim)[::-1]))
    return array.reshape(slicer.dims(node.output[0]) or array.shape)
