"""Blocks that keep the shape of a value of any rank: activations, constants, conditions, residual joins."""

from collections.abc import Callable

import numpy as np
import onnx
from onnx import helper

from tests.benchmarks.fuzz.builder import Builder, Value

Block = Callable[[Builder, Value], Value]

#: Operators of one input without attributes → the first opset that has them.
_PLAIN = {
    **dict.fromkeys(("Relu", "Elu", "Selu", "Celu", "Sigmoid", "Tanh", "HardSigmoid", "HardSwish"), 17),
    **dict.fromkeys(("Softplus", "Softsign", "Erf", "Sin", "Cos", "LeakyRelu", "Abs", "Neg", "Identity"), 17),
    "Mish": 18,
    "Gelu": 20,
}


def _is_half(b: Builder) -> bool:
    return b.dtype == np.float16


def activation(b: Builder, x: Value) -> Value:
    choices = [name for name, since in _PLAIN.items() if since <= b.opset and not (_is_half(b) and name == "Celu")]
    compound: tuple[Block, ...] = (clip, prelu, threshold, log_of_abs, bounded_exp, silu, elu_of_any_alpha)
    if b.chance(0.3):
        block: Block = b.one_of(*compound)
        return block(b, x)
    operator = "Relu" if b.chance(0.2) else b.one_of(*choices)
    return b.node(operator, [x], x.shape)


def placed(b: Builder, x: Value) -> Value:
    """An activation that the runtime computes in vectors, with the scalar rest apart."""
    choices = ["Elu", "Selu", "Softplus", "Sin", "Cos"] + ([] if _is_half(b) else ["Celu"])
    choices += ["Mish"] if b.opset >= 18 else []
    return log_of_abs(b, x) if b.chance(0.15) else b.node(b.one_of(*choices), [x], x.shape)


def elu_of_any_alpha(b: Builder, x: Value) -> Value:
    choices = ("Elu", "LeakyRelu") if _is_half(b) else ("Elu", "LeakyRelu", "Celu")
    return b.node(b.one_of(*choices), [x], x.shape, alpha=float(b.rng.uniform(0.05, 1.5)))


def clip(b: Builder, x: Value) -> Value:
    low, high = b.constant(b.one_of(0.0, -1.0)), b.constant(b.one_of(6.0, 0.7))
    return b.node("Clip", b.one_of([x, low, high], [x, "", high], [x, low]), x.shape)


def prelu(b: Builder, x: Value) -> Value:
    layer = b.fresh("prelu")
    shape = (x.shape[0], *(1,) * (len(x.shape) - 1)) if b.chance(0.8) else (1,) * len(x.shape)
    return b.node("PRelu", [x, b.parameter(layer, "weight", b.normal(*shape, scale=0.3))], x.shape, layer)


def threshold(b: Builder, x: Value) -> Value:
    return b.node("ThresholdedRelu", [x], x.shape, alpha=float(b.rng.uniform(0.0, 1.0)))


def log_of_abs(b: Builder, x: Value) -> Value:
    positive = b.node("Add", [b.node("Abs", [x], x.shape), b.constant(1.0)], x.shape)
    return b.node("Log", [positive], x.shape)


def bounded_exp(b: Builder, x: Value) -> Value:
    return b.node("Exp", [b.node("Tanh", [x], x.shape)], x.shape)


def silu(b: Builder, x: Value) -> Value:
    return b.node("Mul", [x, b.node("Sigmoid", [x], x.shape)], x.shape)


def scale_and_shift(b: Builder, x: Value) -> Value:
    """A factor and a summand per channel, as layer scale and taken-apart batch norms have them."""
    layer = b.fresh("scale")
    shape = (x.shape[0], *(1,) * (len(x.shape) - 1))
    made = b.node("Mul", [x, b.parameter(layer, "weight", b.normal(*shape))], x.shape, layer)
    return b.node("Add", [made, b.parameter(layer, "bias", b.normal(*shape, scale=0.2))], x.shape)


def with_itself(b: Builder, x: Value) -> Value:
    """Several consumers of one value, and one that reads it twice."""
    operator = b.one_of("Add", "Mul", "Sub", "Max", "Min")
    other = x if operator == "Add" and b.chance(0.3) else activation(b, x)
    return b.node(operator, [x, other] if b.chance(0.5) else [other, x], x.shape)


def constant_condition(b: Builder, x: Value) -> Value:
    """An If that every run of the model decides alike."""
    condition = b.constant(b.chance(0.5), np.bool_)
    return _if(b, x, condition)


def condition_on_the_batch(b: Builder, x: Value) -> Value:
    """An If on the sum of everything in the batch; near its limit, so that faults turn it."""
    b.has_mixing = True
    total = b.node("ReduceSum", [x], (), rows=False, keepdims=0)
    limit = b.constant(float(b.rng.normal(0, x.elements**0.5)))
    return _if(b, x, b.node("Less", [total, limit], (), rows=False).name)


def _if(b: Builder, x: Value, condition: str) -> Value:
    made = Value(b.fresh("v"), x.shape)
    branches = {name: _branch(b, x, name) for name in ("then_branch", "else_branch")}
    b.nodes.append(helper.make_node("If", [condition], [made.name], name=b.fresh("if"), **branches))
    return made


def _branch(b: Builder, x: Value, name: str) -> onnx.GraphProto:
    """A branch that scales each value, by a parameter of its own or one of the graph around it, or an activation."""
    out = b.fresh(f"{name}_")
    kind = helper.np_dtype_to_tensor_dtype(b.dtype)
    inner: list[onnx.TensorProto] = []
    if b.chance(0.3):
        node = helper.make_node(b.one_of("Relu", "Tanh", "Neg"), [x.name], [out], name=b.fresh("inner"))
    else:
        layer = b.fresh("factor")
        weight = b.parameter(layer, "weight", b.normal(x.shape[0], *(1,) * (len(x.shape) - 1)))
        if b.chance(0.5):
            inner.append(b.tensors.pop())
            b.parameters.pop()
        node = helper.make_node("Mul", [x.name, weight], [out], name=layer)
    return helper.make_graph([node], name, [], [helper.make_tensor_value_info(out, kind, None)], inner)


def quantized(b: Builder, x: Value) -> Value:
    """A scale that the whole batch decides."""
    b.has_mixing = True
    as_float = x if b.dtype == np.float32 else b.node("Cast", [x], x.shape, rows=False, to=1)
    whole, scale, zero = b.split_node("DynamicQuantizeLinear", [as_float], [x.shape, (), ()], rows=False)
    made = b.node("DequantizeLinear", [whole, scale, zero], x.shape, rows=False)
    return made if b.dtype == np.float32 else b.node("Cast", [made], x.shape, rows=False, to=10)


def softmax_over_the_batch(b: Builder, x: Value) -> Value:
    b.has_mixing = True
    return b.node("Softmax", [x], x.shape, axis=0)


ELEMENTWISE: tuple[Block, ...] = (activation, activation, activation, with_itself, scale_and_shift, constant_condition)
MIXING: tuple[Block, ...] = (condition_on_the_batch, quantized, softmax_over_the_batch)
