"""Stretches: rows of a built stretch equal channels of the whole faulty model; nodes that mix channels end it."""

from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

from bitswap_onnx.graph.edits import WeightEdit
from bitswap_onnx.graph.model import Model, from_proto
from bitswap_onnx.graph.slices import Slicer
from bitswap_onnx.graph.stretches import ChannelwiseStretch, Feed, StretchRow, find_stretch
from bitswap_onnx.graph.weights import rewrite
from tests.builders import build, normal

BATCH = 16  # rows that fill vectors, so that every operator may be part of a stretch


def slicer(proto: onnx.ModelProto) -> Slicer:
    shape = tuple(dim.dim_value for dim in proto.graph.input[0].type.tensor_type.shape.dim)[1:]
    return Slicer(from_proto(proto), proto.graph.output[0].name, BATCH, shape)


def stretch_of(proto: onnx.ModelProto, tensor: str) -> ChannelwiseStretch:
    stretch = find_stretch(slicer(proto), tensor)
    assert stretch is not None
    return stretch


def values(model: Model, feeds: dict[str, NDArray[Any]], names: tuple[str, ...]) -> dict[str, NDArray[Any]]:
    """Run a model without any optimisation and return some of its values."""
    copy = onnx.ModelProto.FromString(model.proto.SerializeToString())
    del copy.graph.output[:]
    copy.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in feeds)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    asked = [value.name for value in copy.graph.output]
    found = ort.InferenceSession(copy.SerializeToString(), options).run(asked, feeds) if asked else []
    return feeds | dict(zip(asked, found, strict=True))


def images(channels: int = 4, size: int = 6) -> str:
    return f"net (float[N, {channels}, {size}, {size}] x) => (float[N, K] y)"


CONV = f"""{images()} {{
    a = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1] ATTRIBUTES> (x, "c.weight" BIAS)
    b = Relu (a)
    y = Flatten (b)
}}"""


def convolution(attributes: str, *shape: int, bias: bool = False) -> onnx.ModelProto:
    text = CONV.replace("ATTRIBUTES", attributes).replace("BIAS", ', "c.bias"' if bias else "")
    return build(text, c__weight=normal(*shape), **({"c__bias": normal(shape[0], seed=1)} if bias else {}))


GEMM = """net (float[N, 5] x) => (float[N, 7] y) {
    a = Gemm <alpha = 0.5, beta = 2.0, transB = TRANS> (x, "w.weight", "w.bias")
    y = Sigmoid (a)
}"""

NORM = f"""{images()} {{
    a = Conv <kernel_shape = [3, 3]> (x, "c.weight")
    b = BatchNormalization (a, "n.weight", "n.bias", "n.mean", "n.var")
    c = PRelu (b, "p.weight")
    d = AveragePool <kernel_shape = [2, 2]> (c)
    y = Flatten (d)
}}"""


def normalised() -> onnx.ModelProto:
    return build(
        NORM,
        c__weight=normal(6, 4, 3, 3),
        n__weight=normal(6, seed=1),
        n__bias=normal(6, seed=2),
        n__mean=normal(6, seed=3),
        n__var=np.abs(normal(6, seed=4)) + np.float32(0.5),
        p__weight=normal(6, 1, 1, seed=5),
    )


KERAS = """net (float[N, 6, 6, 4] x) => (float[N, K] y) {
    t = Transpose <perm = [0, 3, 1, 2]> (x)
    w = Transpose <perm = [3, 2, 0, 1]> ("c/kernel")
    a = Conv <kernel_shape = [3, 3]> (t, w)
    b = Transpose <perm = [0, 2, 3, 1]> (a)
    c = Add (b, "c/bias")
    d = Mul ("c/gamma", c)
    e = Tanh (d)
    y = Flatten (e)
}"""


def channels_last() -> onnx.ModelProto:
    kernel = normal(3, 3, 4, 5)
    stored: dict[str, Any] = {"c/kernel": kernel, "c/bias": normal(5, seed=1), "c/gamma": normal(1, 1, 1, 5, seed=2)}
    return build(KERAS, **stored)


CASES: dict[str, tuple[onnx.ModelProto, str, str]] = {
    # model, faulty tensor, the value that comes out of its stretch
    "conv": (convolution("", 7, 4, 3, 3), "c.weight", "b"),
    "conv weight beside a bias": (convolution("", 7, 4, 3, 3, bias=True), "c.weight", "b"),
    "conv bias": (convolution("", 7, 4, 3, 3, bias=True), "c.bias", "b"),
    "strided": (convolution(", strides = [2, 2]", 7, 4, 3, 3), "c.weight", "b"),
    "grouped": (convolution(", group = 2", 6, 2, 3, 3, bias=True), "c.weight", "b"),
    "depthwise": (convolution(", group = 4", 4, 1, 3, 3, bias=True), "c.weight", "b"),
    "channel multiplier": (convolution(", group = 4", 8, 1, 3, 3, bias=True), "c.weight", "b"),
    "channel multiplier, bias": (convolution(", group = 4", 8, 1, 3, 3, bias=True), "c.bias", "b"),
    "transposed": (
        build(
            f"""{images()} {{
                a = ConvTranspose <kernel_shape = [2, 2], strides = [2, 2]> (x, "c.weight", "c.bias")
                b = HardSwish (a)
                y = Flatten (b)
            }}""",
            c__weight=normal(4, 5, 2, 2),
            c__bias=normal(5, seed=1),
        ),
        "c.weight",
        "b",
    ),
    "gemm": (build(GEMM.replace("TRANS", "0"), w__weight=normal(5, 7), w__bias=normal(7)), "w.weight", "y"),
    "gemm, transposed": (build(GEMM.replace("TRANS", "1"), w__weight=normal(7, 5), w__bias=normal(7)), "w.weight", "y"),
    "gemm bias": (build(GEMM.replace("TRANS", "1"), w__weight=normal(7, 5), w__bias=normal(1, 7)), "w.bias", "y"),
    "matmul": (
        build(
            """net (float[N, 3, 5] x) => (float[N, 3, 6] y) {
                a = MatMul (x, "w.weight")
                b = Add ("w.bias", a)
                y = Gelu (b)
            }""",
            w__weight=normal(5, 6),
            w__bias=normal(6, seed=1),
        ),
        "w.weight",
        "y",
    ),
    "kernel behind a transpose": (channels_last(), "c/kernel", "e"),
    "bias, channels last": (channels_last(), "c/bias", "e"),
    "scale, channels last": (channels_last(), "c/gamma", "e"),
    "the running variance": (normalised(), "n.var", "d"),
    "the scale of a batch norm": (normalised(), "n.weight", "d"),
    "the slope of a prelu": (normalised(), "p.weight", "d"),
    "the conv before them": (normalised(), "c.weight", "d"),
    "a batch norm alone": (
        build(
            f"""{images()} {{
                a = BatchNormalization (x, "n.weight", "n.bias", "n.mean", "n.var")
                y = Flatten (a)
            }}""",
            n__weight=normal(4, seed=1),
            n__bias=normal(4, seed=2),
            n__mean=normal(4, seed=3),
            n__var=np.abs(normal(4, seed=4)) + np.float32(0.5),
        ),
        "n.bias",
        "a",
    ),
    "a skip into the stretch": (
        build(
            f"""{images()} {{
                a = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (x, "c.weight")
                b = Add (x, a)
                m = GlobalAveragePool (x)
                c = Mul (b, m)
                e = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1], group = 4> (c, "d.weight")
                y = Flatten (e)
            }}""",
            c__weight=normal(4, 4, 3, 3),
            d__weight=normal(4, 1, 3, 3, seed=1),
        ),
        "c.weight",
        "e",
    ),
    "a kernel in a Constant node": (
        build(
            """net (float[N, 2] x) => (float[N, 3] y) {
                w = Constant <value = float[2, 3] {1.0, 2.0, 3.0, 4.0, 5.0, 6.0}> ()
                y = MatMul (x, w)
            }"""
        ),
        "w",
        "y",
    ),
    "padded, clipped, pooled": (
        build(
            f"""{images()} {{
                a = Conv <kernel_shape = [3, 3]> (x, "c.weight")
                b = Pad (a, around)
                c = Clip (b, zero, six)
                d = GlobalAveragePool (c)
                y = Flatten (d)
            }}""",
            c__weight=normal(5, 4, 3, 3),
            around=np.array([0, 0, 1, 1, 0, 0, 1, 1]),
            zero=np.float32(0),
            six=np.float32(6),
        ),
        "c.weight",
        "d",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_rows_are_channels_of_the_faulty_model(name: str) -> None:
    """Channels in any order, some twice, every row with another fault or none."""
    proto, tensor, value = CASES[name]
    stretch = stretch_of(proto, tensor)
    assert stretch.value == value
    draw = np.random.default_rng(0)
    model = stretch.slicer.model
    rows = []
    for _ in range(9):
        element, mask = int(draw.integers(model.tensor(tensor).size)), 1 << int(draw.integers(20, 30))
        rows.append(StretchRow(stretch.channel(tensor, element), {tensor: [WeightEdit(element, mask)]}))
    rows[4] = StretchRow(stretch.channels - 1, {})
    assert {row.channel for row in rows} <= set(range(stretch.channels))
    x = {stretch.slicer.inputs[0]: normal(BATCH, *stretch.slicer.shape, seed=7)}
    golden = values(model, x, tuple({feed.value for feed in stretch.feeds}))
    feeds = {
        feed.name: golden[feed.value]
        if feed.axis is None
        else golden[feed.value].take(feed.channels(rows), feed.axis)
        for feed in stretch.feeds
    }  # fmt: skip
    built = stretch.build(rows)
    onnx.checker.check_model(built.proto)
    found = np.moveaxis(values(built, feeds, (value,))[value], stretch.axis, 1)
    for number, row in enumerate(rows):
        faulty = values(rewrite(model, row.edits), x, (value,))[value]
        expected = np.moveaxis(faulty, stretch.axis, 1)[:, row.channel]
        np.testing.assert_allclose(found[:, number], expected, rtol=1e-5, atol=1e-6, err_msg=f"row {number}")


@pytest.mark.parametrize("name", CASES)
def test_a_fault_stays_in_the_channel_of_its_element(name: str) -> None:
    """A flip of the top exponent bit changes that channel of the stretch's value, and no other."""
    proto, tensor, value = CASES[name]
    stretch = stretch_of(proto, tensor)
    x = {stretch.slicer.inputs[0]: normal(BATCH, *stretch.slicer.shape, seed=7)}
    clean = values(stretch.slicer.model, x, (value,))[value]
    size = stretch.slicer.model.tensor(tensor).size
    for element in {0, 1, size // 2, size - 1}:
        faulty = values(rewrite(stretch.slicer.model, {tensor: [WeightEdit(element, 1 << 30)]}), x, (value,))[value]
        differs = np.moveaxis(faulty.view(np.uint32) != clean.view(np.uint32), stretch.axis, 0).reshape(
            stretch.channels, -1
        )
        assert np.flatnonzero(differs.any(axis=1)).tolist() == [stretch.channel(tensor, element)]


def test_the_model_is_not_changed() -> None:
    proto, tensor, _ = CASES["grouped"]
    before = proto.SerializeToString(deterministic=True)
    stretch_of(proto, tensor).build([StretchRow(0, {tensor: [WeightEdit(0, 1)]}), StretchRow(5, {})])
    assert proto.SerializeToString(deterministic=True) == before


def test_what_a_row_of_a_group_reads() -> None:
    rows = [StretchRow(5, {}), StretchRow(0, {}), StretchRow(3, {})]
    (feed,) = stretch_of(*CASES["grouped"][:2]).feeds
    assert feed.channels(rows).tolist() == [2, 3, 0, 1, 2, 3]
    (feed,) = stretch_of(*CASES["channel multiplier"][:2]).feeds
    assert feed.channels(rows).tolist() == [2, 0, 1]
    assert stretch_of(*CASES["conv"][:2]).feeds == (Feed("whole::x", "x"),)


def test_a_stretch_begins_at_the_layer_that_makes_the_channels() -> None:
    """Nodes that the runtime may fuse with a batch norm stay together."""
    for tensor in ("c.weight", "n.mean", "p.weight"):
        assert stretch_of(normalised(), tensor).start == 0
    assert stretch_of(*CASES["depthwise"][:2]).start == 0


TWICE = f"""{images(4)} {{
    a = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (x, "c.weight")
    b = Relu (a)
    c = Sigmoid (b)
    d = Mul (b, c)
    y = Flatten (d)
}}"""


def test_a_value_that_is_read_twice_ends_a_stretch() -> None:
    assert stretch_of(build(TWICE, c__weight=normal(4, 4, 3, 3)), "c.weight").value == "b"


def test_the_score_output_ends_a_stretch() -> None:
    text = "net (float[N, 3] x) => (float[N, 4] y, float[N, 4] z) {\n y = MatMul (x, W)\n z = Relu (y)\n}"
    assert stretch_of(build(text, W=normal(3, 4)), "W").value == "y"


@pytest.mark.parametrize(
    ("body", "end"),
    [
        ("b = Softmax <axis = 1> (a)\n y = Relu (b)", "a"),
        ("b = Relu (a)\n c = Concat <axis = 1> (b, b)\n y = Relu (c)", "b"),
        ("b = MatMul (a, V)\n y = Relu (b)", "a"),
        ("b = Add (a, a)\n y = Relu (b)", "a"),
        ("b = Transpose <perm = [1, 0]> (a)\n c = Relu (b)\n y = Transpose <perm = [1, 0]> (c)", "a"),
    ],
)
def test_what_mixes_channels_ends_a_stretch(body: str, end: str) -> None:
    text = f"net (float[N, 3] x) => (float[N, K] y) {{\n a = MatMul (x, W)\n {body}\n}}"
    assert stretch_of(build(text, W=normal(3, 4), V=normal(4, 4)), "W").value == end


WITHOUT_STRETCH: dict[str, tuple[str, dict[str, Any]]] = {
    "tied weights": ("a = MatMul (x, W)\n y = MatMul (a, W)", {"W": normal(4, 4)}),
    "a weight used twice in one node": (
        "a = MatMul (x, U)\n y = Gemm (a, W, W)",
        {"U": normal(4, 4), "W": normal(4, 4)},
    ),
    "a bias that is used twice": ("a = Add (x, W)\n y = Add (a, W)", {"W": normal(4)}),
    "a weight on the left": (
        "t = Transpose <perm = [1, 0]> (x)\n a = MatMul (W, t)\n y = Transpose <perm = [1, 0]> (a)",
        {"W": normal(4, 4)},
    ),
    "weights that are computed": ("w = Neg (W)\n y = MatMul (x, w)", {"W": normal(4, 4)}),
    "a layer norm": ("y = LayerNormalization (x, W)", {"W": normal(4)}),
    "a scalar": ("y = Mul (x, W)", {"W": normal(1)}),
    "a scalar bias of Gemm": ("y = Gemm (x, V, W)", {"V": normal(4, 4), "W": normal(1)}),
    "a matrix as bias of Gemm": ("y = Gemm (x, V, W)", {"V": normal(4, 4), "W": normal(BATCH, 4)}),
    "no user": ("y = Relu (x)", {"W": normal(4)}),
    "weights in a body": (
        """y = If (yes) <
            then_branch = one () => (float[N, 4] p) { p = MatMul (x, W) },
            else_branch = two () => (float[N, 4] q) { q = Relu (x) }
        >""",
        {"W": normal(4, 4), "yes": np.bool_(True)},
    ),
}


@pytest.mark.parametrize("name", WITHOUT_STRETCH)
def test_faults_that_reach_more_than_a_channel_have_no_stretch(name: str) -> None:
    body, tensors = WITHOUT_STRETCH[name]
    proto = build(f"net (float[N, 4] x) => (float[N, 4] y) {{\n {body}\n}}", **tensors)
    assert find_stretch(slicer(proto), "W") is None


def test_a_constant_of_a_body_has_no_stretch() -> None:
    text = """net (float[N, 2] x) => (float[N, 2] y) {
        y = If (yes) <
            then_branch = one () => (float[N, 2] p) { k = Constant <value = float[2] {1.0, 2.0}> ()
                p = Mul (x, k) },
            else_branch = two () => (float[N, 2] q) { q = Relu (x) }
        >
    }"""
    assert find_stretch(slicer(build(text, yes=np.bool_(True))), "y/then_branch::k") is None


def test_a_product_of_activations_is_no_layer() -> None:
    """The keys and queries of an attention have stretches; their product has none."""
    text = """net (float[N, 3, 4] x) => (float[N, 3, 3] y) {
        q = MatMul (x, Q)
        k = MatMul (x, K)
        t = Transpose <perm = [0, 2, 1]> (k)
        y = MatMul (q, t)
    }"""
    proto = build(text, Q=normal(4, 5), K=normal(4, 5, seed=1))
    assert (stretch_of(proto, "Q").value, stretch_of(proto, "K").value) == ("q", "t")
    assert stretch_of(proto, "K").axis == 1
