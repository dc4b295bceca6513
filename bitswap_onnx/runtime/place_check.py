"""Tests whether a node gives a row the same bits at every place of the batch, on this processor and runtime.

The node runs on a batch of equal rows. Each row lies at another offset in memory, and all rows of the output must be equal.
Several batches of random numbers are tried, since an operator may round differently in its tail for one value in a hundred.
"""

import numpy as np
from numpy.typing import NDArray

from bitswap_onnx.errors import ModelError
from bitswap_onnx.graph.model import Model
from bitswap_onnx.graph.operators import Place, operator
from bitswap_onnx.graph.places import minds_neighbours
from bitswap_onnx.graph.slices import Slicer
from bitswap_onnx.runtime.session import Numerics
from bitswap_onnx.runtime.submodel import open_part

#: Standard deviations of the numbers in the batches that are tried. A kernel that adds in another order shows it for most
#: values, so one batch of each is enough; a kernel with a tail shows it for one value in a few hundred, which needs more.
_SPREADS = (1.0, 6.0, 0.1, 1.0, 6.0, 30.0)
_TAIL_REPEATS = 8


def keeps_rows(slicer: Slicer, numerics: Numerics, index: int) -> bool:
    """Whether a node of the model gave equal rows equal bits at every place of a batch, in all trials.

    Also False where it cannot be tried: an input that is not float, a value without rows, a node that does not run alone.
    """
    node = slicer.nodes[index]
    read = [name for name in slicer.reads[index] if name not in slicer.constants and name not in slicer.counts]
    if not all(slicer.has_rows(name) for name in (*read, *filter(None, node.output))):
        return False
    if minds_neighbours(slicer, index) or not all(slicer.dtype(name).kind == "f" for name in read):
        return False
    known = operator(node.domain, node.op_type)
    repeats = 1 if known is not None and known.place is Place.ORDERED else _TAIL_REPEATS
    try:
        part = open_part(_alone(slicer, index, read), numerics)
        draw = np.random.default_rng(0)
        for spread in _SPREADS * repeats:
            feeds = {name: _equal_rows(slicer, name, draw, spread) for name in read}
            if not all(map(_are_equal, part.run(feeds))):
                return False
    except ModelError:  # the runtime does not run the node alone
        return False
    return True


def _alone(slicer: Slicer, index: int, read: list[str]) -> Model:
    return slicer.extract(read, [name for name in slicer.nodes[index].output if name in _used(slicer)])


def _used(slicer: Slicer) -> set[str]:
    return {*slicer.readers, slicer.output}


def _equal_rows(slicer: Slicer, name: str, draw: np.random.Generator, spread: float) -> NDArray[np.generic]:
    dims = slicer.dims(name) or ()
    row = (draw.standard_normal(dims[1:]) * spread).astype(slicer.dtype(name))
    return np.ascontiguousarray(np.broadcast_to(row, dims))


def _are_equal(rows: NDArray[np.generic]) -> bool:
    bits = rows.view(f"u{rows.dtype.itemsize}")
    return bool((bits == bits[:1]).all())
