"""What a row of each operator's output sees, as arrays of marks: a mark per element says which input of the batch it is of.

Marks of a value are an integer array of its rank; an axis along which they are equal has length 1. A mark is the number of
an input, or `NOTHING` (the element depends on no input), `COUNT` (on how many inputs there are) or `SEVERAL` (on more than
one of them). `bitswap_onnx.graph.operators` names the rule of each operator.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator

from bitswap_onnx.graph.model import attribute

Marks = NDArray[np.int16]

NOTHING, COUNT, SEVERAL = -1, -2, -3


@dataclass(frozen=True, slots=True)
class Values:
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


Rule = Callable[[Values], list[Marks]]


def merge(first: Marks, *others: Marks) -> Marks:
    """Return the marks of elements that depend on one element of each, broadcast."""
    for other in others:
        first, other = np.broadcast_arrays(first, other)
        either = np.where(first == NOTHING, other, np.where(other == NOTHING, first, SEVERAL))
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
    found = np.where(low == high, low, SEVERAL)
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


def whole(marks: Iterable[Marks | None]) -> Marks:
    """Return the one mark, of rank 0, of what depends on all of some values."""
    return merge(plain(0), *(merged(each).reshape(()) for each in marks if each is not None and each.size))


def _full(marks: Marks, shape: tuple[int, ...]) -> Marks:
    return np.broadcast_to(marks, shape)


def _elementwise(values: Values) -> list[Marks]:
    found = merge(*values.given())
    if found.ndim and any(_differs_by_row(values, slot, found) for slot in range(len(values.marks))):
        found = plain(found.ndim, SEVERAL)
    return [found.reshape((1,) * (len(shape) - found.ndim) + found.shape) for shape in values.out_shapes]


def _differs_by_row(values: Values, slot: int, found: Marks) -> bool:
    """Whether a stored input has another number for each row of the batch: what a row gives depends on its place."""
    marks, shape, numbers = values.marks[slot], values.in_shapes[slot], values.numbers[slot]
    if marks is None or not shape or (marks != NOTHING).any():
        return False
    aligned = (1,) * (found.ndim - len(shape)) + shape
    rows = [axis for axis in range(found.ndim) if found.shape[axis] > 1 and aligned[axis] > 1]
    if not rows or numbers is None:
        return bool(rows)
    wide = numbers.reshape(aligned)
    return any((wide != wide.take([0], axis)).any() for axis in rows)


def _scaled(values: Values) -> list[Marks]:
    data, *parameters = values.given()
    trained = values.setting("training_mode", 0) or len(values.out_shapes) > 1
    if values.node.op_type == "BatchNormalization" and trained:
        data = merged(data, [axis for axis in range(data.ndim) if axis != 1])
        statistics = whole(values.given())
        return [merge(data, whole(parameters)), *[merge(plain(len(s)), statistics) for s in values.out_shapes[1:]]]
    return [merge(data, whole(parameters))]


def _dropout(values: Values) -> list[Marks]:
    return [values.given()[0]] * len(values.out_shapes)


def _same(values: Values) -> list[Marks]:
    return [merge(values.given()[0], whole(values.given()[1:]))]


def _reshape(values: Values) -> list[Marks]:
    (shape,) = values.out_shapes
    data, own = values.given()[0], values.in_shapes[0]
    assert own is not None
    return [_full(data, own).reshape(shape)]


def _transpose(values: Values) -> list[Marks]:
    (data,) = values.given()
    return [data.transpose(values.setting("perm", range(data.ndim)[::-1]))]


def _expand(values: Values) -> list[Marks]:
    (shape,), data = values.out_shapes, values.given()[0]
    return [data.reshape((1,) * (len(shape) - data.ndim) + data.shape)]


def _move(values: Values) -> list[Marks]:
    """Move the marks as the operator moves elements; what says where to must be known numbers."""
    node = onnx.NodeProto()
    node.CopyFrom(values.node)
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
            fed[node.input[slot]] = _full(marks, shape).astype(np.int64)
        elif node.op_type == "Pad" and slot == 2:
            fed[node.input[slot]] = np.array(NOTHING, np.int64).reshape(shape)
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
    return [np.asarray(found).astype(np.int16) for found in ReferenceEvaluator(proto).run(None, fed)]


def _moved_slots(node: onnx.NodeProto) -> frozenset[int]:
    if node.op_type == "Concat":
        return frozenset(range(len(node.input)))
    return frozenset((0, 2)) if node.op_type in ("ScatterND", "ScatterElements", "Scatter") else frozenset((0,))


def _gather(values: Values) -> list[Marks]:
    data, chosen = values.given()
    rank, axis = data.ndim, values.setting("axis", 0) % data.ndim
    if (chosen == NOTHING).all() and values.numbers[1] is not None and data.shape[axis] > 1:
        return [data.take(values.numbers[1], axis)]
    data = merged(data, [axis])
    taken = data.reshape(data.shape[:axis] + (1,) * chosen.ndim + data.shape[axis + 1 :])
    return [merge(taken, chosen.reshape(chosen.shape + (1,) * (rank - axis - 1)))]


def _gather_elements(values: Values) -> list[Marks]:
    data, chosen = values.given()
    return [merge(merged(data, [values.setting("axis", 0)]), chosen)]


def _shape(values: Values) -> list[Marks]:
    grows = values.grows[0][slice(values.setting("start", None), values.setting("end", None))]
    return [np.array([COUNT if each else NOTHING for each in grows], np.int16)]


def _size(values: Values) -> list[Marks]:
    return [plain(0, COUNT if any(values.grows[0]) else NOTHING)]


def _filled(values: Values) -> list[Marks]:
    return [plain(len(shape)) for shape in values.out_shapes]


def _all(values: Values) -> list[Marks]:
    mark = whole(values.marks)
    return [merge(plain(len(shape)), mark) for shape in values.out_shapes]


def _mixed(values: Values) -> list[Marks]:
    mark = whole(values.marks)
    return [merge(plain(len(shape)), mark) for shape in values.out_shapes]


def _one_hot(values: Values) -> list[Marks]:
    chosen = values.given()[0]
    axis = values.setting("axis", -1) % (chosen.ndim + 1)
    return [merge(np.expand_dims(chosen, axis), whole(values.given()[1:]))]


def _along_axis(values: Values) -> list[Marks]:
    data, *rest = values.given()
    node = values.node.op_type
    axis = values.setting("axis", -1)
    axes = [axis]
    if node in ("Softmax", "LogSoftmax", "Hardmax") and values.opset < 13:
        axes = list(range(values.setting("axis", 1) % data.ndim, data.ndim))
    if node in ("CumSum", "CumProd"):
        axes = list(range(data.ndim)) if values.numbers[1] is None else [int(values.numbers[1].reshape(()))]
        rest = []
    return [merge(merged(data, axes), whole(rest))] * len(values.out_shapes)


def _arg(values: Values) -> list[Marks]:
    axis = values.setting("axis", 0)
    found = merged(values.given()[0], [axis])
    return [found if values.setting("keepdims", 1) else found.squeeze(axis)]


def _reduce(values: Values) -> list[Marks]:
    data = values.given()[0]
    axes = values.setting("axes", None)
    if axes is None and len(values.marks) > 1 and values.marks[1] is not None:
        if values.numbers[1] is None:
            raise ValueError("reduced over axes that are not known")
        axes = values.numbers[1].tolist()
    if not axes and values.setting("noop_with_empty_axes", 0):
        return [data]
    over = sorted({axis % data.ndim for axis in axes}) if axes else list(range(data.ndim))
    found = merged(data, over)
    return [found if values.setting("keepdims", 1) else found.squeeze(tuple(over))]


def _behind_axis(values: Values) -> list[Marks]:
    data, *parameters = values.given()
    over = range(values.setting("axis", -1) % data.ndim, data.ndim)
    found = merge(merged(data, over), whole(parameters))
    return [found] * len(values.out_shapes)


def _moments(values: Values) -> list[Marks]:
    data = values.given()[0]
    return [merged(data, values.setting("axes", [0, 2, 3]))]


def _samples(values: Values) -> list[Marks]:
    """Take the first axis of all that has marks for the batch; other inputs are parameters, read whole."""
    batch = (values.in_shapes[0] or (0,))[0]
    found = plain(1)
    for marks, shape in zip(values.marks, values.in_shapes, strict=True):
        if marks is None:
            continue
        rows = merged(marks, range(1, marks.ndim)).reshape(-1) if marks.ndim else marks.reshape(1)
        carries = bool((rows >= 0).any()) and shape is not None and shape[:1] == (batch,)
        found = merge(found, rows if carries else whole([marks]).reshape(1))
    if any(shape[:1] != (batch,) for shape in values.out_shapes):
        found = merged(found)
    return [found.reshape(-1, *(1,) * (len(shape) - 1)) if shape else found.reshape(()) for shape in values.out_shapes]


def _matmul(values: Values) -> list[Marks]:
    slots = (0, 3) if values.node.op_type == "QLinearMatMul" else (0, 1)
    left, right = (values.marks[slot] for slot in slots)
    assert left is not None
    assert right is not None
    rest = [marks for slot, marks in enumerate(values.marks) if slot not in slots]
    wide_left = left.reshape(1, -1) if left.ndim == 1 else left
    wide_right = right.reshape(-1, 1) if right.ndim == 1 else right
    found = merge(merged(wide_left, [-1]), merged(wide_right, [-2]), whole(rest))
    if right.ndim == 1:
        found = found.squeeze(-1)
    return [found.squeeze(-2 if right.ndim > 1 else -1) if left.ndim == 1 else found]


def _gemm(values: Values) -> list[Marks]:
    left, right, *rest = values.given()
    rows = merged(left, [0]).T if values.setting("transA", 0) else merged(left, [1])
    columns = merged(right, [1]).T if values.setting("transB", 0) else merged(right, [0])
    return [merge(rows, columns, *(rest[:1] if values.node.domain == "" else [whole(rest)]))]


def _einsum(values: Values) -> list[Marks]:
    terms, _, result = values.setting("equation", b"").decode().replace(" ", "").partition("->")
    if "." in terms or not result:
        raise ValueError("an equation with an ellipsis or no result")
    labels = sorted(set(terms) - {","})
    found = plain(len(labels))
    for term, marks in zip(terms.split(","), values.given(), strict=True):
        if len(set(term)) < len(term):
            raise ValueError("an equation with a diagonal")
        order = sorted(term)
        own = marks.transpose([term.index(label) for label in order])
        sizes = iter(own.shape)
        found = merge(found, own.reshape([next(sizes) if label in term else 1 for label in labels]))
    found = merged(found, [i for i, label in enumerate(labels) if label not in result])
    kept = found.squeeze(tuple(i for i, label in enumerate(labels) if label not in result))
    order = sorted(result)
    return [kept.transpose([order.index(label) for label in result])]


def _recurrent(values: Values) -> list[Marks]:
    """LSTM, GRU and RNN: the batch is the second axis of (steps, batch, ...), or the first where ``layout`` says so."""
    first = bool(values.setting("layout", 0))
    axis = 0 if first else 1
    data = values.given()[0]
    rows = merged(data, [i for i in range(data.ndim) if i != axis]).reshape(-1)
    for slot, marks in enumerate(values.marks[1:], 1):
        if marks is None:
            continue
        if slot == 4:
            rows = merge(rows, marks.reshape(-1))
        elif slot in (5, 6):
            rows = merge(rows, merged(marks, [i for i in range(marks.ndim) if i != axis]).reshape(-1))
        else:
            rows = merge(rows, whole([marks]).reshape(1))
    whole_states = [rows.reshape(-1, 1, 1), rows.reshape(1, -1, 1)][axis]
    steps = rows.reshape(-1, 1, 1, 1) if first else rows.reshape(1, 1, -1, 1)
    return [steps, whole_states, whole_states]


RULES: dict[str, Rule] = {
    "elementwise": _elementwise,
    "scaled": _scaled,
    "dropout": _dropout,
    "same": _same,
    "reshape": _reshape,
    "transpose": _transpose,
    "expand": _expand,
    "move": _move,
    "gather": _gather,
    "gather_elements": _gather_elements,
    "shape": _shape,
    "size": _size,
    "filled": _filled,
    "all": _all,
    "none": _filled,
    "mixed": _mixed,
    "one_hot": _one_hot,
    "along_axis": _along_axis,
    "arg": _arg,
    "reduce": _reduce,
    "behind_axis": _behind_axis,
    "moments": _moments,
    "samples": _samples,
    "matmul": _matmul,
    "gemm": _gemm,
    "einsum": _einsum,
    "recurrent": _recurrent,
}
