"""Coverage: how many of the bits that a model stores are in a population of faults, and what was left out."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from bitswap_onnx.faults.bits import FORMATS
from bitswap_onnx.graph.model import Model
from bitswap_onnx.graph.targets import find_targets
from bitswap_onnx.graph.tensors import dtype_name, stored_bytes, stored_tensors

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
    left_out = tuple(LeftOut(*kind, tensors[kind], count) for kind, count in bits.most_common())
    return Coverage(stored, sum(covered.values()), left_out)
