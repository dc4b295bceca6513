"""The uses of stored tensors: which operators compute with them, directly or behind computations of stored tensors.

A kernel may reach its layer behind a Transpose, a DequantizeLinear, a Mul by a scale, a weight norm: operators that read
stored tensors alone. What they make *carries* the tensors that it is made of, up to the operator that reads an
activation as well. A norm, a sum or another measure of a tensor does not carry it.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import onnx

from bitswap_onnx.graph.nodes import attribute, constant_tensor, node_label, subgraphs
from bitswap_onnx.graph.roles import MEASURES, PASS_THROUGH, SLOT_ROLES
from bitswap_onnx.graph.tensors import dtype_name

_Functions = Mapping[tuple[str, str], onnx.FunctionProto]

#: Types that quantised tensors are stored in.
_CODES = frozenset(f"{sign}int{width}" for sign in ("", "u") for width in (2, 4, 8, 16))

#: Operators that may stand between a kernel and the Add of its bias: casts, scales and new shapes.
_BETWEEN_KERNEL_AND_BIAS = frozenset(("Cast", "Mul", "DequantizeLinear", "QuantizeLinear", "Reshape", "Identity"))


@dataclass(frozen=True, slots=True)
class Use:
    """One node that computes with a tensor: its operator, the input slot, the node's name and its label.

    ``role`` is the role that the tensor has there where the slot does not say it. ``behind`` is the operator that makes
    the node's other input: a constant that is added behind a kernel is its bias. ``is_computed``: other stored tensors
    went into what the node reads. ``is_decoded``: the node reads the numbers that a quantised tensor stands for.
    """

    op_type: str
    slot: int
    node: str
    label: str
    behind: str
    role: str | None = None
    is_computed: bool = False
    is_decoded: bool = False


@dataclass(frozen=True, slots=True)
class _Carried:
    """A stored tensor, by ``key``, in a value: as the integers of a quantised tensor (``is_code``), or ``is_decoded``."""

    key: str
    is_code: bool = False
    is_computed: bool = False
    is_decoded: bool = False

    def decoded(self) -> "_Carried":
        """Return the tensor in a value that has the numbers which its codes stand for."""
        return replace(self, is_code=False, is_decoded=self.is_decoded or self.is_code)


@dataclass(slots=True)
class _Scope:
    """The values of one graph: those that are computed from stored tensors alone, and the operators that make others."""

    prefix: str
    stored: dict[str, tuple[_Carried, ...]] = field(default_factory=dict)
    producers: dict[str, str] = field(default_factory=dict)

    def take(self, name: str, other: "_Scope", value: str) -> None:
        """Note that ``name`` is here what ``value`` is in another scope."""
        if value in other.stored:
            self.stored[name] = other.stored[value]
        if value in other.producers:
            self.producers[name] = other.producers[value]


def find_uses(proto: onnx.ModelProto) -> dict[str, list[Use]]:
    """Return the uses of stored tensors by their key (`bitswap_onnx.graph.tensors.stored_tensors`), in graph order."""
    functions = {(function.domain, function.name): function for function in proto.functions}
    uses: dict[str, list[Use]] = {}
    for key, use in _graph_uses(proto.graph, _Scope(""), functions):
        uses.setdefault(key, []).append(use)
    return uses


def _graph_uses(graph: onnx.GraphProto, scope: _Scope, functions: _Functions) -> Iterator[tuple[str, Use]]:
    for tensor in graph.initializer:
        scope.stored[tensor.name] = (_carried(scope.prefix + tensor.name, tensor),)
    for node in graph.node:
        yield from _node_uses(node, scope, functions)


def _carried(key: str, tensor: onnx.TensorProto) -> _Carried:
    return _Carried(key, is_code=dtype_name(tensor) in _CODES)


def _node_uses(node: onnx.NodeProto, scope: _Scope, functions: _Functions) -> Iterator[tuple[str, Use]]:
    tensor = constant_tensor(node)
    if tensor is not None:
        scope.stored[node.output[0]] = (_carried(scope.prefix + node.output[0], tensor),)
        return
    for inner, subgraph in subgraphs(node):
        child = _Scope(scope.prefix + inner, dict(scope.stored), dict(scope.producers))
        for slot, name in _held_inputs(node, subgraph).items():
            child.take(name, scope, node.input[slot])
        yield from _graph_uses(subgraph, child, functions)
    function = functions.get((node.domain, node.op_type))
    if function is not None:
        yield from _function_uses(node, function, scope, functions)
    else:
        yield from _operator_uses(node, scope)


def _function_uses(
    node: onnx.NodeProto, function: onnx.FunctionProto, scope: _Scope, functions: _Functions
) -> Iterator[tuple[str, Use]]:
    """Yield the uses in the body of a function that a node calls; constants of the body belong to no layer."""
    actual = dict(zip(function.input, node.input, strict=False))
    body = _Scope(scope.prefix)
    for name, value in actual.items():
        body.take(name, scope, value)
    for inner in function.node:
        if constant_tensor(inner) is not None:
            body.stored[inner.output[0]] = ()
            continue
        for key, use in _node_uses(inner, body, functions):
            yield key, replace(use, node=node.name or use.node, label=node_label(node))
    for name, value in zip(function.output, node.output, strict=False):
        if name in body.stored:
            scope.stored[value] = body.stored[name]
        scope.producers[value] = body.producers.get(name, node.op_type)


def _operator_uses(node: onnx.NodeProto, scope: _Scope) -> Iterator[tuple[str, Use]]:
    """Yield the uses at one operator, and note in ``scope`` what its outputs carry."""
    standard = node.domain in ("", "ai.onnx")
    slots = {slot: name for slot, name in enumerate(node.input) if name}
    stored = {slot: scope.stored[name] for slot, name in slots.items() if name in scope.stored}
    passes = standard and node.op_type in PASS_THROUGH and 0 in stored
    is_constant = passes or (bool(slots) and len(stored) == len(slots) and not any(subgraphs(node)))
    carrying = _carrying_slots(node, stored) if is_constant else {}
    held = {slot for _, body in subgraphs(node) for slot in _held_inputs(node, body)}
    behind = next((scope.producers[name] for name in slots.values() if name in scope.producers), "")
    for slot, tensors in stored.items():
        if slot in carrying or slot in held or _only_shapes(node, slot):
            continue
        role = _role_between(node, slot, stored, behind)
        reader = Use(node.op_type, slot, node.name, node_label(node), behind, role)
        for tensor in tensors:
            yield tensor.key, replace(reader, is_computed=tensor.is_computed, is_decoded=tensor.is_decoded)
    for output in node.output:
        if is_constant:
            scope.stored[output] = tuple(dict.fromkeys(t for carried in carrying.values() for t in carried))
        scope.producers[output] = _maker(node, slots, scope)


def _held_inputs(node: onnx.NodeProto, body: onnx.GraphProto) -> dict[int, str]:
    """Return the inputs of a Loop or Scan that are the same in each run of its body, by slot, with their names in there.

    They are the states that the body hands on as they came, and what a Scan takes slices of.
    """
    if node.op_type == "Loop":
        first, count, results = 2, len(node.input) - 2, body.output[1:]
    elif node.op_type == "Scan":
        first, count, results = 0, len(node.input) - attribute(node, "num_scan_inputs", 0), body.output
    else:
        return {}
    copies = {inner.output[0]: inner.input[0] for inner in body.node if inner.op_type == "Identity"}
    held = {}
    for slot, value in list(enumerate(body.input))[first : len(node.input)]:
        result = value.name  # of a slice
        if slot < first + count:
            result = results[slot - first].name if slot - first < len(results) else ""
            for _ in copies:
                result = copies.get(result, result)
        if result == value.name:
            held[slot] = value.name
    return held


def _carrying_slots(node: onnx.NodeProto, stored: dict[int, tuple[_Carried, ...]]) -> dict[int, tuple[_Carried, ...]]:
    """Return the inputs of a computation between stored tensors whose elements go on in its result."""
    if node.op_type in MEASURES or node.op_type.startswith("Reduce"):
        return {}
    if node.op_type in PASS_THROUGH:
        decodes = node.op_type in ("DequantizeLinear", "QuantizeLinear")
        return {0: tuple(tensor.decoded() if decodes else tensor for tensor in stored[0])}
    codes = {slot for slot, tensors in stored.items() if any(tensor.is_code for tensor in tensors)}
    going_on = set(stored)
    if node.op_type in ("Div", "Pow", "Clip", "Pad", "Gather", "GatherElements", "GatherND", "Mod"):
        going_on &= {0}
    elif node.op_type == "Sub" and 0 in codes:  # codes without their zero point
        return {0: stored[0]}
    elif node.op_type == "Mul" and len(codes) == 1:  # codes by their scale
        return {slot: tuple(tensor.decoded() for tensor in stored[slot]) for slot in codes}
    elif node.op_type == "Where":
        going_on -= {0}
    alone = len(stored) == 1
    return {slot: tuple(replace(t, is_computed=t.is_computed or not alone) for t in stored[slot]) for slot in going_on}


def _role_between(node: onnx.NodeProto, slot: int, stored: dict[int, tuple[_Carried, ...]], behind: str) -> str | None:
    """Return the role of a stored tensor that scales or shifts codes; None for others."""
    others = [tensor for other, tensors in stored.items() if other != slot for tensor in tensors]
    if any(tensor.is_code for tensor in others) and len(stored) == len(node.input):
        return {"Mul": "scale", "Sub": "zero_point"}.get(node.op_type)
    return "scale" if node.op_type == "Mul" and behind == "DynamicQuantizeLinear" else None


def _only_shapes(node: onnx.NodeProto, slot: int) -> bool:
    """Whether a node reads of an input nothing but its shape, or a shape, axes or bounds."""
    if node.op_type in ("Shape", "Size"):
        return True
    return slot > 0 and node.op_type in PASS_THROUGH and node.op_type not in SLOT_ROLES


def _maker(node: onnx.NodeProto, slots: dict[int, str], scope: _Scope) -> str:
    """Return the operator that made a node's output; behind a kernel its scales and casts are passed over."""
    if node.op_type in _BETWEEN_KERNEL_AND_BIAS:
        before = [scope.producers[name] for name in slots.values() if name in scope.producers]
        kernel = next((op for op in before if "weight" in SLOT_ROLES.get(op, {}).values()), None)
        return kernel or node.op_type
    return node.op_type
