"""Rules that derive the `bitswap_onnx.graph.marks` of a node's outputs from those of its inputs.

They tell which inputs of a batch each row depends on. `bitswap_onnx.graph.operators` names the rule of each operator. A
rule raises an exception for a form of the operator that it does not cover.
"""

import numpy as np

from bitswap_onnx.graph import row_moves
from bitswap_onnx.graph.marks import (
    COUNT,
    NOTHING,
    SEVERAL_INPUTS,
    MarkedValues,
    Marks,
    Rule,
    merge,
    merged,
    plain,
    whole_mark,
)


def _elementwise(values: MarkedValues) -> list[Marks]:
    """Each element depends on one element of each input, broadcast."""
    output = merge(*values.given())
    if output.ndim and any(_differs_by_row(values, slot, output) for slot in range(len(values.marks))):
        output = plain(output.ndim, SEVERAL_INPUTS)
    return [output.reshape((1,) * (len(shape) - output.ndim) + output.shape) for shape in values.out_shapes]


def _differs_by_row(values: MarkedValues, slot: int, output: Marks) -> bool:
    """Whether a stored input has different numbers for different rows of the batch: then a row's place matters."""
    marks, shape, numbers = values.marks[slot], values.in_shapes[slot], values.numbers[slot]
    if marks is None or not shape or (marks != NOTHING).any():
        return False
    aligned = (1,) * (output.ndim - len(shape)) + shape
    longer = [axis for axis in range(output.ndim) if output.shape[axis] > 1 and aligned[axis] > 1]
    rows = [axis for axis in longer if (merged(output, [axis]) == SEVERAL_INPUTS).any()]  # axes along which inputs lie
    if not rows or numbers is None:
        return bool(rows)
    wide = numbers.reshape(aligned)
    return any((wide != wide.take([0], axis)).any() for axis in rows)


def _scaled(values: MarkedValues) -> list[Marks]:
    """Each element depends on one of the first input and on all parameters; a training batch-norm sees the batch."""
    data, *parameters = values.given()
    is_training = values.setting("training_mode", 0) or len(values.out_shapes) > 1
    if values.node.op_type == "BatchNormalization" and is_training:
        data = merged(data, [axis for axis in range(data.ndim) if axis != 1])
        statistics = whole_mark(values.given())
        return [merge(data, whole_mark(parameters)), *[merge(plain(len(s)), statistics) for s in values.out_shapes[1:]]]
    return [merge(data, whole_mark(parameters))]


def _first(values: MarkedValues) -> list[Marks]:
    """Each element depends on that element of the first input."""
    return [values.given()[0]] * len(values.out_shapes)


def _same(values: MarkedValues) -> list[Marks]:
    """Each element depends on that element of the first input and on all elements of the others."""
    return [merge(values.given()[0], whole_mark(values.given()[1:]))]


def _shape(values: MarkedValues) -> list[Marks]:
    """Sizes of axes: those that grow with the batch depend on the number of inputs."""
    grows = values.grows[0][slice(values.setting("start", None), values.setting("end", None))]
    return [np.array([COUNT if each else NOTHING for each in grows], np.int16)]


def _size(values: MarkedValues) -> list[Marks]:
    """One number, which depends on the number of inputs if an axis grows with the batch."""
    return [plain(0, COUNT if any(values.grows[0]) else NOTHING)]


def _filled(values: MarkedValues) -> list[Marks]:
    """Elements are constant."""
    return [plain(len(shape)) for shape in values.out_shapes]


def _all(values: MarkedValues) -> list[Marks]:
    """Each element depends on all elements of all inputs."""
    mark = whole_mark(values.marks)
    return [merge(plain(len(shape)), mark) for shape in values.out_shapes]


def _along_axis(values: MarkedValues) -> list[Marks]:
    """Each element depends on all elements of the first input along an axis, and on all of the other inputs."""
    data, *parameters = values.given()
    node = values.node.op_type
    axis = values.setting("axis", -1)
    axes = [axis]
    if node in ("Softmax", "LogSoftmax", "Hardmax") and values.opset < 13:
        axes = list(range(values.setting("axis", 1) % data.ndim, data.ndim))
    if node in ("CumSum", "CumProd"):
        axes = list(range(data.ndim)) if values.numbers[1] is None else [int(values.numbers[1].reshape(()))]
        parameters = []
    return [merge(merged(data, axes), whole_mark(parameters))] * len(values.out_shapes)


def _arg(values: MarkedValues) -> list[Marks]:
    """Each element depends on all elements along an axis, which goes or gets length 1."""
    axis = values.setting("axis", 0)
    reduced = merged(values.given()[0], [axis])
    return [reduced if values.setting("keepdims", 1) else reduced.squeeze(axis)]


def _reduce(values: MarkedValues) -> list[Marks]:
    """Each element depends on all elements along some axes, which go or get length 1."""
    data = values.given()[0]
    axes = values.setting("axes", None)
    if axes is None and len(values.marks) > 1 and values.marks[1] is not None:
        if values.numbers[1] is None:
            raise ValueError("reduced over axes that are not known")
        axes = values.numbers[1].tolist()
    if not axes and values.setting("noop_with_empty_axes", 0):
        return [data]
    over = sorted({axis % data.ndim for axis in axes}) if axes else list(range(data.ndim))
    reduced = merged(data, over)
    return [reduced if values.setting("keepdims", 1) else reduced.squeeze(tuple(over))]


def _behind_axis(values: MarkedValues) -> list[Marks]:
    """Each element depends on all elements along an axis and the axes behind it, and on all parameters."""
    data, *parameters = values.given()
    over = range(values.setting("axis", -1) % data.ndim, data.ndim)
    normalized = merge(merged(data, over), whole_mark(parameters))
    return [normalized] * len(values.out_shapes)


def _moments(values: MarkedValues) -> list[Marks]:
    """Each element depends on all elements along the axes of the mean and variance."""
    data = values.given()[0]
    return [merged(data, values.setting("axes", [0, 2, 3]))]


#: Operator → slots of its inputs that hold samples; other inputs are parameters, which every sample reads whole.
_SAMPLE_SLOTS = {
    **dict.fromkeys(("Conv", "ConvTranspose", "ConvInteger", "QLinearConv"), (0,)),
    **dict.fromkeys(("InstanceNormalization", "GroupNormalization"), (0,)),
    "FusedConv": (0, 3),
    "DeformConv": (0, 2, 4),
}


def _samples(values: MarkedValues) -> list[Marks]:
    """Operators on whole samples: the batch is the first axis of inputs that hold samples; others are read whole."""
    _check_batch_is_kept(values)
    batch = (values.in_shapes[0] or (0,))[0]
    slots = _SAMPLE_SLOTS.get(values.node.op_type, range(len(values.marks)))
    by_sample = plain(1)
    for slot, (marks, shape) in enumerate(zip(values.marks, values.in_shapes, strict=True)):
        if marks is None:
            continue
        rows = merged(marks, range(1, marks.ndim)).reshape(-1) if marks.ndim else marks.reshape(1)
        carries = slot in slots and bool((rows >= 0).any()) and shape is not None and shape[:1] == (batch,)
        by_sample = merge(by_sample, rows if carries else whole_mark([marks]).reshape(1))
    if any(shape[:1] != (batch,) for shape in values.out_shapes):
        by_sample = merged(by_sample)
    outputs = [
        by_sample.reshape(-1, *(1,) * (len(shape) - 1)) if shape else by_sample.reshape(())
        for shape in values.out_shapes
    ]
    if values.node.op_type == "MaxPool":  # the indices in its second output count through the whole batch
        outputs[1:] = [plain(marks.ndim, SEVERAL_INPUTS) for marks in outputs[1:]]
    return outputs


def _check_batch_is_kept(values: MarkedValues) -> None:
    """Raise ValueError for forms of operators that compute along the first axis."""
    operator = values.node.op_type
    if operator == "QLinearSoftmax" and values.setting("axis", 1) == 0:
        raise ValueError("softmax over the batch")
    if operator not in ("Resize", "Upsample"):
        return
    slot = 2 if operator == "Resize" and len(values.numbers) > 2 else 1
    scales = values.numbers[slot] if slot < len(values.numbers) else None
    resized = (
        scales is not None and scales.size and float(scales.reshape(-1)[0]) != 1 and not values.setting("axes", None)
    )
    if resized or values.setting("coordinate_transformation_mode", b"") == b"tf_crop_and_resize":
        raise ValueError("the batch may be resized")


def _matmul(values: MarkedValues) -> list[Marks]:
    slots = (0, 3) if values.node.op_type == "QLinearMatMul" else (0, 1)
    left, right = (values.marks[slot] for slot in slots)
    assert left is not None
    assert right is not None
    if values.node.op_type == "MatMulNBits":  # its weights are packed, so their axes are no matrix axes
        return [merge(merged(left, [-1]), whole_mark([right]), whole_mark(values.marks[2:]))]
    parameters = [marks for slot, marks in enumerate(values.marks) if slot not in slots]
    wide_left = left.reshape(1, -1) if left.ndim == 1 else left
    wide_right = right.reshape(-1, 1) if right.ndim == 1 else right
    product = merge(merged(wide_left, [-1]), merged(wide_right, [-2]), whole_mark(parameters))
    if right.ndim == 1:
        product = product.squeeze(-1)
    return [product.squeeze(-2 if right.ndim > 1 else -1) if left.ndim == 1 else product]


def _gemm(values: MarkedValues) -> list[Marks]:
    slots = (0, 3) if values.node.op_type == "QGemm" else (0, 1)
    left, right = (values.marks[slot] for slot in slots)
    assert left is not None
    assert right is not None
    others = [marks for slot, marks in enumerate(values.marks) if slot not in slots and marks is not None]
    rows = merged(left, [0]).T if values.setting("transA", 0) else merged(left, [1])
    columns = merged(right, [1]).T if values.setting("transB", 0) else merged(right, [0])
    return [merge(rows, columns, *(others[:1] if values.node.domain == "" else [whole_mark(others)]))]


def _einsum(values: MarkedValues) -> list[Marks]:
    terms, _, result = values.setting("equation", b"").decode().replace(" ", "").partition("->")
    if "." in terms or not result:
        raise ValueError("an equation with an ellipsis or no result")
    labels = sorted(set(terms) - {","})
    product = plain(len(labels))
    for term, marks in zip(terms.split(","), values.given(), strict=True):
        if len(set(term)) < len(term):
            raise ValueError("an equation with a diagonal")
        ordered = marks.transpose([term.index(label) for label in sorted(term)])
        sizes = iter(ordered.shape)
        product = merge(product, ordered.reshape([next(sizes) if label in term else 1 for label in labels]))
    summed = tuple(i for i, label in enumerate(labels) if label not in result)
    order = sorted(result)
    return [merged(product, summed).squeeze(summed).transpose([order.index(label) for label in result])]


def _recurrent(values: MarkedValues) -> list[Marks]:
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
            rows = merge(rows, whole_mark([marks]).reshape(1))
    whole_states = [rows.reshape(-1, 1, 1), rows.reshape(1, -1, 1)][axis]
    steps = rows.reshape(-1, 1, 1, 1) if first else rows.reshape(1, 1, -1, 1)
    outputs = zip((steps, whole_states, whole_states), values.node.output, strict=False)
    return [marks for marks, name in outputs if name]


ROW_RULES: dict[str, Rule] = {
    "elementwise": _elementwise,
    "scaled": _scaled,
    "first": _first,
    "same": _same,
    "reshape": row_moves.reshape,
    "transpose": row_moves.transpose,
    "expand": row_moves.expand,
    "move": row_moves.move,
    "gather": row_moves.gather,
    "gather_elements": row_moves.gather_elements,
    "shape": _shape,
    "size": _size,
    "filled": _filled,
    "all": _all,
    "one_hot": row_moves.one_hot,
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
