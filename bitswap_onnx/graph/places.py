"""Decide for which nodes a value keeps its bits at another place in memory.

A part of a model puts values at other places than the whole model: inputs in another order, other channels beside a
channel. Kernels compute most elements of an array in vectors and the last ones in a scalar tail, which may round
differently. If an array fills whole vectors, there is no tail, and an element's place does not matter. A sum over a row
is divided into vectors from where the row begins, so there each row has to fill whole vectors. See
`bitswap_onnx.graph.operators.Place`.
"""

import math
from collections.abc import Iterable, Iterator

import numpy as np
import onnx

from bitswap_onnx.graph.nodes import subgraphs
from bitswap_onnx.graph.operators import Place, operator
from bitswap_onnx.graph.slices import Slicer

#: The widest vector that kernels compute with, in bytes.
VECTOR_BYTES = 64


def is_known(node: onnx.NodeProto) -> bool:
    """Whether a node's operator is in the table, or it is an If with such nodes alone; other subgraphs are unknown."""
    inner = [graph for _, graph in subgraphs(node)]
    if node.op_type == "If" and not node.domain:
        return all(is_known(each) for graph in inner for each in graph.node)
    return not inner and operator(node.domain, node.op_type) is not None


def may_repack_channels(slicer: Slicer, index: int, axis: int, count: int) -> bool:
    """Whether channels, on ``axis`` of a node's output, keep their bits if it computes ``count`` chosen ones of them.

    `Place.ORDERED` counts as free here, since golden values show whether a kernel adds in another order.
    """
    node = slicer.nodes[index]
    known = operator(node.domain, node.op_type)
    if known is None:
        return False
    if known.place is not Place.ROUNDED:
        return True
    dims = slicer.dims(node.output[0]) or ()
    packed = tuple(count if i == axis else size for i, size in enumerate(dims))
    if minds_neighbours(slicer, index):
        return False
    return bool(dims) and all(_fills_vectors(slicer, shape, node.output[0]) for shape in (dims, packed))


def unsettled(slicer: Slicer, nodes: Iterable[int]) -> Iterator[int]:
    """Yield those of ``nodes`` for which it is not certain that a row keeps its bits at another place in the batch."""
    rowless = slicer.constants | slicer.counts
    for index in nodes if slicer.batch > 1 else ():
        node = slicer.nodes[index]
        outputs = [name for name in node.output if name]
        known = operator(node.domain, node.op_type)
        if rowless.issuperset(outputs) or (known is not None and known.place is Place.FREE):
            continue
        if minds_neighbours(slicer, index):
            settled = False
        elif known is not None and known.rows == "elementwise" and _is_one_loop(slicer, index):
            settled = all(_fills_vectors(slicer, slicer.dims(name), name) for name in outputs)
        else:
            values = [*outputs, *(name for name in slicer.reads[index] if name not in rowless)]
            rows = {name: (slicer.dims(name) or ())[1:] for name in values if slicer.has_rows(name)}
            settled = known is not None and len(rows) == len(set(values))
            settled = settled and all(_fills_vectors(slicer, row, name) for name, row in rows.items())
        if not settled:
            yield index


def minds_neighbours(slicer: Slicer, index: int) -> bool:
    """Whether a value's rounding may depend on other values in its vector, as in double-precision Sin and Cos."""
    node = slicer.nodes[index]
    known = operator(node.domain, node.op_type)
    if known is None or known.place is not Place.ROUNDED:
        return False
    return any(slicer.dims(name) is not None and slicer.dtype(name) == np.float64 for name in node.output if name)


def _is_one_loop(slicer: Slicer, index: int) -> bool:
    """Whether a node computes its output in one loop: each of its inputs has the output's shape or one element."""
    node = slicer.nodes[index]
    shape = slicer.dims(node.output[0])
    in_shapes = [slicer.dims(name) for name in node.input if name]
    return shape is not None and all(dims == shape or (dims is not None and math.prod(dims) == 1) for dims in in_shapes)


def _fills_vectors(slicer: Slicer, shape: tuple[int, ...] | None, name: str) -> bool:
    """Whether an array of ``shape``, with the dtype of the value ``name``, fills whole vectors."""
    return shape is not None and math.prod(shape) * slicer.dtype(name).itemsize % VECTOR_BYTES == 0
