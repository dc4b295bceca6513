"""The targets of a model, in graph order: the stored tensors that are parameters, with role and name.

A tensor is a target in three cases: a converter's metadata name it; it is in an operator's parameter slot (directly or
behind Transpose, Reshape, DequantizeLinear and the like); or it is a floating-point tensor that is combined with
activations (a position embedding that is added, a class token that is concatenated). Shapes, axes, paddings and other
constants of the computation are no targets.

The layer name comes from the first of these that has one: a converter's metadata, an initializer name such as
``conv1.weight`` or ``conv2d/kernel``, the name of the node that reads the tensor, the initializer's name as it is.
"""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Any

import onnx

from bitswap_onnx.errors import ModelError, nearest
from bitswap_onnx.faults.bits import FORMATS
from bitswap_onnx.graph.model import Model
from bitswap_onnx.graph.nodes import constant_tensor, node_label, subgraphs
from bitswap_onnx.graph.roles import BN_PARAMETERS, BN_STATISTICS, PASS_THROUGH, SLOT_ROLES, STEERING
from bitswap_onnx.graph.tensors import dtype_name, stored_tensors


@dataclass(frozen=True, slots=True)
class Target:
    """A stored tensor that faults can hit.

    ``tensor`` is its key (`bitswap_onnx.graph.tensors.stored_tensors`). ``shape`` is its stored layout, which indices of
    faults refer to. ``dtype`` is a name of `bitswap_onnx.faults.bits.FORMATS`. ``users`` are the nodes that compute with
    it; a fault reaches all of them. ``aliases`` are further (layer, parameter) names of a tied parameter.
    """

    tensor: str
    layer: str
    parameter: str
    role: str
    dtype: str
    shape: tuple[int, ...]
    users: tuple[str, ...]
    aliases: tuple[tuple[str, str], ...] = ()

    @property
    def elements(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def names(self) -> tuple[tuple[str, str], ...]:
        """All (layer, parameter) names."""
        return ((self.layer, self.parameter), *self.aliases)


_DOTTED = re.compile(r"(?P<layer>[A-Za-z0-9_]+(?:\.[A-Za-z0-9_]+)*)\.(?P<leaf>[A-Za-z_]\w*)")
_KERAS = re.compile(
    r"(?P<layer>.+)/(?P<leaf>kernel|bias|gamma|beta|moving_mean|moving_variance|depthwise_kernel|pointwise_kernel"
    r"|recurrent_kernel|embeddings|alpha)(?::0)?"
)
_GENERATED = re.compile(
    r"(/|onnx::|_?val_|_?const|_?tensor|_?scalar|_to_|\d)|.*(Constant|const_fold|_output_\d+$)", re.I
)


@dataclass(frozen=True, slots=True)
class _Use:
    """One node that reads a tensor: its operator, the input slot, the node's name and its label."""

    op_type: str
    slot: int
    node: str
    label: str
    behind: str  # operator that makes the node's other input: a constant that is added behind a kernel is its bias


@dataclass(slots=True)
class _Scope:
    """The names of one graph: value → key of the tensor that it holds, and value → operator that makes it."""

    prefix: str
    tensors: dict[str, str] = field(default_factory=dict)
    producers: dict[str, str] = field(default_factory=dict)


def find_targets(model: Model) -> tuple[Target, ...]:
    """Return every target of ``model``, ordered by the first node that uses it."""
    tensors = stored_tensors(model.proto)
    uses: dict[str, list[_Use]] = {}
    functions = {(f.domain, f.name): f for f in model.proto.functions}
    for key, use in _graph_uses(model.proto.graph, _Scope(""), functions):
        uses.setdefault(key, []).append(use)
    named = model.metadata.get("parameters", {})
    if named and named.keys() <= tensors.keys():  # the model is as exported, so the metadata name all parameters
        uses = {key: tensor_uses for key, tensor_uses in uses.items() if key in named}
    candidates = [_target(key, tensors[key], tensor_uses, named.get(key)) for key, tensor_uses in uses.items()]
    targets = [target for target in candidates if target is not None]
    normalized = {target.layer for target in targets if target.parameter in BN_STATISTICS}
    return tuple(_with_batch_norm_role(target) if target.layer in normalized else target for target in targets)


def select_targets(model: Model, patterns: str | None) -> tuple[Target, ...]:
    """Return the targets that ``patterns`` selects: comma-separated globs or texts; None selects all.

    A pattern selects every target whose layer or ``layer.parameter`` it matches or is part of. Raises ModelError, which
    names the nearest layers, for a pattern that matches nothing.
    """
    targets = find_targets(model)
    if patterns is None:
        return targets
    chosen: set[str] = set()
    for pattern in filter(None, (part.strip() for part in patterns.split(","))):
        matching = {target.tensor for target in targets if _matches(target, pattern)}
        if not matching:
            near = nearest(pattern, (target.layer for target in targets))
            raise ModelError(f"{model.name}: no layer or parameter matches {pattern!r}; the nearest are {near}")
        chosen |= matching
    return tuple(target for target in targets if target.tensor in chosen)


def _matches(target: Target, pattern: str) -> bool:
    names = [name for layer, parameter in target.names for name in (layer, f"{layer}.{parameter}")]
    return any(fnmatchcase(name, pattern) or pattern in name for name in names)


def _target(key: str, tensor: onnx.TensorProto, uses: list[_Use], named: dict[str, Any] | None) -> Target | None:
    """Return a tensor as a target, None if it is none; ``named`` is its entry in a converter's metadata."""
    dtype = dtype_name(tensor)
    roles = [role for role in map(_slot_role, uses) if role]
    role = next((role for role in roles if role != "parameter"), roles[0] if roles else None)
    if dtype not in FORMATS or (named is None and not _carries_parameter(key, tensor, uses, role)):
        return None
    (layer, parameter), *aliases = _names(key, uses, role) if named is None else _metadata_names(named)
    if role is None:
        role = "bias" if parameter == "bias" or _is_added_bias(tensor, uses) else "parameter"
    users = tuple(dict.fromkeys(use.label for use in uses))
    return Target(key, layer, parameter, role, dtype, tuple(tensor.dims), users, tuple(aliases))


def _carries_parameter(key: str, tensor: onnx.TensorProto, uses: list[_Use], role: str | None) -> bool:
    """Whether a tensor without metadata is a parameter, no constant of the computation (a table, a bound, a factor)."""
    if role not in (None, "parameter"):
        return True
    if not FORMATS[dtype_name(tensor)].is_float or all(use.slot > 0 and use.op_type in STEERING for use in uses):
        return False
    return tuple(tensor.dims) not in ((), (1,)) or _GENERATED.match(key) is None


def _slot_role(use: _Use) -> str | None:
    return SLOT_ROLES.get(use.op_type, {}).get(use.slot) or None


def _is_added_bias(tensor: onnx.TensorProto, uses: list[_Use]) -> bool:
    kernels = {op for op, slots in SLOT_ROLES.items() if "weight" in slots.values()}
    return len(tensor.dims) == 1 and all(use.op_type == "Add" and use.behind in kernels for use in uses)


def _with_batch_norm_role(target: Target) -> Target:
    """Return a target with its batch-norm role, for a batch-norm that the exporter replaced by Mul and Add."""
    if target.role in ("parameter", "bias") and target.parameter in BN_PARAMETERS:
        return replace(target, role=BN_PARAMETERS[target.parameter])
    return target


def _metadata_names(named: dict[str, Any]) -> list[tuple[str, str]]:
    parameter = str(named["parameter"])
    aliases = [_split(alias) or (alias, alias) for alias in named.get("aliases", ())]
    return [(str(named["layer"]) or parameter, parameter), *aliases]


def _names(key: str, uses: list[_Use], role: str | None) -> list[tuple[str, str]]:
    """Return (layer, parameter) names of a tensor: from its own name, else from the nodes that use it, else its key."""
    split = _split(key)
    if split is not None:
        return [split]
    parameter = role if role not in (None, "parameter") else key
    nodes = dict.fromkeys(use.node for use in uses if use.node)
    return [(node, parameter) for node in nodes] or [(key, parameter)]


def _split(name: str) -> tuple[str, str] | None:
    match = _KERAS.fullmatch(name) or _DOTTED.fullmatch(name)
    return (match["layer"], match["leaf"]) if match else None


def _graph_uses(
    graph: onnx.GraphProto, scope: _Scope, functions: dict[tuple[str, str], onnx.FunctionProto]
) -> Iterator[tuple[str, _Use]]:
    for tensor in graph.initializer:
        scope.tensors[tensor.name] = scope.prefix + tensor.name
    for node in graph.node:
        yield from _node_uses(node, scope, functions)


def _node_uses(
    node: onnx.NodeProto, scope: _Scope, functions: dict[tuple[str, str], onnx.FunctionProto]
) -> Iterator[tuple[str, _Use]]:
    if constant_tensor(node) is not None:
        scope.tensors[node.output[0]] = scope.prefix + node.output[0]
        return
    for inner, subgraph in subgraphs(node):
        child = _Scope(scope.prefix + inner, dict(scope.tensors), dict(scope.producers))
        yield from _graph_uses(subgraph, child, functions)
    function = functions.get((node.domain, node.op_type))
    if function is not None:
        yield from _function_uses(node, function, scope, functions)
    else:
        yield from _operator_uses(node, scope)
    for output in node.output:
        scope.producers[output] = node.op_type


def _function_uses(
    node: onnx.NodeProto,
    function: onnx.FunctionProto,
    scope: _Scope,
    functions: dict[tuple[str, str], onnx.FunctionProto],
) -> Iterator[tuple[str, _Use]]:
    """Yield the uses in the body of a function that a node calls; constants of the body belong to no layer."""
    actual = dict(zip(function.input, node.input, strict=False))
    body = _Scope(
        scope.prefix,
        {name: scope.tensors[value] for name, value in actual.items() if value in scope.tensors},
        {name: scope.producers[value] for name, value in actual.items() if value in scope.producers},
    )
    for inner in function.node:
        if constant_tensor(inner) is None:
            yield from (
                (key, replace(use, node=node.name or use.node, label=node_label(node)))
                for key, use in _node_uses(inner, body, functions)
            )


def _operator_uses(node: onnx.NodeProto, scope: _Scope) -> Iterator[tuple[str, _Use]]:
    if node.op_type in ("Shape", "Size"):
        return  # reads no element
    standard = node.domain in ("", "ai.onnx") and node.input and node.output
    passes = standard and node.op_type in PASS_THROUGH and node.input[0] in scope.tensors
    if passes:
        scope.tensors[node.output[0]] = scope.tensors[node.input[0]]
    for slot, value in enumerate(node.input):
        if value not in scope.tensors or (passes and slot == 0):
            continue
        if node.op_type in PASS_THROUGH and node.op_type not in SLOT_ROLES:
            continue  # a shape, axes or slice bounds
        behind = next((scope.producers[name] for name in node.input if name != value and name in scope.producers), "")
        yield scope.tensors[value], _Use(node.op_type, slot, node.name, node_label(node), behind)
