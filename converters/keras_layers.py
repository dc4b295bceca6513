"""ONNX operators → Keras layers: the table of operators, and a function for each kind of operator.

A function gets the Keras model under construction and a node, and returns the Keras tensor of the node's first output. It
raises ModelError where no Keras layer computes exactly the same.
"""

from collections.abc import Callable, Sequence
from typing import Any

import onnx_ir as ir

from bitswap_onnx.converters.keras_builder import Builder, Stored, keras_axis, reshaped, sizes
from bitswap_onnx.converters.keras_windows import average_pool, convolved, max_pool, pad, read_window, sliced

Convert = Callable[[Builder, ir.Node], Any]


def convolution(builder: Builder, node: ir.Node) -> Any:
    """Conv over images, grouped and depthwise ones included."""
    tensor, kernel = builder.tensor(node, 0), builder.constant(node, 1)
    assert kernel is not None
    window = read_window(builder, node, tensor, kernel.elements.shape[2:])
    if set(window.strides) != {1} and set(window.dilations) != {1}:
        raise builder.error(node, "strides and dilations both above 1 have no counterpart")
    tensor, padding = convolved(builder, node, tensor, window)
    bias = builder.constant(node, 2)
    return builder.add(
        "Conv2D",
        tensor,
        [kernel.permuted(2, 3, 1, 0), *([bias] if bias else [])],
        filters=kernel.elements.shape[0],
        kernel_size=window.kernel,
        strides=window.strides,
        padding=padding,
        dilation_rate=window.dilations,
        groups=node.attributes.get_int("group", 1),
        use_bias=bias is not None,
    )


def gemm(builder: Builder, node: ir.Node) -> Any:
    """Gemm with constant weights."""
    attributes = node.attributes
    alpha, beta = attributes.get_float("alpha", 1.0), attributes.get_float("beta", 1.0)
    turned = attributes.get_int("transA", 0)
    kernel = builder.constant(node, 1)
    if alpha != 1 or beta != 1 or turned or kernel is None:
        raise builder.error(node, "expected alpha 1, beta 1 and an untransposed input")
    return _dense(builder, node, kernel.permuted(1, 0) if attributes.get_int("transB", 0) else kernel, node, 2)


def matrix_product(builder: Builder, node: ir.Node) -> Any:
    """MatMul with constant weights; an Add of constants behind it becomes the layer's bias."""
    kernel = builder.constant(node, 1)
    assert kernel is not None
    uses = list(node.outputs[0].uses())
    if len(uses) == 1 and not node.outputs[0].is_graph_output() and uses[0].node.op_type == "Add":
        behind, position = uses[0].node, 1 - uses[0].idx
        bias = behind.inputs[position]
        stored = builder.constants.get(str(bias.name)) if bias is not None else None
        if stored is not None and stored.elements.shape == kernel.elements.shape[1:]:
            output = _dense(builder, node, kernel, behind, position)
            builder.tensors[str(behind.outputs[0].name)] = output
            return output
    return _dense(builder, node, kernel, node, 2)


def _dense(builder: Builder, node: ir.Node, kernel: Stored, holder: ir.Node, position: int) -> Any:
    """Return a Dense layer's output; its bias, if any, is the constant at an input of ``holder``."""
    tensor, bias = builder.tensor(node, 0), builder.constant(holder, position)
    units = kernel.elements.shape[-1]
    if len(tensor.shape) != 2 or kernel.elements.ndim != 2:
        raise builder.error(node, f"expected inputs (batch, features), found rank {len(tensor.shape)}")
    if bias is not None and bias.elements.shape != (units,):
        raise builder.error(node, f"expected a bias of shape ({units},), found {bias.elements.shape}")
    weights = [kernel, *([bias] if bias else [])]
    return builder.add("Dense", tensor, weights, units=units, use_bias=bias is not None)


def batch_norm(builder: Builder, node: ir.Node) -> Any:
    """BatchNormalization at inference."""
    if node.attributes.get_int("training_mode", 0):
        raise builder.error(node, "batch-norm in training mode has no counterpart; export the model at inference")
    weights = [stored for stored in (builder.constant(node, position) for position in range(1, 5)) if stored]
    epsilon = node.attributes.get_float("epsilon", 1e-5)
    return builder.add("BatchNormalization", builder.tensor(node, 0), weights, axis=-1, epsilon=epsilon)


def layer(kind: str, **settings: Any) -> Convert:
    """Return the conversion into one layer without weights."""
    return lambda builder, node: builder.add(kind, builder.tensor(node, 0), **settings)


def clip(builder: Builder, node: ir.Node) -> Any:
    """Clip from 0 upwards: ReLU, ReLU6 and the like."""
    bounds: list[float | None] = []
    for position, name in ((1, "min"), (2, "max")):
        stored = builder.constant(node, position)
        given = node.attributes.get(name)
        bounds.append(stored.scalar if stored else None if given is None else given.as_float())
    low, high = bounds
    if low != 0:
        raise builder.error(node, f"expected a lower bound of 0, found {low}")
    return builder.add("ReLU", builder.tensor(node, 0), max_value=high)


def leaky_relu(builder: Builder, node: ir.Node) -> Any:
    """LeakyRelu."""
    slope = node.attributes.get_float("alpha", 0.01)
    return builder.add("LeakyReLU", builder.tensor(node, 0), negative_slope=slope)


def elu(builder: Builder, node: ir.Node) -> Any:
    """Elu."""
    return builder.add("ELU", builder.tensor(node, 0), alpha=node.attributes.get_float("alpha", 1.0))


def hard_sigmoid(builder: Builder, node: ir.Node) -> Any:
    """HardSigmoid with the slope that Keras and PyTorch have."""
    slope, offset = node.attributes.get_float("alpha", 0.2), node.attributes.get_float("beta", 0.5)
    if abs(slope - 1 / 6) > 1e-6 or offset != 0.5:
        raise builder.error(node, f"expected slope 1/6 and offset 0.5, found {slope} and {offset}")
    return builder.add("Activation", builder.tensor(node, 0), activation="hard_sigmoid")


def softmax(builder: Builder, node: ir.Node) -> Any:
    """Softmax over one axis."""
    tensor = builder.tensor(node, 0)
    rank, version = len(tensor.shape), node.version or (node.graph.opset_imports.get("") if node.graph else None)
    older = version is not None and version < 13
    if older and rank != 2:
        raise builder.error(node, f"before opset 13, expected rank 2, found {rank}")
    axis = keras_axis(node.attributes.get_int("axis", 1 if older else -1), rank)
    return builder.add("Softmax", tensor, axis=-1 if axis == rank - 1 else axis)


def merge_layer(kind: str, scaling: Callable[[float, bool], dict[str, float]] | None = None) -> Convert:
    """Return the conversion of an elementwise operator on tensors, or, by ``scaling``, on a tensor and a number.

    ``scaling`` gets the number and whether it is the first operand, and returns the settings of a Rescaling layer.
    """

    def convert(builder: Builder, node: ir.Node) -> Any:
        numbers = [builder.constants.get(str(value.name)) if value else None for value in node.inputs]
        position = next((place for place, stored in enumerate(numbers) if stored is not None), None)
        if position is None:
            tensors = [builder.tensor(node, place) for place in range(len(node.inputs))]
            if len({len(tensor.shape) for tensor in tensors}) > 1:
                raise builder.error(node, "tensors of different rank have no counterpart")
            return tensors[0] if len(tensors) == 1 else builder.add(kind, tensors)
        stored = numbers[position]
        number = stored.scalar if stored else None
        if number is None or scaling is None or len(node.inputs) != 2:
            raise builder.error(node, f"with the constant {stored.name if stored else ''} it has no counterpart")
        return builder.add("Rescaling", builder.tensor(node, 1 - position), (), **scaling(number, position == 0))

    return convert


def concatenation(builder: Builder, node: ir.Node) -> Any:
    """Concat along any axis except the batch."""
    tensors = [builder.tensor(node, place) for place in range(len(node.inputs))]
    rank = len(tensors[0].shape)
    axis = keras_axis(node.attributes.get_int("axis", 1), rank)
    if axis == 0:
        raise builder.error(node, "joining batches has no counterpart")
    return builder.add("Concatenate", tensors, axis=-1 if axis == rank - 1 else axis) if tensors[1:] else tensors[0]


def global_pool(kind: str) -> Convert:
    """Return the conversion of a mean or maximum over height and width, as pooling or as a reduction over axes."""

    def convert(builder: Builder, node: ir.Node) -> Any:
        tensor, attributes = builder.tensor(node, 0), node.attributes
        reduces = node.op_type.startswith("Reduce")
        axes = builder.integers(node, "axes", 1) if reduces else [2, 3]
        if len(tensor.shape) != 4 or sorted(axis % 4 for axis in axes or []) != [2, 3]:
            raise builder.error(node, f"expected images and axes 2 and 3, found rank {len(tensor.shape)}, axes {axes}")
        return builder.add(kind, tensor, keepdims=not reduces or bool(attributes.get_int("keepdims", 1)))

    return convert


def flatten(builder: Builder, node: ir.Node) -> Any:
    """Flatten all axes except the batch, in ONNX's order."""
    tensor = builder.tensor(node, 0)
    if node.attributes.get_int("axis", 1) != 1:
        raise builder.error(node, "expected axis 1")
    return reshaped(builder, tensor, [_elements(builder, node, sizes(tensor))])


def reshape_layer(builder: Builder, node: ir.Node) -> Any:
    """Reshape that does not change the batch."""
    tensor = builder.tensor(node, 0)
    wanted = builder.integers(node, "shape", 1) or []
    total = _elements(builder, node, sizes(tensor))
    target = [sizes(tensor)[i] if size == 0 else size for i, size in enumerate(wanted[1:])]
    known = _elements(builder, node, [size for size in target if size != -1])
    free = target.count(-1)
    if free > 1 or not target or (known != total if not free else total % known):
        raise builder.error(node, f"from {sizes(tensor)} to {wanted}, the batch would change")
    return reshaped(builder, tensor, [total // known if size == -1 else size or 1 for size in target])


def squeeze(builder: Builder, node: ir.Node) -> Any:
    """Squeeze axes of size 1."""
    tensor = builder.tensor(node, 0)
    rank = len(tensor.shape)
    axes = {axis % rank for axis in builder.integers(node, "axes", 1) or []}
    if not axes or 0 in axes:
        raise builder.error(node, "expected axes other than the batch")
    return reshaped(builder, tensor, [size or 1 for i, size in enumerate(sizes(tensor), start=1) if i not in axes])


def unsqueeze(builder: Builder, node: ir.Node) -> Any:
    """Unsqueeze: add axes of size 1."""
    tensor = builder.tensor(node, 0)
    axes = builder.integers(node, "axes", 1) or []
    rank = len(tensor.shape) + len(axes)
    added = {axis % rank for axis in axes}
    kept = iter(sizes(tensor))
    if 0 in added or None in sizes(tensor):
        raise builder.error(node, "expected known sizes and axes other than the batch")
    return reshaped(builder, tensor, [1 if axis in added else next(kept) or 1 for axis in range(1, rank)])


def transpose_layer(builder: Builder, node: ir.Node) -> Any:
    """Transpose that leaves the batch first."""
    tensor = builder.tensor(node, 0)
    rank = len(tensor.shape)
    order = node.attributes.get_ints("perm", list(reversed(range(rank))))
    if order[0] != 0:
        raise builder.error(node, f"moving the batch ({list(order)}) has no counterpart")
    dims = [0] * rank
    for axis, origin in enumerate(order):
        dims[keras_axis(axis, rank)] = keras_axis(origin, rank)
    return tensor if dims == list(range(rank)) else builder.add("Permute", tensor, dims=tuple(dims[1:]))


def same_value(builder: Builder, node: ir.Node) -> Any:
    """Hand on the input: Identity, and Dropout at inference."""
    return builder.tensor(node, 0)


def _elements(builder: Builder, node: ir.Node, shape: Sequence[int | None]) -> int:
    product = 1
    for size in shape:
        if size is None:
            raise builder.error(node, "needs an input of known sizes")
        product *= size
    return product


#: Operator → (its Keras layers, for the README, and the function that makes them).
LAYER_RULES: dict[str, tuple[str, Convert]] = {
    "Conv": ("Conv2D (`groups` for grouped and depthwise), ZeroPadding2D", convolution),
    "Gemm": ("Dense", gemm),
    "MatMul": ("Dense (with the Add behind it)", matrix_product),
    "BatchNormalization": ("BatchNormalization", batch_norm),
    "Relu": ("ReLU", layer("ReLU")),
    "Clip": ("ReLU (lower bound 0: ReLU6)", clip),
    "LeakyRelu": ("LeakyReLU", leaky_relu),
    "Elu": ("ELU", elu),
    "Sigmoid": ("Activation", layer("Activation", activation="sigmoid")),
    "Tanh": ("Activation", layer("Activation", activation="tanh")),
    "Softplus": ("Activation", layer("Activation", activation="softplus")),
    "HardSigmoid": ("Activation", hard_sigmoid),
    "HardSwish": ("Activation", layer("Activation", activation="hard_silu")),
    "Softmax": ("Softmax", softmax),
    "MaxPool": ("MaxPooling2D, ZeroPadding2D", max_pool),
    "AveragePool": ("AveragePooling2D, ZeroPadding2D", average_pool),
    "GlobalAveragePool": ("GlobalAveragePooling2D", global_pool("GlobalAveragePooling2D")),
    "GlobalMaxPool": ("GlobalMaxPooling2D", global_pool("GlobalMaxPooling2D")),
    "ReduceMean": ("GlobalAveragePooling2D (height and width)", global_pool("GlobalAveragePooling2D")),
    "ReduceMax": ("GlobalMaxPooling2D (height and width)", global_pool("GlobalMaxPooling2D")),
    "Add": ("Add, Rescaling (a number)", merge_layer("Add", lambda number, _: {"scale": 1.0, "offset": number})),
    "Sub": (
        "Subtract, Rescaling (a number)",
        merge_layer(
            "Subtract", lambda number, first: {"scale": -1.0 if first else 1.0, "offset": number if first else -number}
        ),
    ),
    "Mul": (
        "Multiply, Rescaling (a number)",
        merge_layer("Multiply", lambda number, _: {"scale": number, "offset": 0.0}),
    ),
    "Max": ("Maximum", merge_layer("Maximum")),
    "Min": ("Minimum", merge_layer("Minimum")),
    "Concat": ("Concatenate", concatenation),
    "Pad": ("ZeroPadding2D (zeros; channels too)", pad),
    "Slice": ("Cropping2D, AveragePooling2D (of single pixels, strided)", sliced),
    "Flatten": ("Flatten (behind Permute, in ONNX's order)", flatten),
    "Reshape": ("Flatten, Reshape, Permute", reshape_layer),
    "Squeeze": ("Flatten, Reshape, Permute", squeeze),
    "Unsqueeze": ("Reshape, Permute", unsqueeze),
    "Transpose": ("Permute", transpose_layer),
    "Identity": ("none", same_value),
    "Dropout": ("none", same_value),
}
