"""Targets behind computations of stored tensors. Expectations are written by hand for each model."""

import numpy as np
import onnx

from bitswap_onnx.graph.model import from_proto
from bitswap_onnx.graph.targets import find_targets
from tests.builders import build, normal


def roles_of(proto: onnx.ModelProto) -> dict[str, str]:
    return {target.tensor: target.role for target in find_targets(from_proto(proto))}


def test_kernels_behind_computations_are_weights_and_their_norms_are_not() -> None:
    """A weight norm, g · v / |v|; a spectral norm, w / (u · w v), whose u and v are buffers; a sum of two kernels."""
    proto = build(
        """net (float[N, 4] x) => (float[N, 4] y) {
            norm = ReduceL2 <keepdims = 1> ("a.v", one)
            scale = Div ("a.g", norm)
            kernel = Mul ("a.v", scale)
            p = MatMul (x, kernel)
            wv = MatMul ("b.w", "b.v")
            sigma = MatMul ("b.u", wv)
            divided = Div ("b.w", sigma)
            q = MatMul (p, divided)
            low = MatMul ("c.up", "c.down")
            both = Add ("c.weight", low)
            y = MatMul (q, both)
        }""",
        a__v=normal(4, 4),
        a__g=normal(1, 4),
        one=np.array([0], np.int64),
        b__w=normal(4, 4),
        b__u=normal(4),
        b__v=normal(4),
        c__weight=normal(4, 4),
        c__up=normal(4, 1),
        c__down=normal(1, 4),
    )
    roles = roles_of(proto)
    assert {key for key, role in roles.items() if role == "weight"} == {
        "a.v", "a.g", "b.w", "c.weight", "c.up", "c.down",
    }  # fmt: skip
    assert {key for key, role in roles.items() if role == "parameter"} == {"b.u", "b.v"}


def test_quantised_kernels_behind_arithmetic_and_tables_of_codes() -> None:
    """(w - zero) · scale written with Cast, Sub and Mul; a table of int8 codes; codes that are added; plain integers."""
    proto = build(
        """net (float[N, 4] x, int64[N] ids) => (float[N, 4] y) {
            code = Cast <to = 1> ("fc.codes")
            zero = Cast <to = 1> ("fc.zero")
            shifted = Sub (code, zero)
            kernel = Mul (shifted, "fc.scale")
            a = MatMul (x, kernel)
            rows = Gather ("embed.codes", ids)
            e = DequantizeLinear (rows, "embed.scale", "embed.zero")
            s = Gather ("sizes", ids)
            t = Cast <to = 1> (s)
            p = DequantizeLinear ("position.codes", "position.scale")
            c = Add (a, p)
            b = Add (c, e)
            y = PRelu (b, val_7)
        }""",
        fc__codes=np.ones((4, 4), np.int8),
        fc__zero=np.ones(4, np.int8),
        fc__scale=normal(4),
        embed__codes=np.ones((5, 4), np.int8),
        embed__scale=np.float32(0.5),
        embed__zero=np.int8(0),
        position__codes=np.ones((1, 4), np.int8),
        position__scale=np.float32(0.5),
        sizes=np.ones((5, 4), np.int64),
        val_7=np.array([0.25], np.float32),
    )
    assert roles_of(proto) == {
        "fc.codes": "weight",
        "fc.zero": "zero_point",
        "fc.scale": "scale",
        "embed.codes": "weight",
        "embed.scale": "scale",
        "embed.zero": "zero_point",
        "position.codes": "parameter",
        "position.scale": "scale",
        "val_7": "slope",
    }


LOOP = """net (float[N, 4] x) => (float[N, 4] y) {
    start = Identity (x)
    y, k, b = Loop (trips, true, start, "cell.kernel", "cell.state") <body = step
        (int64 i, bool go, float[N, 4] h, float[4, 4] inner, float[4] changing)
        => (bool on, float[N, 4] out, float[4, 4] same, float[4] changed) {
        on = Identity (go)
        product = MatMul (h, inner)
        shifted = Add (product, changing)
        out = Tanh (shifted)
        same = Identity (inner)
        changed = Neg (changing)
    }>
}"""

SCAN = """net (float[3, 4] x) => (float[3, 4] y) {
    last, y = Scan <num_scan_inputs = 2, body = step
        (float[4] h, float[4] row, float[4, 4] kernel) => (float[4] next, float[4] out) {
        product = MatMul (row, kernel)
        next = Add (h, product)
        out = Identity (next)
    }> ("first", x, "cell.kernels")
}"""


def test_kernels_that_a_loop_hands_on_unchanged_are_weights() -> None:
    """The state that changes from run to run is another number in each, so its initial value is a parameter."""
    proto = build(
        LOOP,
        trips=np.array(3),
        true=np.array(True),
        cell__kernel=normal(4, 4),
        cell__state=normal(4),
    )
    onnx.checker.check_model(proto)
    assert roles_of(proto) == {"cell.kernel": "weight", "cell.state": "parameter"}


def test_slices_of_a_scan_are_what_its_body_does_with_them() -> None:
    proto = build(SCAN, first=normal(4), cell__kernels=normal(3, 4, 4))
    onnx.checker.check_model(proto, full_check=True)
    assert roles_of(proto)["cell.kernels"] == "weight"
