"""Coverage of a model's stored bits, counted by hand."""

import numpy as np
import onnx

from bitswap_onnx.graph.coverage import NO_TARGET, OUT_OF_REACH, Coverage, LeftOut, coverage
from bitswap_onnx.graph.model import from_proto
from tests.builders import build, normal

BRANCHES = """net (float[N, 4] x) => (float[N, 2] y) {
    a = MatMul (x, "a.weight")
    b = Add (a, "a.bias")
    flag = ReduceMax <keepdims = 0> (b, axes)
    yes = Greater (flag, zero)
    y = If (yes) <
        then_branch = first () => (c) { c = MatMul (b, "c.weight") },
        else_branch = second () => (d) { d = Neg (b) }
    >
}"""


def test_what_is_left_out_is_counted_by_role_and_type() -> None:
    model = from_proto(
        build(
            BRANCHES,
            a__weight=normal(4, 2),
            a__bias=normal(2).astype(np.float32),
            c__weight=normal(2, 2, seed=1),
            axes=np.array([0, 1]),
            zero=np.array(0, np.float32),
        )
    )
    weights = {"a.weight": 8 * 32, "c.weight": 4 * 32}
    rest = {("bias", "float32"): LeftOut("bias", "float32", 1, 2 * 32)}
    rest |= {(NO_TARGET, "int64"): LeftOut(NO_TARGET, "int64", 1, 2 * 64)}
    rest |= {(NO_TARGET, "float32"): LeftOut(NO_TARGET, "float32", 1, 32)}
    stored = 14 * 32 + 2 * 64 + 32
    found = coverage(model, weights)
    assert (found.stored, found.covered) == (stored, 12 * 32)
    assert {(left.role, left.dtype): left for left in found.left_out} == rest
    assert [left.bits for left in found.left_out] == [128, 64, 32]
    half = coverage(model, {"a.weight": 8 * 16})
    assert LeftOut("weight", "float32", 2, 8 * 16 + 4 * 32) in half.left_out
    assert stored == half.covered + sum(left.bits for left in half.left_out)


def test_a_model_that_stores_nothing() -> None:
    model = from_proto(build("net (float[N, 2] x) => (float[N, 2] y) { y = Relu (x) }"))
    assert coverage(model, {}) == Coverage(0, 0, ())


def test_constants_that_are_no_tensors_count() -> None:
    """Numbers in attributes, a sparse initializer, and a constant in the body of a function."""
    proto = build(
        """net (float[N, 2] x) => (float[N, 2] y) {
            a = Constant <value_floats = [1.0, 2.0]> ()
            b = Constant <value_int = 3> ()
            c = Add (x, a)
            y = Relu (c)
        }"""
    )
    values = onnx.numpy_helper.from_array(np.ones(3, np.float32), "s")
    places = onnx.numpy_helper.from_array(np.arange(3), "s_places")
    proto.graph.sparse_initializer.append(onnx.helper.make_sparse_tensor(values, places, [8]))
    tensor = onnx.numpy_helper.from_array(np.ones(5, np.float32))
    constant = onnx.helper.make_node("Constant", [], ["k"], value=tensor)
    opset = [onnx.helper.make_opsetid("", 17)]
    proto.functions.append(onnx.helper.make_function("own", "f", [], ["k"], [constant], opset))
    found = coverage(from_proto(proto), {})
    assert {(left.dtype, left.tensors, left.bits) for left in found.left_out} >= {("int64", 1, 64)}
    assert found.stored == 32 * (2 + 3 + 5) + 64


def test_classical_models_and_odd_types_are_out_of_reach() -> None:
    """Coefficients in attributes of ai.onnx.ml, and a type that no fault hits."""
    classifier = onnx.helper.make_node(
        "LinearClassifier",
        ["x"],
        ["label", "y"],
        domain="ai.onnx.ml",
        coefficients=[1.0] * 6,
        intercepts=[0.0] * 3,
        classlabels_ints=[0, 1, 2],
        multi_class=1,
    )
    proto = build("net (float[N, 2] x) => (float[N, 3] y) { y = Identity (x) }")
    proto.graph.node[0].CopyFrom(classifier)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.ones(5, np.complex64), "c"))
    found = coverage(from_proto(proto), {})
    assert set(found.left_out) == {
        LeftOut(OUT_OF_REACH, "complex64", 1, 5 * 64),
        LeftOut(OUT_OF_REACH, "float32", 2, 9 * 32),
        LeftOut(OUT_OF_REACH, "int64", 1, 3 * 64),
    }
    assert not found.can_grow


def test_shares_round_to_none_and_all_only_where_they_are() -> None:
    some = Coverage(1_000_000, 999_999, (LeftOut("bias", "float32", 1, 1),))
    assert some.line == (
        "population: > 99.99 % of the 1,000,000 bits that the model stores; left out: bias float32 < 0.01 %"
    )
    assert some.text.endswith("; `parameters`, `layers` and `bits` of faults generate, or of `until`, take more in")
    assert Coverage(8, 8, (), "targets").text == "targets: 100.00 % of the 8 bits that the model stores"
