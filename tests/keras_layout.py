"""A model as Keras would store it: what a converter from Keras gives, without Keras."""

import numpy as np
import onnx
from onnx import numpy_helper

BATCH_NORM = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}
#: (operator, rank) → the axes of Keras's layout in PyTorch's.
LAYOUTS = {("Conv", 4): (2, 3, 1, 0), ("Gemm", 2): (1, 0)}


def as_keras(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The same computation as Keras would store it: kernels HWIO behind Transpose, layers counted by type."""
    model = onnx.ModelProto()
    model.CopyFrom(proto)
    del model.metadata_props[:]
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    seen: dict[str, int] = {}
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        stem = {"Conv": "conv2d", "Gemm": "dense", "BatchNormalization": "batch_normalization"}.get(node.op_type)
        if stem is not None:
            number = seen[stem] = seen.get(stem, -1) + 1
            layer = f"{stem}_{number}" if number else stem
            for slot, name in enumerate(node.input):
                if name in tensors:
                    nodes += store(node, slot, layer, tensors[name])
        nodes.append(node)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    onnx.checker.check_model(model)
    return model


def store(node: onnx.NodeProto, slot: int, layer: str, tensor: onnx.TensorProto) -> list[onnx.NodeProto]:
    values = numpy_helper.to_array(tensor)
    axes = LAYOUTS.get((node.op_type, values.ndim))
    leaf = "kernel" if axes else BATCH_NORM[tensor.name.split(".")[-1]] if node.op_type[0] == "B" else "bias"
    name = node.input[slot] = f"{layer}/{leaf}"
    tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(values.transpose(axes) if axes else values), name))
    if not axes:
        return []
    node.input[slot] = f"{name}/transposed"
    back = [int(axis) for axis in np.argsort(axes)]
    return [onnx.helper.make_node("Transpose", [name], [node.input[slot]], perm=back)]


def takes_nhwc(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The same model with images (N, H, W, C) as its input."""
    model = onnx.ModelProto()
    model.CopyFrom(proto)
    (value,) = model.graph.input
    dims = value.type.tensor_type.shape.dim
    channels = onnx.TensorShapeProto.Dimension(dim_value=dims[1].dim_value)
    del dims[1]
    dims.append(channels)
    for node in model.graph.node:
        node.input[:] = ["nchw" if name == value.name else name for name in node.input]
    model.graph.node.insert(0, onnx.helper.make_node("Transpose", [value.name], ["nchw"], perm=[0, 3, 1, 2]))
    onnx.checker.check_model(model)
    return model
