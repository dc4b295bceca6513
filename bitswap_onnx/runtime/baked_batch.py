"""Batch sizes that a graph fixes inside, in a Reshape for example, though its input leaves the batch open."""

from collections.abc import Iterator

import numpy as np
import onnx
from numpy.typing import NDArray

from bitswap_onnx.errors import ModelError
from bitswap_onnx.graph.model import Model
from bitswap_onnx.graph.signature import MOST_INPUTS
from bitswap_onnx.graph.tensors import read_tensor, stored_tensors
from bitswap_onnx.runtime.session import Numerics, Provider, open_session

#: Sizes that are tried, at most, and the dimensions of a shape.
_TRIES, _MOST_DIMS = 8, 8


def baked_batch(model: Model, output: str, inputs: NDArray[np.generic], provider: Provider) -> int | None:
    """Return the one batch size, of 2 and more, on which a model runs that fails on a single input; else None.

    ``inputs`` (n, ...) are some inputs to run. The sizes that are tried stand at the front of small stored shapes and of
    the shapes that the model declares.
    """
    if _runs(model, output, inputs, 1, provider):
        return None
    sizes = sorted({size for size in _written_sizes(model) if 1 < size <= MOST_INPUTS})
    return next((size for size in sizes[:_TRIES] if _runs(model, output, inputs, size, provider)), None)


def _runs(model: Model, output: str, inputs: NDArray[np.generic], size: int, provider: Provider) -> bool:
    numerics = Numerics(provider=provider, batch_size=size, threads=0)
    try:
        open_session(model, numerics, output).run(inputs[:1])
    except ModelError:
        return False
    return True


def _written_sizes(model: Model) -> Iterator[int]:
    graph = model.proto.graph
    for value in (*graph.output, *graph.value_info):
        dims = value.type.tensor_type.shape.dim
        if dims:
            yield dims[0].dim_value
    for tensor in stored_tensors(model.proto).values():
        if tensor.data_type == onnx.TensorProto.INT64 and len(tensor.dims) == 1 and 0 < tensor.dims[0] <= _MOST_DIMS:
            yield int(read_tensor(tensor, model.folder)[0])
