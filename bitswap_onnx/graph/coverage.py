"""Coverage: how many of the bits that a model stores are in a population of faults, and what was left out."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import onnx

from bitswap_onnx.faults.bits import FORMATS
from bitswap_onnx.graph.model import Model
from bitswap_onnx.graph.nodes import constant_tensor, subgraphs
from bitswap_onnx.graph.targets import find_targets
from bitswap_onnx.graph.tensors import dtype_name, stored_bytes, stored_tensors

#: Attributes of a Constant node that hold numbers, and their type.
_NUMBERS = {"value_float": "float32", "value_floats": "float32", "value_int": "int64", "value_ints": "int64"}

#: The role of stored tensors that are no targets: shapes, axes, bounds and other constants, and types that no fault hits.
NO_TARGET = "no target"


@dataclass(frozen=True, slots=True)
class LeftOut:
    """The ``bits`` of one ``role`` and ``dtype`` that are stored in ``tensors`` and not covered."""

    role: str
    dtype: str
    tensors: int
    bits: int


@dataclass(frozen=True, slots=True)
class Coverage:
    """How many of the ``stored`` bits are ``covered``; what is not, the most bits first."""

    stored: int
    covered: int
    left_out: tuple[LeftOut, ...]


def coverage(model: Model, covered: Mapping[str, int]) -> Coverage:
    """Return the coverage of a model's stored bits, those of tensors in bodies of If, Loop and Scan among them.

    ``covered``: bits of a population by the key of their tensor (`bitswap_onnx.graph.tensors.stored_tensors`).
    """
    targets = {target.tensor: target for target in find_targets(model)}
    stored, bits, tensors = 0, Counter[tuple[str, str]](), Counter[tuple[str, str]]()
    for key, tensor in stored_tensors(model.proto).items():
        target = targets.get(key)
        own = target.elements * FORMATS[target.dtype].width if target else 8 * stored_bytes(tensor)
        stored += own
        if own > covered.get(key, 0):
            kind = (target.role, target.dtype) if target else (NO_TARGET, dtype_name(tensor))
            bits[kind] += own - covered.get(key, 0)
            tensors[kind] += 1
    for dtype, own in _constants_beside(model.proto):
        stored += own
        bits[NO_TARGET, dtype] += own
        tensors[NO_TARGET, dtype] += 1
    left_out = tuple(LeftOut(*kind, tensors[kind], count) for kind, count in bits.most_common())
    return Coverage(stored, sum(covered.values()), left_out)


def _constants_beside(proto: onnx.ModelProto) -> Iterator[tuple[str, int]]:
    """Yield type and bits of what is stored in other ways: sparse, as numbers in attributes, in bodies of functions."""
    graphs = [proto.graph]
    for graph in graphs:
        graphs += [inner for node in graph.node for _, inner in subgraphs(node)]
        for sparse in graph.sparse_initializer:
            yield dtype_name(sparse.values), 8 * stored_bytes(sparse.values)
    for node in (node for graph in graphs for node in graph.node if node.op_type == "Constant"):
        for entry in node.attribute:
            if entry.name == "sparse_value":
                yield dtype_name(entry.sparse_tensor.values), 8 * stored_bytes(entry.sparse_tensor.values)
            elif entry.name in _NUMBERS:
                dtype, count = _NUMBERS[entry.name], len(entry.floats) + len(entry.ints)
                yield dtype, FORMATS[dtype].width * (count or 1)
    for node in (node for function in proto.functions for node in function.node):
        tensor = constant_tensor(node)
        if tensor is not None:
            yield dtype_name(tensor), 8 * stored_bytes(tensor)
