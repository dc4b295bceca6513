"""Tests whether a node gives a row the same bits at every place of the batch, on this processor and runtime.

The node runs on a batch of equal rows. Each row lies at another offset in memory, and all rows of the output must be equal.
Several batches of random numbers are tried, since an operator may round differently in its tail for one value in a hundred.
A node between values without rows, as attention with the batch on its second axis has them, runs with the nodes around it,
and among other rows too: what is called a row there is known from outside alone.
"""

from collections.abc import Hashable

import numpy as np
from numpy.typing import NDArray

from bitswap_onnx.errors import ModelError
from bitswap_onnx.graph.operators import Place, operator
from bitswap_onnx.graph.places import minds_neighbours
from bitswap_onnx.graph.slices import Slicer
from bitswap_onnx.graph.tensors import read_tensor
from bitswap_onnx.runtime.session import Numerics
from bitswap_onnx.runtime.submodel import Submodel, open_part

#: Standard deviations of the numbers in the batches that are tried. A kernel that adds in another order shows it for most
#: values, so one batch of each is enough; a kernel with a tail shows it for one value in a few hundred, which needs more.
_SPREADS = (1.0, 6.0, 0.1, 1.0, 6.0, 30.0)
_TAIL_REPEATS = 8

#: Most nodes that are tried together, and most elements of a constant that may be a shape or an index.
_MOST_NODES, _SMALL = 64, 4096


def keeps_rows(slicer: Slicer, numerics: Numerics, nodes: frozenset[int]) -> bool:
    """Whether ``nodes`` of the model (`between_rows`) gave equal rows equal bits at every place of a batch, in all trials.

    Also False where it cannot be tried: an input that is not float, no values with rows around them, too many nodes, a part
    that does not run alone.
    """
    read, made = _ends(slicer, nodes)
    if not read or not made or not all(slicer.has_rows(name) for name in (*read, *made)) or len(nodes) > _MOST_NODES:
        return False
    if any(minds_neighbours(slicer, i) for i in nodes) or not all(slicer.dtype(name).kind == "f" for name in read):
        return False
    known = [operator(slicer.nodes[i].domain, slicer.nodes[i].op_type) for i in nodes]
    has_tails = any(each is None or each.place is Place.ROUNDED for each in known)
    repeats = _TAIL_REPEATS if has_tails else 1
    try:
        part = open_part(slicer.extract(read, made), numerics)
        draw = np.random.default_rng(0)
        for spread in _SPREADS * repeats:
            feeds = {name: _equal_rows(slicer, name, draw, spread) for name in read}
            if not all(map(_are_equal, part.run(feeds))):
                return False
        if len(nodes) > 1 and not _sees_no_others(slicer, part, draw):
            return False
    except ModelError:  # the runtime does not run the node alone
        return False
    return True


def between_rows(slicer: Slicer, index: int) -> frozenset[int]:
    """Return a node and those that values without rows connect with it, and the transpositions before them.

    The runtime moves a transposition past the nodes behind it, which then compute along another axis.
    """
    rowless = slicer.constants | slicer.counts
    found, pending = set[int](), [index]
    while pending:
        node = pending.pop()
        if node in found:
            continue
        found.add(node)
        names = {*slicer.reads[node], *filter(None, slicer.nodes[node].output)} - rowless
        for name in (name for name in names if not slicer.has_rows(name)):
            pending += slicer.readers.get(name, ())
            pending += [slicer.producer[name]] if name in slicer.producer else []
    before = (transposition(slicer, name) for node in found for name in slicer.reads[node])
    return frozenset(found).union(*before)


def transposition(slicer: Slicer, name: str) -> frozenset[int]:
    """Return the nodes from a transposition to a value, all of one operand each; none if it comes from no transposition."""
    path = set[int]()
    while name in slicer.producer and name not in slicer.constants:
        index = slicer.producer[name]
        node = slicer.nodes[index]
        operands = [operand for operand in node.input if operand and operand not in slicer.constants]
        known = operator(node.domain, node.op_type)
        path.add(index)
        if node.op_type == "Transpose":
            return frozenset(path)
        if len(operands) != 1 or known is None or known.rows != "elementwise":
            break
        (name,) = operands
    return frozenset()


def structure(slicer: Slicer, nodes: frozenset[int]) -> Hashable:
    """Return what ``nodes`` compute, apart from the names of values and the numbers in large constants."""
    numbers: dict[str, int] = {}
    found: list[Hashable] = []
    for node in (slicer.nodes[index] for index in sorted(nodes)):
        values = [
            (numbers.setdefault(name, len(numbers)), slicer.dims(name), _small_constant(slicer, name))
            for name in (*node.input, *node.output)
        ]
        attributes = [attribute.SerializeToString(deterministic=True) for attribute in node.attribute]
        found.append((node.domain, node.op_type, *attributes, *values))
    _, made = _ends(slicer, nodes)
    return (*found, *(numbers[name] for name in made))


def _small_constant(slicer: Slicer, name: str) -> Hashable:
    if name not in slicer.constants:
        return None
    if name not in slicer.stored:
        return name  # computed somewhere, not alike to any other
    tensor = read_tensor(slicer.stored[name], slicer.model.folder)
    return str(tensor.dtype), tensor.tobytes() if tensor.size <= _SMALL else None


def _ends(slicer: Slicer, nodes: frozenset[int]) -> tuple[list[str], list[str]]:
    """Return the values that ``nodes`` read from others, and those that others read from them."""
    made = {name for node in nodes for name in slicer.nodes[node].output if name} - slicer.counts
    read = {name for node in nodes for name in slicer.reads[node]} - slicer.constants - slicer.counts - made
    used = {name for name in made if name == slicer.output or not nodes.issuperset(slicer.readers.get(name, ()))}
    return sorted(read), sorted(used)


def _sees_no_others(slicer: Slicer, part: Submodel, draw: np.random.Generator) -> bool:
    """Whether the first and the last row come out among others as they do among their own copies."""
    feeds = {name: draw.standard_normal(slicer.dims(name) or ()).astype(slicer.dtype(name)) for name in part.inputs}
    among_others = part.run(feeds)
    for row in (0, -1):
        copies = {name: np.ascontiguousarray(np.broadcast_to(array[row], array.shape)) for name, array in feeds.items()}
        pairs = zip(among_others, part.run(copies), strict=True)
        if any(one[row].tobytes() != other[row].tobytes() for one, other in pairs):
            return False
    return True


def _equal_rows(slicer: Slicer, name: str, draw: np.random.Generator, spread: float) -> NDArray[np.generic]:
    dims = slicer.dims(name) or ()
    row = (draw.standard_normal(dims[1:]) * spread).astype(slicer.dtype(name))
    return np.ascontiguousarray(np.broadcast_to(row, dims))


def _are_equal(rows: NDArray[np.generic]) -> bool:
    bits = rows.view(f"u{rows.dtype.itemsize}")
    return bool((bits == bits[:1]).all())
