"""Slices: the nodes that see a fault, the cuts of a model, and sub-models that compute the same as the whole."""

from collections.abc import Collection
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

from bitswap_onnx.graph.model import from_proto
from bitswap_onnx.graph.slices import Slicer
from tests.builders import build, cnn, normal

BATCH = 4


def slicer(proto: onnx.ModelProto, output: str = "y") -> Slicer:
    shape = tuple(dim.dim_value for dim in proto.graph.input[0].type.tensor_type.shape.dim)[1:]
    return Slicer(from_proto(proto), output, BATCH, shape)


def computed(proto: onnx.ModelProto, feeds: dict[str, NDArray[Any]], names: Collection[str]) -> list[NDArray[Any]]:
    """Run a model without any optimisation and return some of its values."""
    copy = onnx.ModelProto.FromString(proto.SerializeToString())
    known = {value.name for value in copy.graph.output}
    copy.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in known)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return list(ort.InferenceSession(copy.SerializeToString(), options).run(list(names), feeds))


def assert_cut_is_exact(cut: Slicer, inputs: Collection[str]) -> None:
    """Cut the model at ``inputs``: the parts before and behind the cut together compute what the whole model does."""
    x = {cut.inputs[0]: normal(BATCH, *cut.shape, seed=3)}
    (expected,) = computed(cut.model.proto, x, [cut.output])
    made = [name for name in inputs if name not in x]
    values = x | dict(zip(made, computed(cut.extract(cut.inputs, made).proto, x, made) if made else [], strict=True))
    feeds = {name: values[name] for name in inputs}
    (found,) = computed(cut.extract(inputs, [cut.output]).proto, feeds, [cut.output])
    assert np.array_equal(found, expected)


SKIP = """net (float[N, 6] x) => (float[N, 9] y) {
    a = MatMul (x, A)
    b = Relu (a)
    c = MatMul (b, C)
    d = Add (c, a)
    e = MatMul (x, E)
    y = Concat <axis = 1> (d, e)
}"""


@pytest.fixture
def skip() -> Slicer:
    return slicer(build(SKIP, A=normal(6, 5), C=normal(5, 5, seed=1), E=normal(6, 4, seed=2)))


def test_what_a_model_is_made_of(skip: Slicer) -> None:
    assert skip.inputs == ("x",)
    assert skip.users("C") == (2,)
    assert skip.users("none") == ()
    assert skip.readers["a"] == (1, 3)
    assert skip.producer["d"] == 3
    assert skip.constants == {"A", "C", "E"}
    assert (skip.dims("b"), skip.dims("C")) == ((BATCH, 5), (5, 5))
    assert (skip.row_bytes("y"), skip.dtype("y")) == (36, np.dtype(np.float32))


@pytest.mark.parametrize(
    ("tensor", "cone", "cuts"),
    [("A", {0, 1, 2, 3, 5}, ("e", "x")), ("C", {2, 3, 5}, ("a", "b", "e")), ("E", {4, 5}, ("d", "x"))],
)
def test_cones_end_at_the_output_and_are_cut_beside_it(
    skip: Slicer, tensor: str, cone: set[int], cuts: tuple[str, ...]
) -> None:
    assert skip.cone(skip.users(tensor)) == cone
    assert skip.cuts(cone) == cuts
    assert_cut_is_exact(skip, cuts)


def test_a_stop_is_a_cut(skip: Slicer) -> None:
    """The suffix of a faulty layer reads the layer's output and the golden values that it needs from elsewhere."""
    assert skip.cuts(skip.cone([2]), "c") == ("a", "c", "e")
    assert skip.cuts(skip.cone([0]), "a") == ("a", "e")
    assert skip.cuts(skip.cone([3]), "y") == ("y",)
    assert_cut_is_exact(skip, ("a", "e"))


def test_the_batch_stays_as_open_as_the_model_leaves_it(skip: Slicer) -> None:
    proto = skip.extract(("a", "b", "e"), ("y",)).proto
    assert [value.type.tensor_type.shape.dim[0].dim_param for value in proto.graph.input] == ["N"] * 3
    assert [tensor.name for tensor in proto.graph.initializer] == ["C"]
    assert [node.op_type for node in proto.graph.node] == ["MatMul", "Add", "Concat"]
    onnx.checker.check_model(proto)


def test_a_declaration_with_another_number_of_channels(skip: Slicer) -> None:
    dims = skip.declare("a", "rows", 1, 16).type.tensor_type.shape.dim
    assert (dims[0].dim_param, dims[1].dim_value) == ("N", 16)
    assert not skip.declare("unheard of", "b").HasField("type")


@pytest.mark.parametrize("layer", range(5))
def test_every_layer_of_a_network(layer: int) -> None:
    whole = slicer(cnn(), "scores")
    cuts = whole.cuts(whole.cone([layer]))
    assert cuts == (("x", "a", "b", "c", "d")[layer],)
    assert_cut_is_exact(whole, cuts)


def test_several_outputs() -> None:
    """Only nodes that lead to the scores count; other outputs change nothing."""
    text = """net (float[N, 3] x) => (float[N, 2] y, float[N, 4] z) {
        a = Relu (x)
        y = MatMul (a, W)
        z = MatMul (a, V)
    }"""
    proto = build(text, W=normal(3, 2), V=normal(3, 4))
    first, second = slicer(proto), slicer(proto, "z")
    assert first.cuts(first.cone(first.users("V"))) is None
    assert first.cuts(first.cone(first.users("W"))) == ("a",)
    assert second.cuts(second.cone(second.users("V"))) == ("a",)
    assert [node.output[0] for node in first.extract(("x",), ("y",)).proto.graph.node] == ["a", "y"]
    assert_cut_is_exact(second, ("a",))


def test_an_unused_tensor_reaches_nothing() -> None:
    lonely = slicer(build("net (float[N, 3] x) => (float[N, 3] y) { y = Relu (x) }", W=normal(3)))
    assert lonely.cuts(lonely.cone(lonely.users("W"))) is None


IF = """net (float[N, 3] x) => (float[N, 3] y) {
    a = Relu (x)
    b = MatMul (x, B)
    c = If (yes) <
        then_branch = one () => (float[N, 3] p) { k = Constant <value = float[3] {1.0, 2.0, 3.0}> ()
            q = Mul (a, k)
            p = MatMul (q, T) },
        else_branch = two () => (float[N, 3] r) { r = Neg (b) }
    >
    y = Add (c, x)
}"""


@pytest.mark.parametrize("condition", [True, False])
def test_bodies_capture_values_of_the_outer_graph(condition: bool) -> None:
    outer = slicer(build(IF, yes=np.bool_(condition), T=normal(3, 3), B=normal(3, 3, seed=1)))
    assert set(outer.reads[2]) == {"yes", "a", "b", "T"}
    assert outer.users("T") == (2,)
    assert outer.users("c/then_branch::k") == (2,)
    assert outer.cone(outer.users("B")) == {1, 2, 3}
    assert outer.cuts(outer.cone(outer.users("B"))) == ("a", "x")
    assert outer.cuts(outer.cone([2])) == ("a", "b", "x")
    assert_cut_is_exact(outer, ("a", "x"))
    assert_cut_is_exact(outer, ("a", "b", "x"))


def test_a_name_that_a_body_makes_is_not_captured() -> None:
    """Inside the body, ``k`` and ``q`` are values of the body, not those of the outer graph with the same names."""
    inner = slicer(build(IF.replace("Neg (b)", "Neg (a)"), yes=np.bool_(True), T=normal(3, 3), B=normal(3, 3)))
    assert not {"k", "q", "p", "r"} & set(inner.reads[2])
    assert inner.cuts(inner.cone(inner.users("B"))) is None


SHAPES = """net (float[N, 2, 3] x) => (float[N, 6] y) {
    a = Relu (x)
    s = Shape (a)
    n = Gather (s, zero)
    t = Concat <axis = 0> (n, rest)
    b = Exp (a)
    c = Reshape (b, t)
    y = Mul (c, W)
}"""


def test_values_without_a_row_per_input_are_computed_again() -> None:
    shaped = slicer(build(SHAPES, zero=np.array([0]), rest=np.array([-1]), W=normal(6)))
    assert not shaped.has_rows("s")
    assert not shaped.has_rows("t")
    cuts = shaped.cuts(shaped.cone([5]))
    assert cuts == ("a", "b")
    assert_cut_is_exact(shaped, cuts)


def test_constants_are_what_depends_on_no_input() -> None:
    text = """net (float[N, 3] x) => (float[N, 3] y) {
        k = Constant <value = float[3] {1.0, 2.0, 3.0}> ()
        t = Mul (k, W)
        noise = RandomNormal <shape = [3]> ()
        a = Add (x, t)
        y = Add (a, noise)
    }"""
    mixed = slicer(build(text, W=normal(3)))
    assert mixed.constants == {"k", "t", "W"}
    assert not mixed.has_rows("t")
    assert mixed.cuts(mixed.cone(mixed.users("W"))) == ("x",)
    assert [node.output[0] for node in mixed.extract(("x",), ("a",)).proto.graph.node] == ["k", "t", "a"]


def test_a_constant_as_long_as_the_batch_has_no_rows() -> None:
    same = slicer(
        build("net (float[N, 3] x) => (float[N, 3] y) {\n a = Neg (W)\n y = Add (x, a) }", W=normal(BATCH, 3))
    )
    assert same.dims("a") == (BATCH, 3)
    assert not same.has_rows("a")
    assert same.has_rows("x")


def test_initializers_that_are_inputs_too() -> None:
    """In old files every initializer is also an input with a default; a rewritten tensor must be the one that runs."""
    proto = build("net (float[N, 3] x) => (float[N, 2] y) {\n a = Relu (x)\n y = MatMul (a, W) }", W=normal(3, 2))
    proto.graph.input.append(onnx.helper.make_tensor_value_info("W", onnx.TensorProto.FLOAT, [3, 2]))
    old = slicer(proto)
    assert old.inputs == ("x",)
    assert old.cuts(old.cone(old.users("W"))) == ("a",)
    part = old.extract(("a",), ("y",)).proto
    assert [value.name for value in part.graph.input] == ["a", "W"]
    assert [tensor.name for tensor in part.graph.initializer] == ["W"]
    assert_cut_is_exact(old, ("a",))


def test_declared_shapes_of_one_batch_do_not_stop_another() -> None:
    """Exporters may write the batch size of their example input into the file's value_info."""
    proto = build(SKIP, A=normal(6, 5), C=normal(5, 5), E=normal(6, 4))
    proto.graph.value_info.append(onnx.helper.make_tensor_value_info("a", onnx.TensorProto.FLOAT, [1, 5]))
    assert slicer(proto).dims("a") == (BATCH, 5)
