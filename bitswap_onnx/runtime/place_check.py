"""Does a node give a row the same bits wherever it lies in the batch? Tried on this processor, with this runtime.

A batch whose rows are all alike goes in: each row lies at another offset, and all must come out alike. Rows are random, and
several batches of them are tried, so that an operator that rounds otherwise in its tail for one value in a hundred shows it.
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

#: The spread of the numbers in the rows that are tried. A kernel that rounds by its tail does so for one value in a few
#: hundred, one that adds in another order for most: then few batches are enough.
_SPREADS = (1.0, 6.0, 0.1, 1.0, 6.0, 30.0)
_ROUNDED_TIMES = 8


def keeps_rows(slicer: Slicer, numerics: Numerics, index: int) -> bool:
    """Whether a node of the model was seen to give equal rows equal bits, in every place of a batch.

    False as well where that cannot be tried: an input that is no float and has rows, or a value without rows.
    """
    node = slicer.nodes[index]
    read = [name for name in slicer.reads[index] if name not in slicer.constants and name not in slicer.counts]
    if not all(slicer.has_rows(name) for name in (*read, *filter(None, node.output))):
        return False
    if minds_neighbours(slicer, index) or not all(slicer.dtype(name).kind == "f" for name in read):
        return False
    known = operator(node.domain, node.op_type)
    times = 1 if known is not None and known.place is Place.ORDERED else _ROUNDED_TIMES
    try:
        part = open_part(_alone(slicer, index, read), numerics)
        draw = np.random.default_rng(0)
        for spread in _SPREADS * times:
            feeds = {name: _equal_rows(slicer, name, draw, spread) for name in read}
            if not all(_are_equal(found) for found in part.run(feeds)):
                return False
    except ModelError:  # what the runtime does not take alone
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
