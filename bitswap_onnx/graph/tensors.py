"""The tensors that an ONNX model stores: their keys, and their elements bit for bit.

Tensors stored outside the model file (external data, as for models over 2 GB) stay on disk and are memory-mapped when
they are read.
"""

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper
from onnx.external_data_helper import ExternalDataInfo

from bitswap_onnx.graph.nodes import constant_tensor, subgraphs

_DATA_FIELDS = (
    "float_data",
    "int32_data",
    "int64_data",
    "double_data",
    "uint64_data",
    "external_data",
    "data_location",
)


def stored_tensors(proto: onnx.ModelProto) -> dict[str, onnx.TensorProto]:
    """Return every tensor that the model stores, by a key that is unique in the model.

    The key of an initializer or Constant node of the main graph is its name. For tensors in bodies of If, Loop and Scan
    it is ``<output>/<attribute>::<name>``, where ``<output>`` is the first output of the node that carries the body; for
    nested bodies there are several such prefixes.
    """
    return dict(_graph_tensors(proto.graph, ""))


def is_external(tensor: onnx.TensorProto) -> bool:
    """Whether a tensor lies outside the model file."""
    return tensor.data_location == onnx.TensorProto.EXTERNAL


def dtype_name(tensor: onnx.TensorProto) -> str:
    """Return the name that numpy or ml_dtypes gives the type of a tensor's elements."""
    return onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).name


def stored_bytes(tensor: onnx.TensorProto) -> int:
    """Return the bytes that a tensor's elements take; elements below one byte are packed."""
    return (int(math.prod(tensor.dims)) * _element_bits(tensor) + 7) // 8


def read_tensor(tensor: onnx.TensorProto, folder: Path) -> NDArray[Any]:
    """Return a stored tensor's elements, those below one byte in a byte each, at its low end.

    External data in ``folder`` is memory-mapped, not loaded, unless its elements are packed.
    """
    if not is_external(tensor) or _element_bits(tensor) < 8:
        return numpy_helper.to_array(tensor, str(folder))
    info = ExternalDataInfo(tensor)
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
    shape = tuple(tensor.dims)
    if not np.prod(shape):
        return np.empty(shape, dtype)
    return np.memmap(folder / info.location, dtype, "r", info.offset or 0, shape)


def write_tensor(tensor: onnx.TensorProto, elements: NDArray[Any]) -> None:
    """Replace the elements of ``tensor``, in place, by ``elements`` of the same dtype and shape, bit for bit."""
    for field in _DATA_FIELDS:
        tensor.ClearField(field)
    tensor.raw_data = numpy_helper.from_array(np.ascontiguousarray(elements)).raw_data


def _element_bits(tensor: onnx.TensorProto) -> int:
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
    packed = re.match(r"u?int(2|4)$|float(4)", dtype.name)
    return int(packed[1] or packed[2]) if packed else 8 * int(dtype.itemsize)


def _graph_tensors(graph: onnx.GraphProto, scope: str) -> Iterator[tuple[str, onnx.TensorProto]]:
    for tensor in graph.initializer:
        yield scope + tensor.name, tensor
    for node in graph.node:
        constant = constant_tensor(node)
        if constant is not None:
            yield scope + node.output[0], constant
        for inner, subgraph in subgraphs(node):
            yield from _graph_tensors(subgraph, scope + inner)
