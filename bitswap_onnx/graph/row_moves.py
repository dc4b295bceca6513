"""Rules of `bitswap_onnx.graph.row_rules` for operators that move elements and compute none."""

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from bitswap_onnx.graph.marks import NOTHING, MarkedValues, Marks, merge, merged, whole_mark


def reshape(values: MarkedValues) -> list[Marks]:
    """Return the marks of the same elements in another shape."""
    (shape,) = values.out_shapes
    data, old_shape = values.given()[0], values.in_shapes[0]
    assert old_shape is not None
    return [_full(data, old_shape).reshape(shape)]


def transpose(values: MarkedValues) -> list[Marks]:
    """Return the marks with their axes permuted as the node does."""
    (data,) = values.given()
    return [data.transpose(values.setting("perm", range(data.ndim)[::-1]))]


def expand(values: MarkedValues) -> list[Marks]:
    """Return the marks of elements that are repeated along axes."""
    (shape,), data = values.out_shapes, values.given()[0]
    return [data.reshape((1,) * (len(shape) - data.ndim) + data.shape)]


def move(values: MarkedValues) -> list[Marks]:
    """Run the operator on the marks themselves, which it moves as it moves elements.

    The marks are raised by one meanwhile, so that zeros that the operator pads with become `NOTHING`. Raises ValueError
    if the operator combines elements, or if an input that says where elements move to has unknown numbers.
    """
    from onnx.reference import ReferenceEvaluator

    if values.setting("reduction", b"none") != b"none":
        raise ValueError("elements are combined, not moved")
    node = onnx.NodeProto()
    node.CopyFrom(values.node)
    attributes = [each for each in node.attribute if (node.op_type, each.name) != ("Pad", "value")]
    del node.attribute[:]
    node.attribute.extend(attributes)
    moved = _moved_slots(node)
    fed: dict[str, NDArray[Any]] = {}
    for slot, name in enumerate(node.input):
        if not name:
            continue
        node.input[slot] = f"input{slot}"
        marks, shape, numbers = values.marks[slot], values.in_shapes[slot], values.numbers[slot]
        assert marks is not None
        assert shape is not None
        if slot in moved:
            fed[node.input[slot]] = _full(marks, shape).astype(np.int64) - NOTHING
        elif node.op_type == "Pad" and slot == 2:
            fed[node.input[slot]] = np.zeros(shape, np.int64)
        elif numbers is None:
            raise ValueError("moved by numbers that are not known")
        else:
            fed[node.input[slot]] = numbers
    infos = [
        onnx.helper.make_tensor_value_info(name, onnx.helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
        for name, array in fed.items()
    ]
    outputs = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.INT64, None) for name in node.output if name]
    graph = onnx.helper.make_graph([node], "move", infos, outputs)
    proto = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", values.opset)])
    return [(np.asarray(output) + NOTHING).astype(np.int16) for output in ReferenceEvaluator(proto).run(None, fed)]


def _moved_slots(node: onnx.NodeProto) -> frozenset[int]:
    """Return the input slots whose elements the operator moves; other inputs say where to."""
    if node.op_type == "Concat":
        return frozenset(range(len(node.input)))
    return frozenset((0, 2)) if node.op_type in ("ScatterND", "ScatterElements", "Scatter") else frozenset((0,))


def gather(values: MarkedValues) -> list[Marks]:
    """Return the marks of slices along an axis; a slice that unknown indices choose may be any of them."""
    data, chosen = values.given()
    rank, axis = data.ndim, values.setting("axis", 0) % data.ndim
    if (chosen == NOTHING).all() and values.numbers[1] is not None and data.shape[axis] > 1:
        return [data.take(values.numbers[1], axis)]
    data = merged(data, [axis])
    taken = data.reshape(data.shape[:axis] + (1,) * chosen.ndim + data.shape[axis + 1 :])
    return [merge(taken, chosen.reshape(chosen.shape + (1,) * (rank - axis - 1)))]


def gather_elements(values: MarkedValues) -> list[Marks]:
    """Return the marks of elements that may each be any element along an axis."""
    data, chosen = values.given()
    return [merge(merged(data, [values.setting("axis", 0)]), chosen)]


def one_hot(values: MarkedValues) -> list[Marks]:
    """Return the marks with a new axis for the classes."""
    chosen = values.given()[0]
    axis = values.setting("axis", -1) % (chosen.ndim + 1)
    return [merge(np.expand_dims(chosen, axis), whole_mark(values.given()[1:]))]


def _full(marks: Marks, shape: tuple[int, ...]) -> Marks:
    return np.broadcast_to(marks, shape)
