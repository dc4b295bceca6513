"""Models for tests of cuts and engines: a few of each kind, and random networks."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from tests.builders import build, cnn, normal

MODELS: dict[str, onnx.ModelProto] = {
    "cnn": cnn(),
    "residual": build(
        """net (float[N, 3, 6, 6] x) => (float[N, 4] y) {
            a = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (x, "a.weight", "a.bias")
            b = BatchNormalization (a, "bn.weight", "bn.bias", "bn.mean", "bn.var")
            c = Relu (b)
            d = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (c, "d.weight")
            e = Add (d, c)
            f = Relu (e)
            g = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (f)
            h = Concat <axis = 1> (g, g)
            i = GlobalAveragePool (h)
            j = Flatten (i)
            y = Gemm <transB = 1> (j, "fc.weight", "fc.bias")
        }""",
        a__weight=normal(16, 3, 3, 3, seed=1),
        a__bias=normal(16, seed=2),
        bn__weight=normal(16, seed=3),
        bn__bias=normal(16, seed=4),
        bn__mean=normal(16, seed=5),
        bn__var=np.abs(normal(16, seed=6)) + np.float32(0.5),
        d__weight=normal(16, 16, 3, 3, seed=7) / np.float32(12),
        fc__weight=normal(4, 32, seed=8),
        fc__bias=normal(4, seed=9),
    ),
    "mobile": build(
        """net (float[N, 16, 5, 5] x) => (float[N, 3] y) {
            a = Conv <kernel_shape = [1, 1]> (x, "a.weight")
            b = Clip (a, zero, six)
            c = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1], group = 32> (b, "dw.weight", "dw.bias")
            d = PRelu (c, "p.weight")
            e = Conv <kernel_shape = [3, 3], strides = [2, 2], group = 4> (d, "g.weight")
            f = AveragePool <kernel_shape = [2, 2]> (e)
            g = Flatten (f)
            h = MatMul (g, "fc.weight")
            y = Add (h, "fc.bias")
        }""",
        a__weight=normal(32, 16, 1, 1, seed=1),
        dw__weight=normal(32, 1, 3, 3, seed=2),
        dw__bias=normal(32, seed=3),
        p__weight=normal(32, 1, 1, seed=4),
        g__weight=normal(16, 8, 3, 3, seed=5),
        fc__weight=normal(16, 3, seed=6),
        fc__bias=normal(3, seed=7),
        zero=np.float32(0),
        six=np.float32(6),
    ),
    "attention": build(
        """net (float[N, 5, 8] x) => (float[N, 6] y) {
            q = MatMul (x, "q.weight")
            qb = Add (q, "q.bias")
            k = MatMul (x, "k.weight")
            kt = Transpose <perm = [0, 2, 1]> (k)
            s = MatMul (qb, kt)
            p = Softmax <axis = -1> (s)
            v = MatMul (x, "v.weight")
            a = MatMul (p, v)
            l = LayerNormalization <axis = -1> (a, "ln.weight", "ln.bias")
            g = Gelu (l)
            m = ReduceMean <keepdims = 0> (g, one)
            y = MatMul (m, "fc.weight")
        }""",
        q__weight=normal(8, 8, seed=1),
        q__bias=normal(8, seed=2),
        k__weight=normal(8, 8, seed=3),
        v__weight=normal(8, 8, seed=4),
        ln__weight=normal(8, seed=5),
        ln__bias=normal(8, seed=6),
        fc__weight=normal(8, 6, seed=7),
        one=np.array([1]),
    ),
    "channels last": build(
        """net (float[N, 6, 6, 3] x) => (float[N, 4] y) {
            t = Transpose <perm = [0, 3, 1, 2]> (x)
            w = Transpose <perm = [3, 2, 0, 1]> ("a/kernel")
            a = Conv <kernel_shape = [3, 3], strides = [2, 2]> (t, w)
            b = Transpose <perm = [0, 2, 3, 1]> (a)
            c = Add (b, "a/bias")
            d = Sigmoid (c)
            e = ReduceMean <keepdims = 0> (d, middle)
            f = Gemm (e, "fc/kernel", "fc/bias")
            y = Softmax <axis = -1> (f)
        }""",
        **{"a/kernel": normal(3, 3, 3, 8, seed=1), "a/bias": normal(8, seed=2)},
        **{"fc/kernel": normal(8, 4, seed=3), "fc/bias": normal(4, seed=4)},
        middle=np.array([1, 2]),
    ),
    "shared": build(
        """net (float[N, 4, 4, 4] x) => (float[N, 64] y) {
            a = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (x, "w.weight")
            b = Tanh (a)
            c = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (b, "w.weight", "w.bias")
            d = ConvTranspose <kernel_shape = [1, 1]> (c, "t.weight")
            y = Flatten (d)
        }""",
        w__weight=normal(4, 4, 3, 3, seed=1),
        w__bias=normal(4, seed=2),
        t__weight=normal(4, 4, 1, 1, seed=3),
    ),
    "half": build(
        """net (float[N, 6] x) => (float[N, 4] y) {
            h = Cast <to = 10> (x)
            a = Gemm <transB = 1> (h, "a.weight", "a.bias")
            b = Relu (a)
            y = Gemm <transB = 1> (b, "b.weight")
        }""",
        a__weight=normal(20, 6, dtype=np.float16),
        a__bias=normal(20, seed=1, dtype=np.float16),
        b__weight=normal(4, 20, seed=2, dtype=np.float16),
    ),
}  # fmt: skip
MODELS["half"].graph.output[0].type.tensor_type.elem_type = onnx.TensorProto.FLOAT16

#: The batch on the second axis, as in attention. A flip node there would end what the runtime does about the transposes.
WITH_SEQUENCES: dict[str, onnx.ModelProto] = MODELS | {
    "sequence_first": build(
        """net (float[N, 5, 16] x) => (float[N, 4] y) {
            t = Transpose <perm = [1, 0, 2]> (x)
            m = MatMul (t, "in.weight")
            n = Add (m, "in.bias")
            o = MatMul (n, "out.weight")
            b = Transpose <perm = [1, 0, 2]> (o)
            r = Add (b, x)
            s = LayerNormalization (r, "norm.weight", "norm.bias")
            f = Flatten (s)
            y = Gemm <transB = 1> (f, "fc.weight")
        }""",
        in__weight=normal(16, 32, seed=1) / np.float32(4),
        in__bias=normal(32, seed=2),
        out__weight=normal(32, 16, seed=3) / np.float32(5),
        norm__weight=normal(16, seed=4),
        norm__bias=normal(16, seed=5),
        fc__weight=normal(4, 80, seed=6),
    ),
}


class _Dag:
    """A random classifier of images: each step reads values made before it, and adds one."""

    def __init__(self, draw: st.DrawFn) -> None:
        self.draw = draw
        self.nodes: list[onnx.NodeProto] = []
        self.stored: list[onnx.TensorProto] = []
        self.shapes: dict[str, tuple[int, int]] = {}  # value → channels and size

    def pick(self, *choices: Any) -> Any:
        return self.draw(st.sampled_from(choices))

    def weight(self, *shape: int, positive: bool = False) -> str:
        name = f"t{len(self.stored)}.weight"
        values = normal(*shape, seed=len(self.stored)) / np.float32(max(1, np.prod(shape[1:]) ** 0.5))
        self.stored.append(numpy_helper.from_array(np.abs(values) + np.float32(0.5) if positive else values, name))
        return name

    def add(self, op: str, inputs: Sequence[str], channels: int, size: int, **attributes: Any) -> None:
        name = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [name], **attributes))
        self.shapes[name] = channels, size

    def step(self) -> None:
        value = self.pick(*list(self.shapes)[-3:])
        channels, size = self.shapes[value]
        kind = self.pick(
            "conv", "conv", "conv", "depthwise", "grouped", "up", "bn", "bn", "relu", "join", "join", "pool"
        )
        if kind in ("conv", "grouped", "depthwise"):
            self.convolve(kind, value, channels, size)
        elif kind == "up" and size < 8:
            weight = self.weight(channels, out := self.pick(3, 16), 2, 2)
            self.add("ConvTranspose", [value, weight], out, size + 1, kernel_shape=[2, 2])
        elif kind == "bn":
            parameters = [self.weight(channels, positive=i == 3) for i in range(4)]
            self.add("BatchNormalization", [value, *parameters], channels, size)
        elif kind == "join":
            same = [name for name, shape in self.shapes.items() if shape == (channels, size)]
            other = self.pick(*same)
            if self.pick(True, False):
                self.add("Add", [value, other], channels, size)
            elif channels <= 32:
                self.add("Concat", [value, other], 2 * channels, size, axis=1)
        elif kind == "pool" and size > 2:
            pool = self.pick("MaxPool", "AveragePool")
            self.add(pool, [value], channels, size - 1, kernel_shape=[2, 2])
        else:
            self.add(self.pick("Relu", "Relu", "LeakyRelu", "Sigmoid", "HardSwish"), [value], channels, size)

    def convolve(self, kind: str, value: str, channels: int, size: int) -> None:
        group, out = {"conv": (1, self.pick(3, 8, 16, 32)), "depthwise": (channels, channels * self.pick(1, 1, 2))}.get(
            kind, (4 if channels % 4 == 0 else 1, 16)
        )
        shape = (out, channels // group, 3, 3)
        tied = [t.name for t in self.stored if tuple(t.dims) == shape]
        inputs = [value, self.pick(*tied, None) or self.weight(*shape)]
        if self.pick(True, False):
            inputs.append(self.weight(out))
        stride = self.pick(1, 1, 2)
        attributes = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "strides": [stride, stride], "group": group}
        self.add("Conv", inputs, out, (size - 1) // stride + 1, **attributes)

    def model(self) -> onnx.ModelProto:
        channels, size = self.pick(1, 3, 16), self.pick(4, 5)
        self.shapes["x"] = channels, size
        for _ in range(self.draw(st.integers(2, 9))):
            self.step()
        last = list(self.shapes)[-1]
        width, side = self.shapes[last]
        if self.pick(True, False):
            self.add("GlobalAveragePool", [last], width, 1)
            last, side = f"v{len(self.nodes) - 1}", 1
        self.add("Flatten", [last], 0, 0)
        classes = self.pick(4, 20)
        gemm = [f"v{len(self.nodes) - 1}", self.weight(classes, width * side * side), self.weight(classes)]
        self.nodes.append(helper.make_node("Gemm", gemm, ["y"], transB=1))
        value = helper.make_tensor_value_info
        x, y = value("x", 1, ["N", channels, size, size]), value("y", 1, ["N", classes])
        graph = helper.make_graph(self.nodes, "dag", [x], [y], self.stored)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


@st.composite
def dags(draw: st.DrawFn) -> onnx.ModelProto:
    return _Dag(draw).model()
