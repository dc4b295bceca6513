"""Blocks on sequences (tokens, features) and on vectors (features,)."""

import numpy as np
from onnx import helper

from tests.benchmarks.fuzz.builder import Builder, Value
from tests.benchmarks.fuzz.elementwise import ELEMENTWISE, Block, activation
from tests.benchmarks.fuzz.images import batch_norm


def linear(b: Builder, x: Value, features: int | None = None) -> Value:
    """MatMul with a kernel, and a bias or none."""
    layer, width = b.fresh("linear"), features or int(b.rng.integers(2, 9))
    kernel = b.parameter(layer, "weight", b.kernel(x.shape[-1], width, fan_in=x.shape[-1]))
    made = b.node("MatMul", [x, kernel], (*x.shape[:-1], width), layer)
    if b.chance(0.5):
        return made
    bias = b.parameter(layer, "bias", b.normal(width, scale=0.3))
    return b.node("Add", [made, bias] if b.chance(0.7) else [bias, made], made.shape)


def turned_linear(b: Builder, x: Value) -> Value:
    """MatMul with a kernel that is stored the other way round."""
    layer, width = b.fresh("linear"), int(b.rng.integers(2, 9))
    kernel = b.parameter(layer, "weight", b.kernel(width, x.shape[-1], fan_in=x.shape[-1]))
    turned = b.fresh("turned")
    b.nodes.append(helper.make_node("Transpose", [kernel], [turned], name=b.fresh("transpose"), perm=[1, 0]))
    return b.node("MatMul", [x, turned], (*x.shape[:-1], width), layer)


def token_gemm(b: Builder, x: Value) -> Value:
    """All tokens of all inputs as rows of one Gemm."""
    tokens, features = x.shape
    rows = b.node("Reshape", [x, b.integers(-1, features)], (features,), rows=False)
    made = gemm(b, rows, rows=False)
    return b.node("Reshape", [made, b.integers(-1, tokens, made.shape[0])], (tokens, made.shape[0]), rows=False)


def gemm(b: Builder, x: Value, features: int | None = None, rows: bool = True) -> Value:
    layer, width, inputs = b.fresh("fc"), features or int(b.rng.integers(2, 9)), x.shape[-1]
    turned = b.one_of(0, 1)
    shape = (width, inputs) if turned else (inputs, width)
    names: list[Value | str] = [x, b.parameter(layer, "weight", b.kernel(*shape, fan_in=inputs))]
    if b.chance(0.6):
        names.append(b.parameter(layer, "bias", b.normal(width, scale=0.3)))
    scales = {"alpha": 0.5, "beta": 2.0} if b.chance(0.1) else {}
    return b.node("Gemm", names, (width,), layer, rows, transB=turned, **scales)


def layer_norm(b: Builder, x: Value) -> Value:
    layer = b.fresh("ln")
    names = [b.parameter(layer, leaf, b.normal(x.shape[-1])) for leaf in ("weight", "bias")]
    return b.node("LayerNormalization", [x, *names], x.shape, layer, axis=-1)


def attention(b: Builder, x: Value) -> Value:
    """One head, added to what went in."""
    tokens, features = x.shape
    q, k, v = (linear(b, x, features) for _ in range(3))
    turned = b.node("Transpose", [k], (features, tokens), perm=[0, 2, 1])
    weights = b.node("MatMul", [q, turned], (tokens, tokens))
    scaled = b.node("Mul", [weights, b.constant(features**-0.5)], weights.shape)
    shares = b.node("Softmax", [scaled], scaled.shape, axis=-1)
    mixed = linear(b, b.node("MatMul", [shares, v], x.shape), features)
    return b.node("Add", [x, mixed], x.shape)


def mlp(b: Builder, x: Value) -> Value:
    inner = linear(b, activation(b, linear(b, layer_norm(b, x))), x.shape[-1])
    return b.node("Add", [x, inner], x.shape)


def gated(b: Builder, x: Value) -> Value:
    """Half of the features open and close the other half."""
    both = linear(b, x, 2 * int(b.rng.integers(1, 4)))
    half = (*both.shape[:-1], both.shape[-1] // 2)
    one, other = b.split_node("Split", [both, b.integers(half[-1], half[-1])], [half, half], axis=-1)
    return b.node("Mul", [one, b.node("Sigmoid", [other], half)], half)


def token_mixing(b: Builder, x: Value) -> Value:
    """A kernel from the left: tokens are mixed."""
    layer, tokens = b.fresh("mix"), int(b.rng.integers(2, 5))
    kernel = b.parameter(layer, "weight", b.kernel(tokens, x.shape[0], fan_in=x.shape[0]))
    return b.node("MatMul", [kernel, x], (tokens, x.shape[1]), layer)


def turned(b: Builder, x: Value) -> Value:
    return b.node("Transpose", [x], x.shape[::-1], perm=[0, 2, 1])


def batch_second(b: Builder, x: Value) -> Value:
    """A detour with the tokens before the batch."""
    there = b.node("Transpose", [x], x.shape, rows=False, perm=[1, 0, 2])
    inner = b.node("Tanh", [there], x.shape, rows=False)
    return b.node("Transpose", [inner], x.shape, rows=False, perm=[1, 0, 2])


def position(b: Builder, x: Value) -> Value:
    layer = b.fresh("embedding")
    return b.node("Add", [x, b.parameter(layer, "weight", b.normal(1, *x.shape, scale=0.3))], x.shape, layer)


def conv_1d(b: Builder, x: Value) -> Value:
    """A convolution along the features, tokens as channels."""
    layer, filters = b.fresh("conv"), int(b.rng.integers(1, 5))
    names: list[Value | str] = [x, b.parameter(layer, "weight", b.kernel(filters, x.shape[0], 3, fan_in=9))]
    if b.chance(0.5):
        names.append(b.parameter(layer, "bias", b.normal(filters, scale=0.3)))
    return b.node("Conv", names, (filters, x.shape[1]), layer, pads=[1, 1])


def vector_norm(b: Builder, x: Value) -> Value:
    return batch_norm(b, x)


def vector_residual(b: Builder, x: Value) -> Value:
    return b.node("Add", [gemm(b, activation(b, x), x.shape[0]), x], x.shape)


def image_to_sequence(b: Builder, x: Value) -> Value:
    channels, places = x.shape[0], int(np.prod(x.shape[1:]))
    flat = b.node("Reshape", [x, b.integers(0, channels, -1)], (channels, places))
    return b.node("Transpose", [flat], (places, channels), perm=[0, 2, 1])


SEQUENCE: tuple[Block, ...] = (
    *(linear, linear, turned_linear, token_gemm, layer_norm, attention, attention, mlp, gated, token_mixing),
    *(turned, batch_second, position, conv_1d, batch_norm, *ELEMENTWISE),
)
VECTOR: tuple[Block, ...] = (gemm, gemm, linear, turned_linear, layer_norm, vector_norm, vector_residual, *ELEMENTWISE)
