"""Blocks on images (channels, height, width)."""

from typing import Any

import numpy as np

from tests.benchmarks.fuzz.builder import Array, Builder, Value
from tests.benchmarks.fuzz.elementwise import ELEMENTWISE, Block, activation, placed


def _out(size: int, kernel: int, pads: int, stride: int, dilation: int = 1) -> int:
    return (size + pads - dilation * (kernel - 1) - 1) // stride + 1


def conv(b: Builder, x: Value, layer: str | None = None, bias: bool | None = None) -> Value:
    """A convolution of any kind."""
    channels, height, width = x.shape
    groups = b.one_of(*[g for g in (1, 1, 1, 2, 3, channels) if channels % g == 0])
    filters = groups * int(b.rng.integers(1, 1 + max(1, 6 // groups)))
    kernel = [b.one_of(1, 1, 3, 3, 2), 3] if b.chance(0.2) else [b.one_of(1, 3)] * 2
    pads = [int(p) for p in b.rng.integers(0, 2, 4)] if b.chance(0.4) else [k // 2 for k in kernel] * 2
    stride, dilation = b.one_of(1, 1, 1, 2), b.one_of(1, 1, 1, 2)
    sizes = [_out(s, kernel[i], pads[i] + pads[i + 2], stride, dilation) for i, s in enumerate((height, width))]
    if min(sizes) < 1:
        return conv(b, x, layer, bias)
    layer = layer or b.fresh("conv")
    inputs: list[Value | str] = [x, b.parameter(layer, "weight", _kernel(b, filters, channels // groups, kernel))]
    if b.chance(0.6) if bias is None else bias:
        inputs.append(b.parameter(layer, "bias", b.normal(filters, scale=0.3)))
    attributes: dict[str, Any] = {"kernel_shape": kernel} if b.chance(0.7) else {}
    return b.node(
        "Conv",
        inputs,
        (filters, *sizes),
        layer,
        pads=pads,
        strides=[stride] * 2,
        dilations=[dilation] * 2,
        group=groups,
        **attributes,
    )


def _kernel(b: Builder, filters: int, inputs: int, kernel: list[int]) -> Array:
    return b.kernel(filters, inputs, *kernel, fan_in=inputs * int(np.prod(kernel)))


def same_conv(b: Builder, x: Value, filters: int, bias: bool, name: str | None = None) -> Value:
    """A convolution that keeps height and width."""
    layer, size = name or b.fresh("conv"), b.one_of(1, 3)
    inputs: list[Value | str] = [x, b.parameter(layer, "weight", _kernel(b, filters, x.shape[0], [size] * 2))]
    if bias:
        inputs.append(b.parameter(layer, "bias", b.normal(filters, scale=0.3)))
    return b.node("Conv", inputs, (filters, *x.shape[1:]), layer, pads=[size // 2] * 4, kernel_shape=[size] * 2)


def depthwise(b: Builder, x: Value) -> Value:
    layer, channels = b.fresh("depthwise"), x.shape[0]
    inputs: list[Value | str] = [x, b.parameter(layer, "weight", b.kernel(channels, 1, 3, 3, fan_in=9))]
    if b.chance(0.5):
        inputs.append(b.parameter(layer, "bias", b.normal(channels, scale=0.3)))
    return b.node("Conv", inputs, x.shape, layer, pads=[1] * 4, group=channels)


def auto_padded(b: Builder, x: Value) -> Value:
    layer, filters = b.fresh("conv"), int(b.rng.integers(1, 5))
    weight = b.parameter(layer, "weight", _kernel(b, filters, x.shape[0], [2, 2]))
    return b.node("Conv", [x, weight], (filters, *x.shape[1:]), layer, auto_pad=b.one_of("SAME_UPPER", "SAME_LOWER"))


def transposed(b: Builder, x: Value) -> Value:
    channels, height, width = x.shape
    if height * width > 60:
        return conv(b, x)
    layer, groups = b.fresh("deconv"), b.one_of(*[g for g in (1, 2) if channels % g == 0])
    each, size, stride = int(b.rng.integers(1, 4)), b.one_of(1, 2, 3), b.one_of(1, 2)
    weight = b.parameter(layer, "weight", b.kernel(channels, each, size, size, fan_in=channels * size))
    inputs: list[Value | str] = [x, weight]
    if b.chance(0.5):
        inputs.append(b.parameter(layer, "bias", b.normal(each * groups, scale=0.3)))
    sizes = [stride * (s - 1) + size for s in (height, width)]
    return b.node("ConvTranspose", inputs, (each * groups, *sizes), layer, strides=[stride] * 2, group=groups)


def batch_norm(b: Builder, x: Value, training: bool = False) -> Value:
    """Batch-norm over the first axis behind the batch."""
    layer, channels = b.fresh("bn"), x.shape[0]
    leaves = {"weight": 1.0, "bias": 0.3, "running_mean": 0.3}
    names = [b.parameter(layer, leaf, b.normal(channels, scale=scale)) for leaf, scale in leaves.items()]
    variance = (b.rng.uniform(0.3, 2.0, channels)).astype(b.dtype)
    names.append(b.parameter(layer, "running_var", variance))
    if not training:
        return b.node("BatchNormalization", [x, *names], x.shape, layer, epsilon=1e-3)
    b.has_mixing = True
    shapes = [x.shape, (channels,), (channels,)]
    return b.split_node("BatchNormalization", [x, *names], shapes, layer, rows=False, training_mode=1)[0]


def trained_batch_norm(b: Builder, x: Value) -> Value:
    return batch_norm(b, x, training=True)


def conv_norm_act(b: Builder, x: Value) -> Value:
    made = batch_norm(b, conv(b, x, bias=b.chance(0.3)))
    return b.node("Relu", [made], made.shape) if b.chance(0.6) else activation(b, made)


def conv_placed(b: Builder, x: Value) -> Value:
    """A convolution and an activation whose kernel may round otherwise in the last few elements of an array."""
    return placed(b, same_conv(b, x, int(b.rng.integers(1, 6)), bias=b.chance(0.5)))


def residual(b: Builder, x: Value) -> Value:
    """Convolution, with bias or without, batch norm or not, added to what went in."""
    inner = same_conv(b, x, x.shape[0], bias=b.chance(0.7))
    if b.chance(0.4):
        inner = batch_norm(b, inner)
    if b.chance(0.3):
        inner = same_conv(b, activation(b, inner), x.shape[0], bias=b.chance(0.5))
    made = b.node("Add", [inner, x] if b.chance(0.6) else [x, inner], x.shape)
    return b.node("Relu", [made], made.shape) if b.chance(0.5) else made


def dense(b: Builder, x: Value) -> Value:
    inner = same_conv(b, activation(b, x), int(b.rng.integers(1, 4)), bias=b.chance(0.5))
    return b.node("Concat", [x, inner], (x.shape[0] + inner.shape[0], *x.shape[1:]), axis=1)


def squeeze_and_excite(b: Builder, x: Value) -> Value:
    pooled = b.node("GlobalAveragePool", [x], (x.shape[0], 1, 1))
    inner = b.node("Relu", [same_conv(b, pooled, 3, bias=True)], (3, 1, 1))
    gate = same_conv(b, inner, x.shape[0], bias=True)
    return b.node("Mul", [x, b.node(b.one_of("Sigmoid", "HardSigmoid"), [gate], gate.shape)], x.shape)


def branches(b: Builder, x: Value) -> Value:
    """Split by channels; each part goes its own way, or one is not used any more."""
    channels = x.shape[0]
    if channels < 2:
        return with_two_readers(b, x)
    first = int(b.rng.integers(1, channels))
    sizes, rest = b.integers(first, channels - first), x.shape[1:]
    one, other = b.split_node("Split", [x, sizes], [(first, *rest), (channels - first, *rest)], axis=1)
    if b.chance(0.2):
        return other
    parts = [activation(b, one), same_conv(b, other, other.shape[0], bias=b.chance(0.5))]
    return b.node("Concat", parts, x.shape, axis=1)


def with_two_readers(b: Builder, x: Value) -> Value:
    """Two convolutions of one value, joined."""
    one, other = (same_conv(b, x, 3, bias=b.chance(0.5)) for _ in range(2))
    return b.node(b.one_of("Add", "Mul", "Sub"), [one, other], one.shape)


def tied(b: Builder, x: Value) -> Value:
    """Two convolutions with one kernel."""
    made = same_conv(b, x, x.shape[0], bias=False)
    node = b.nodes[-1]
    again = activation(b, made)
    attributes: dict[str, Any] = {a.name: list(a.ints) for a in node.attribute}
    return b.node("Conv", [again, node.input[1]], again.shape, **attributes)


def pool(b: Builder, x: Value) -> Value:
    channels, height, width = x.shape
    size, stride, pad = b.one_of(2, 3), b.one_of(1, 2), b.one_of(0, 0, 1)
    sizes = [_out(s, size, 2 * pad, stride) for s in (height, width)]
    if min(sizes) < 1:
        return activation(b, x)
    operator = b.one_of("MaxPool", "AveragePool")
    extra = {"count_include_pad": b.one_of(0, 1)} if operator == "AveragePool" else {}
    window: dict[str, Any] = {"kernel_shape": [size] * 2, "strides": [stride] * 2, "pads": [pad] * 4}
    return b.node(operator, [x], (channels, *sizes), **window, **extra)


def minus_mean(b: Builder, x: Value) -> Value:
    mean = b.node("GlobalAveragePool", [x], (x.shape[0], 1, 1))
    return b.node("Sub", [x, mean], x.shape)


def shuffle(b: Builder, x: Value) -> Value:
    """Channels change places across groups."""
    channels, height, width = x.shape
    if channels % 2:
        return activation(b, x)
    apart = b.node("Reshape", [x, b.integers(0, 2, channels // 2, height, width)], (2, channels // 2, height, width))
    turned = b.node("Transpose", [apart], (channels // 2, 2, height, width), perm=[0, 2, 1, 3, 4])
    return b.node("Reshape", [turned, b.integers(b.one_of(0, -1), channels, height, width)], x.shape)


def instance_norm(b: Builder, x: Value) -> Value:
    layer = b.fresh("norm")
    names = [b.parameter(layer, leaf, b.normal(x.shape[0])) for leaf in ("weight", "bias")]
    return b.node("InstanceNormalization", [x, *names], x.shape, layer)


IMAGE: tuple[Block, ...] = (
    *(
        conv,
        conv,
        conv_placed,
        conv_placed,
        conv_norm_act,
        conv_norm_act,
        depthwise,
        auto_padded,
        transposed,
        batch_norm,
        residual,
    ),
    *(residual, dense, squeeze_and_excite, branches, with_two_readers, tied, pool, pool, minus_mean, shuffle),
    *(instance_norm, *ELEMENTWISE),
)
