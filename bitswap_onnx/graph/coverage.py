"""Coverage: how many of the bits that a model stores are in a population of faults, and what was left out."""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self

import onnx

from bitswap_onnx.faults.bits import FORMATS
from bitswap_onnx.graph.model import Model
from bitswap_onnx.graph.nodes import constant_tensor, subgraphs
from bitswap_onnx.graph.targets import find_targets
from bitswap_onnx.graph.tensors import dtype_name, stored_bytes, stored_tensors

#: Types of tensors that hold no numbers.
_NO_NUMBERS = (onnx.TensorProto.BOOL, onnx.TensorProto.STRING)

#: What is covered: all that faults can be drawn from.
POPULATION = "population"

#: How to cover more.
_TAKEN_IN = "; `parameters`, `layers` and `bits` of faults generate, or of `until`, take more in"

#: In place of a role: shapes, axes, bounds and other constants of the computation.
NO_TARGET = "shapes and constants"
#: Its word in runs and designs of earlier versions.
_EARLIER = "no target"

#: In place of a role: what no fault hits, since it is stored in another way than as a dense tensor, or in another type.
OUT_OF_REACH = "out of reach"

#: Operators whose parameters are attributes: linear models, trees and others of the classical kind.
_CLASSICAL = "ai.onnx.ml"


@dataclass(frozen=True, slots=True)
class LeftOut:
    """The ``bits`` of one ``role`` and ``dtype`` that are stored in ``tensors`` and not covered."""

    role: str
    dtype: str
    tensors: int
    bits: int


@dataclass(frozen=True, slots=True)
class Coverage:
    """How many of the ``stored`` bits are ``covered``; what is not, the most bits first. ``of``: what covers them."""

    stored: int
    covered: int
    left_out: tuple[LeftOut, ...]
    of: str = POPULATION

    @classmethod
    def from_stored(cls, stored: Mapping[str, Any]) -> Self:
        """Return the coverage of the plain data that ``dataclasses.asdict`` made of one."""
        return cls(**{**stored, "left_out": tuple(LeftOut(**entry) for entry in stored["left_out"])})

    @property
    def text(self) -> str:
        """`line`, and the parameters that take in what was left out."""
        return self.line + (_TAKEN_IN if self.can_grow else "")

    @property
    def can_grow(self) -> bool:
        """Whether another choice of parameters, layers or bits would cover more."""
        return self.of == POPULATION and any(
            left.role not in (NO_TARGET, _EARLIER, OUT_OF_REACH) for left in self.left_out
        )

    @property
    def line(self) -> str:
        """The covered share, and what was left out by role and type."""
        if not self.stored:
            return "the model stores no tensors"
        parts = [f"{left.role} {left.dtype} {self._percent(left.bits)}" for left in self.left_out]
        line = f"{self.of}: {self._percent(self.covered)} of the {self.stored:,} bits that the model stores"
        return line + (f"; left out: {', '.join(parts)}" if parts else "")

    def _percent(self, bits: int) -> str:
        """Return a share that says 0 and 100 % only where it is none and all."""
        percent = f"{100 * bits / self.stored:.2f}"
        if bits and percent == "0.00":
            percent = "< 0.01"
        elif bits < self.stored and percent == "100.00":
            percent = "> 99.99"
        return f"{percent} %"


def coverage(model: Model, covered: Mapping[str, int], of: str = POPULATION) -> Coverage:
    """Return the coverage of a model's stored bits, those of tensors in bodies of If, Loop and Scan among them.

    ``covered``: bits by the key of their tensor (`bitswap_onnx.graph.tensors.stored_tensors`). ``of``: what they are.
    """
    targets = {target.tensor: target for target in find_targets(model)}
    stored, bits, tensors = 0, Counter[tuple[str, str]](), Counter[tuple[str, str]]()
    for key, tensor in stored_tensors(model.proto).items():
        target, own = targets.get(key), _bits(tensor)
        stored += own
        if own > covered.get(key, 0):
            kind = (target.role if target else _reach(tensor), dtype_name(tensor))
            bits[kind] += own - covered.get(key, 0)
            tensors[kind] += 1
    for role, dtype, own in _constants_beside(model.proto):
        stored += own
        bits[role, dtype] += own
        tensors[role, dtype] += 1
    left_out = tuple(LeftOut(*kind, tensors[kind], count) for kind, count in bits.most_common())
    return Coverage(stored, sum(covered.values()), left_out, of)


def coverage_of_tensors(model: Model, keys: Iterable[str]) -> Coverage:
    """Return the coverage of the tensors that a fault list hits."""
    tensors = stored_tensors(model.proto)
    covered = {key: _bits(tensors[key]) for key in keys}
    return coverage(model, covered, "tensors that the list hits, since no design says what it was drawn from")


def _bits(tensor: onnx.TensorProto) -> int:
    fmt = FORMATS.get(dtype_name(tensor))
    return 8 * stored_bytes(tensor) if fmt is None else math.prod(tensor.dims) * fmt.width


def _reach(tensor: onnx.TensorProto) -> str:
    """Return the word for a tensor that is no target."""
    return NO_TARGET if dtype_name(tensor) in FORMATS or tensor.data_type in _NO_NUMBERS else OUT_OF_REACH


def _constants_beside(proto: onnx.ModelProto) -> Iterator[tuple[str, str, int]]:
    """Yield word, type and bits of what is stored in other ways: sparse, in attributes, in bodies of functions."""
    graphs = [proto.graph]
    for graph in graphs:
        graphs += [inner for node in graph.node for _, inner in subgraphs(node)]
        for sparse in graph.sparse_initializer:
            yield _tensor(sparse.values)
    for node in (node for graph in graphs for node in graph.node):
        if node.op_type == "Constant" or node.domain == _CLASSICAL:
            word = OUT_OF_REACH if node.domain == _CLASSICAL else NO_TARGET
            yield from (_entry(word, entry) for entry in node.attribute if _holds_numbers(node, entry))
    for node in (node for function in proto.functions for node in function.node):
        tensor = constant_tensor(node)
        if tensor is not None:
            yield _tensor(tensor)


def _holds_numbers(node: onnx.NodeProto, entry: onnx.AttributeProto) -> bool:
    """Whether an attribute holds parameters: numbers of a Constant, or a list or tensor of a classical model."""
    kinds = onnx.AttributeProto
    if node.op_type == "Constant":
        return entry.type in (kinds.FLOAT, kinds.FLOATS, kinds.INT, kinds.INTS, kinds.SPARSE_TENSOR)
    return entry.type in (kinds.FLOATS, kinds.INTS, kinds.TENSOR)


def _entry(word: str, entry: onnx.AttributeProto) -> tuple[str, str, int]:
    kinds = onnx.AttributeProto
    if entry.type in (kinds.TENSOR, kinds.SPARSE_TENSOR):
        return _tensor(entry.t if entry.type == kinds.TENSOR else entry.sparse_tensor.values)
    dtype = "float32" if entry.type in (kinds.FLOAT, kinds.FLOATS) else "int64"
    count = 1 if entry.type in (kinds.FLOAT, kinds.INT) else len(entry.floats) + len(entry.ints)
    return word, dtype, FORMATS[dtype].width * count


def _tensor(tensor: onnx.TensorProto) -> tuple[str, str, int]:
    return OUT_OF_REACH, dtype_name(tensor), 8 * stored_bytes(tensor)
