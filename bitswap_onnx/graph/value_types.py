"""Infer the element type and shape of every value of a model."""

import math

import onnx

#: Initializers up to this many elements may be shapes, axes and the like, so inference needs their elements.
_SMALL = 1024


def infer_types(proto: onnx.ModelProto, shape: tuple[int, ...] | None) -> dict[str, onnx.TypeProto]:
    """Return value → its type, as far as ONNX's shape inference finds it.

    ``shape``, with the batch, replaces the declared shape of the model's input; None keeps the declared one.
    """
    copy = without_graph(proto)
    copy.graph.node.extend(proto.graph.node)
    copy.graph.input.extend(proto.graph.input)
    copy.graph.output.extend(proto.graph.output)
    copy.graph.value_info.extend(proto.graph.value_info)
    stored = {tensor.name for tensor in proto.graph.initializer}
    for tensor in proto.graph.initializer:  # no shape depends on the elements of a large one
        if math.prod(tensor.dims) <= _SMALL:
            copy.graph.initializer.append(tensor)
        elif tensor.name not in {value.name for value in proto.graph.input}:
            copy.graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    for sparse in proto.graph.sparse_initializer:
        stored.add(sparse.values.name)
        declared = onnx.helper.make_tensor_value_info(sparse.values.name, sparse.values.data_type, sparse.dims)
        copy.graph.input.append(declared)
    for value in copy.graph.input:
        if shape and value.name not in stored:
            for dim, size in zip(value.type.tensor_type.shape.dim, shape, strict=True):
                dim.Clear()
                dim.dim_value = size
    if shape:  # declared shapes hold for any batch, so they say less than inference from this one
        del copy.graph.value_info[:]
        for value in copy.graph.output:
            value.type.tensor_type.ClearField("shape")
    try:
        graph = onnx.shape_inference.infer_shapes(copy, data_prop=True).graph
    except Exception:  # inference may fail; then only declared types are known, and the input is the only cut
        graph = copy.graph
    return {value.name: value.type for value in (*graph.input, *graph.value_info, *graph.output)}


def without_graph(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Return a model with an empty graph and the versions and functions of ``proto``."""
    shell = onnx.ModelProto(ir_version=proto.ir_version, producer_name=proto.producer_name)
    shell.opset_import.extend(proto.opset_import)
    shell.functions.extend(proto.functions)
    shell.graph.name = proto.graph.name
    return shell
