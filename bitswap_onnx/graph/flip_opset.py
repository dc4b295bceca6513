"""Convert models to opset 26, which has the operator BitCast that flip nodes need."""

import math

import onnx
from onnx import TensorProto, helper, numpy_helper, version_converter

from bitswap_onnx.errors import ModelError, one_line
from bitswap_onnx.graph.model import Model
from bitswap_onnx.graph.tensors import stored_tensors

FLIP_OPSET = 26

#: No shape or axis that a conversion could depend on has more elements than this.
_LARGE = 1024


def at_flip_opset(model: Model) -> onnx.ModelProto:
    """Return a copy of the model's protobuf at opset 26 or higher, with its stored tensors unchanged bit for bit.

    Raises ModelError for a model that onnx cannot convert, and for a conversion that changes a stored tensor.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model.proto)
    opset = next((entry.version for entry in copy.opset_import if entry.domain in ("", "ai.onnx")), 1)
    if opset >= FLIP_OPSET:
        return copy
    if copy.functions:
        raise ModelError(
            f"{model.name}: neuron faults need opset {FLIP_OPSET}, and onnx cannot convert a model that defines "
            f"functions ({copy.functions[0].name}); inline them with onnx.inliner"
        )
    sparse, large = _without_sparse(copy.graph), _without_large(copy.graph)
    try:
        converted = version_converter.convert_version(copy, FLIP_OPSET)
    except Exception as error:  # the converter raises whatever its C++ part raises
        raise ModelError(
            f"{model.name}: neuron faults need opset {FLIP_OPSET}, and onnx cannot convert it from opset {opset}: "
            f"{one_line(error)}"
        ) from None
    stand_ins = [value for value in converted.graph.input if value.name in {*large, *sparse}]
    for value in stand_ins:
        converted.graph.input.remove(value)
    converted.graph.initializer.extend(large.values())
    converted.graph.sparse_initializer.extend(sparse.values())
    before, after = stored_tensors(model.proto), stored_tensors(converted)
    changed = [key for key in before if key not in after or not _same(before[key], after[key])]
    if changed:
        raise ModelError(
            f"{model.name}: neuron faults need opset {FLIP_OPSET}, and converting it changes tensor {changed[0]}; "
            f"export the model with opset {FLIP_OPSET}"
        )
    del converted.metadata_props[:]
    converted.metadata_props.extend(model.proto.metadata_props)
    return converted


def _without_sparse(graph: onnx.GraphProto) -> dict[str, onnx.SparseTensorProto]:
    """Replace sparse initializers by inputs, since the converter drops them; return the initializers by name."""
    sparse = {}
    for tensor in graph.sparse_initializer:
        name = tensor.values.name
        sparse[name] = onnx.SparseTensorProto()
        sparse[name].CopyFrom(tensor)
        graph.input.append(helper.make_tensor_value_info(name, tensor.values.data_type, tensor.dims))
    del graph.sparse_initializer[:]
    return sparse


def _without_large(graph: onnx.GraphProto) -> dict[str, onnx.TensorProto]:
    """Replace large initializers by inputs, which the converter does not copy; return the initializers by name."""
    declared = {value.name for value in graph.input}
    large = {t.name: t for t in graph.initializer if math.prod(t.dims) > _LARGE and t.name not in declared}
    small = [tensor for tensor in graph.initializer if tensor.name not in large]
    copies = {}
    for name, tensor in large.items():
        copies[name] = onnx.TensorProto()
        copies[name].CopyFrom(tensor)
        graph.input.append(helper.make_tensor_value_info(name, tensor.data_type, tensor.dims))
    del graph.initializer[:]
    graph.initializer.extend(small)
    return copies


def _same(before: onnx.TensorProto, after: onnx.TensorProto) -> bool:
    if before == after:
        return True
    if TensorProto.EXTERNAL in (before.data_location, after.data_location):
        return False
    return numpy_helper.to_array(before).tobytes() == numpy_helper.to_array(after).tobytes()
