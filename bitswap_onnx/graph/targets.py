"""The targets of a model, in graph order: the stored tensors that are parameters, with role and name.

A tensor is a target in three cases: a converter's metadata name it; it reaches an operator's parameter slot, directly or
behind computations of stored tensors (`bitswap_onnx.graph.uses`); or its numbers, or those that its codes stand for, are
combined with activations (a position embedding that is added, a class token that is concatenated). Shapes, axes, paddings
and other constants of the computation are no targets.

What a layer multiplies by or looks up in has the role ``weight``: kernels, the W and R of recurrent layers, embedding
tables.

The layer name comes from the first of these that has one: a converter's metadata, an initializer name such as
``conv1.weight`` or ``conv2d/kernel``, the name of the node that reads the tensor, the initializer's name as it is.
"""

import math
import re
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any

import onnx

from bitswap_onnx.errors import ModelError, nearest
from bitswap_onnx.faults.bits import FORMATS
from bitswap_onnx.graph.model import Model
from bitswap_onnx.graph.roles import (
    BN_PARAMETERS,
    BN_STATISTICS,
    LOOKUPS,
    SLOT_NAMES,
    SLOT_ROLES,
    STEERING,
    is_table,
)
from bitswap_onnx.graph.tensors import dtype_name, stored_tensors
from bitswap_onnx.graph.uses import Use, find_uses


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
    def bits(self) -> int:
        """Number of stored bits."""
        return self.elements * FORMATS[self.dtype].width

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


def find_targets(model: Model) -> tuple[Target, ...]:
    """Return every target of ``model``, ordered by the first node that uses it."""
    tensors = stored_tensors(model.proto)
    uses = find_uses(model.proto)
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


def _target(key: str, tensor: onnx.TensorProto, uses: list[Use], named: dict[str, Any] | None) -> Target | None:
    """Return a tensor as a target, None if it is none; ``named`` is its entry in a converter's metadata."""
    dtype = dtype_name(tensor)
    roles = [role for role in (_role_at(use, tensor) for use in uses) if role]
    role = next((role for role in roles if role != "parameter"), roles[0] if roles else None)
    if dtype not in FORMATS or (named is None and not _carries_parameter(key, tensor, uses, role)):
        return None
    (layer, parameter), *aliases = _names(key, uses, role) if named is None else _metadata_names(named)
    if role is None:
        role = "bias" if parameter == "bias" or _is_added_bias(tensor, uses) else "parameter"
    users = tuple(dict.fromkeys(use.label for use in uses))
    return Target(key, layer, parameter, role, dtype, tuple(tensor.dims), users, tuple(aliases))


def _carries_parameter(key: str, tensor: onnx.TensorProto, uses: list[Use], role: str | None) -> bool:
    """Whether a tensor without metadata is a parameter, no constant of the computation (a table, a bound, a factor)."""
    if role not in (None, "parameter"):
        return True
    has_numbers = FORMATS[dtype_name(tensor)].is_float or any(use.is_decoded for use in uses)
    if not has_numbers or all(use.slot > 0 and use.op_type in STEERING for use in uses):
        return False
    return tuple(tensor.dims) not in ((), (1,)) or _GENERATED.match(key) is None


def _role_at(use: Use, tensor: onnx.TensorProto) -> str | None:
    """Return the role that a tensor has at a node; None where the node does not say it."""
    role = use.role or SLOT_ROLES.get(use.op_type, {}).get(use.slot)
    is_number = tuple(tensor.dims) in ((), (1,))
    is_no_table = use.op_type in LOOKUPS and not is_table(dtype_name(tensor), len(tensor.dims))
    return "parameter" if role == "weight" and (is_no_table or (is_number and use.is_computed)) else role


def _is_added_bias(tensor: onnx.TensorProto, uses: list[Use]) -> bool:
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


def _names(key: str, uses: list[Use], role: str | None) -> list[tuple[str, str]]:
    """Return (layer, parameter) names of a tensor: from its own name, else from the nodes that use it, else its key."""
    split = _split(key)
    if split is not None:
        return [split]
    slot_names = (SLOT_NAMES.get(use.op_type, {}).get(use.slot) for use in uses)
    parameter = next(filter(None, slot_names), role if role not in (None, "parameter") else key)
    nodes = dict.fromkeys(use.node for use in uses if use.node)
    return [(node, parameter) for node in nodes] or [(key, parameter)]


def _split(name: str) -> tuple[str, str] | None:
    match = _KERAS.fullmatch(name) or _DOTTED.fullmatch(name)
    return (match["layer"], match["leaf"]) if match else None
