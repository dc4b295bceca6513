"""Operators that keep channels apart, and their inputs and constants per output channel.

A `Step` describes one such node: which input carries the channels, on which axis they come out, and which constants
have a slice per channel. A node that mixes channels, or may mix them, has no step, except as the first of a stretch.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from bitswap_onnx.graph.constants import NotEvaluatedError, constant_value
from bitswap_onnx.graph.nodes import attribute
from bitswap_onnx.graph.slices import Slicer


@dataclass(frozen=True, eq=False)
class Operand:
    """A constant input with one slice per output channel along ``axis``.

    ``slot`` is its input position. ``key`` is the stored tensor that ``array`` is or is copied from, None for a
    computed constant. ``place`` maps a flat position in that tensor to the flat position in ``array`` (None: they are
    the same).
    """

    slot: int
    axis: int
    array: NDArray[Any]
    key: str | None
    place: NDArray[np.int32] | None


@dataclass(frozen=True, eq=False)
class Step:
    """A node whose output channels can be computed one by one.

    ``data`` is the input slot that carries the channels; they lie on ``axis`` of the output. ``mixes`` is the number of
    input channels that an output channel reads (0: all of them). ``operands`` have a slice per channel, ``fixed``
    constants (slot → array) are the same for all channels. ``sides`` are golden values: slot → (value, axis of its
    channels or None if it has one for all).
    """

    node: onnx.NodeProto
    data: int
    axis: int
    mixes: int = 1
    operands: tuple[Operand, ...] = ()
    fixed: dict[int, NDArray[Any]] = field(default_factory=dict)
    sides: dict[int, tuple[str, int | None]] = field(default_factory=dict)


_UNARY = frozenset(
    (
        "Relu", "LeakyRelu", "Elu", "Selu", "Celu", "Sigmoid", "Tanh", "HardSigmoid", "HardSwish", "Softplus",
        "Softsign", "ThresholdedRelu", "Erf", "Gelu", "Mish", "Abs", "Neg", "Exp", "Sqrt", "Identity", "Cast", "Clip",
        "Dropout",
    )
)  # fmt: skip
_BINARY = frozenset(("Add", "Sub", "Mul", "Div", "Max", "Min", "PRelu"))
_POOLS = frozenset(("MaxPool", "AveragePool", "LpPool", "GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool"))


def dense_step(slicer: Slicer, index: int) -> Step | None:
    """Return a node as the first step of a stretch: a convolution, Gemm or MatMul with constant weights; else None."""
    node = slicer.nodes[index]
    make = _DENSE.get(node.op_type)
    if make is None or node.domain or not node.input[0] or node.input[0] in slicer.constants:
        return None
    try:
        return make(slicer, node)
    except NotEvaluatedError:
        return None


def channel_step(slicer: Slicer, index: int, value: str, axis: int, golden: Callable[[str], bool]) -> Step | None:
    """Return the step of a node that reads ``value``, whose channels lie on ``axis``; None if it mixes or may mix them.

    ``golden`` tells of each other value whether it is golden: whether no fault in ``value`` can change it.
    """
    try:
        return _channel_step(slicer, index, value, axis, golden)
    except NotEvaluatedError:
        return None


def _channel_step(slicer: Slicer, index: int, value: str, axis: int, golden: Callable[[str], bool]) -> Step | None:
    node = slicer.nodes[index]
    used = [name for name in node.output if name in slicer.readers or name == slicer.output]
    if node.domain or list(node.input).count(value) != 1 or used != [node.output[0]]:
        return None
    data = list(node.input).index(value)
    if node.op_type in _BINARY and len(node.input) == 2 and (node.op_type != "PRelu" or data == 0):
        return _binary(slicer, node, data, axis, golden)
    if data != 0:
        return None
    if node.op_type == "Transpose":
        return _transposed(slicer, node, axis)
    if node.op_type == "Conv":
        step = _convolution(slicer, node)
        dims, out = slicer.dims(value), slicer.dims(node.output[0])
        return step if axis == 1 and step and step.mixes == 1 and dims and out and dims[1] == out[1] else None
    if node.op_type == "BatchNormalization":
        operands = _operands(slicer, node, dict.fromkeys(range(1, 5), 0))
        keeps = axis == 1 and operands is not None and not attribute(node, "training_mode", 0)
        return Step(node, 0, 1, operands=operands or ()) if keeps else None
    if node.op_type in _UNARY or (node.op_type in _POOLS and axis == 1):
        return _with_fixed_inputs(slicer, node, axis)
    return _padded(slicer, node, axis) if node.op_type == "Pad" else None


def parameter_axis(slicer: Slicer, index: int) -> tuple[str, int] | None:
    """Return (data value, channel axis) of a node that applies a constant per channel, else None.

    The axis is 1 for BatchNormalization and convolutions. For Add, Mul and the like it is the data axis that meets the
    constant's only axis longer than 1.
    """
    node = slicer.nodes[index]
    if node.op_type in ("BatchNormalization", "Conv"):
        return node.input[0], 1
    if node.op_type not in _BINARY or len(node.input) != 2:
        return None
    constants = [name for name in node.input if name in slicer.constants]
    values = [name for name in node.input if name not in slicer.constants]
    if len(values) != 1 or len(constants) != 1:
        return None
    dims, sizes = slicer.dims(values[0]), slicer.dims(constants[0])
    if dims is None or sizes is None or len(sizes) > len(dims):
        return None
    longer = [axis for axis, size in enumerate(sizes) if size > 1]
    axis = longer[0] + len(dims) - len(sizes) if len(longer) == 1 else 0
    return (values[0], axis) if axis > 0 else None


def _convolution(slicer: Slicer, node: onnx.NodeProto) -> Step | None:
    weights = slicer.dims(node.input[1])
    operands = _operands(slicer, node, {1: 0, 2: 0})
    if weights is None or operands is None:
        return None
    return Step(node, 0, 1, 0 if attribute(node, "group", 1) == 1 else weights[1], operands)


def _transposed_convolution(slicer: Slicer, node: onnx.NodeProto) -> Step | None:
    operands = _operands(slicer, node, {1: 1, 2: 0})
    return Step(node, 0, 1, 0, operands) if operands is not None and attribute(node, "group", 1) == 1 else None


def _gemm(slicer: Slicer, node: onnx.NodeProto) -> Step | None:
    axes = {1: 0 if attribute(node, "transB", 0) else 1}
    if len(node.input) > 2 and node.input[2]:
        bias = slicer.dims(node.input[2])
        if not bias or bias[-1] == 1 or any(size != 1 for size in bias[:-1]):
            return None
        axes[2] = len(bias) - 1
    operands = _operands(slicer, node, axes)
    return Step(node, 0, 1, 0, operands) if operands is not None and not attribute(node, "transA", 0) else None


def _matmul(slicer: Slicer, node: onnx.NodeProto) -> Step | None:
    weights, data = slicer.dims(node.input[1]), slicer.dims(node.input[0])
    operands = _operands(slicer, node, {1: 1})
    if operands is None or weights is None or data is None or len(weights) != 2 or len(data) < 2:
        return None
    return Step(node, 0, len(data) - 1, 0, operands)


_DENSE = {"Conv": _convolution, "ConvTranspose": _transposed_convolution, "Gemm": _gemm, "MatMul": _matmul}


def _binary(slicer: Slicer, node: onnx.NodeProto, data: int, axis: int, golden: Callable[[str], bool]) -> Step | None:
    slot = 1 - data
    name = node.input[slot]
    dims, sizes = slicer.dims(node.input[data]), slicer.dims(name)
    if dims is None or sizes is None or len(sizes) > len(dims) or slicer.dims(node.output[0]) != dims:
        return None
    position = axis - (len(dims) - len(sizes))
    varies = position >= 0 and sizes[position] > 1
    if name not in slicer.constants:
        whole = len(sizes) == len(dims) and slicer.has_rows(name) and golden(name)
        return Step(node, data, axis, sides={slot: (name, axis if varies else None)}) if whole else None
    if varies:
        operands = _operands(slicer, node, {slot: position})
        return Step(node, data, axis, operands=operands) if operands else None
    array = constant_value(slicer, name).array
    return Step(node, data, axis, fixed={slot: array})


def _transposed(slicer: Slicer, node: onnx.NodeProto, axis: int) -> Step | None:
    dims = slicer.dims(node.input[0])
    if dims is None:
        return None
    order = list(attribute(node, "perm", range(len(dims))[::-1]))
    return Step(node, 0, order.index(axis)) if order[0] == 0 else None


def _padded(slicer: Slicer, node: onnx.NodeProto, axis: int) -> Step | None:
    if len(node.input) < 2 or node.input[1] not in slicer.constants or (len(node.input) > 3 and node.input[3]):
        return None
    pads = constant_value(slicer, node.input[1]).array.tolist()
    rank = len(pads) // 2
    if any(pads[place] for place in (0, axis, rank, rank + axis)):
        return None
    return _with_fixed_inputs(slicer, node, axis)


def _with_fixed_inputs(slicer: Slicer, node: onnx.NodeProto, axis: int) -> Step | None:
    """Return the step of a node whose inputs after the first are the same constants for every channel."""
    fixed = {slot: name for slot, name in enumerate(node.input) if slot > 0 and name}
    if not slicer.constants.issuperset(fixed.values()):
        return None
    return Step(node, 0, axis, fixed={slot: constant_value(slicer, name).array for slot, name in fixed.items()})


def _operands(slicer: Slicer, node: onnx.NodeProto, axes: dict[int, int]) -> tuple[Operand, ...] | None:
    """Return the constants in the slots of ``axes`` (slot → channel axis); None if one of the inputs is no constant."""
    present = {slot: axis for slot, axis in axes.items() if slot < len(node.input) and node.input[slot]}
    if not slicer.constants.issuperset(node.input[slot] for slot in present):
        return None
    constants = {slot: constant_value(slicer, node.input[slot]) for slot in present}
    return tuple(
        Operand(slot, axis, constants[slot].array, constants[slot].key, constants[slot].place)
        for slot, axis in present.items()
    )
