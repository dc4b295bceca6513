"""Flip nodes with constant faults, and flip nodes whose value a branch of If reads."""

import numpy as np
import pytest

from bitswap_onnx.faults.bits import FORMATS
from bitswap_onnx.faults.fault import Kind
from bitswap_onnx.graph.edits import ALL_INPUTS, NeuronEdit
from bitswap_onnx.graph.model import from_proto
from bitswap_onnx.graph.neurons import bake, by_input, flips, instrument, operation
from tests.builders import build
from tests.graph.moving_models import PLACES, moving, patterns, run, session, site_of

CAPTURED = """net (float[N, 4] x) => (float[N, 4] y) {
    a = Neg (x)
    s = ReduceMax <keepdims = 0> (a)
    c = Greater (s, hundred)
    b = If (c) <
        then_branch = t () => (float[N, 4] o) { o = Neg (a) },
        else_branch = e () => (float[N, 4] q) { p = Add (a, x)
            q = Identity (p) }
    >
    y = Neg (b)
}"""


@pytest.mark.parametrize("opset", [13, 20, 26])
def test_what_a_branch_captures_is_faulty_there(opset: int) -> None:
    ir_version = 13 if opset == 26 else 8
    model = from_proto(build(CAPTURED, opset, ir_version, hundred=np.float32(100)))
    x = np.ones((2, 4), np.float32)
    cases = {"@output:x": [[0, 0, 0, 0]] * 2, "@output:a": [[0, 0, 0, 0], [0, -2, 0, 0]]}
    for key, expected in cases.items():
        site = site_of(model, key, (4,), 2)
        changes = flips(by_input([NeuronEdit(1, 1, *operation(Kind.FLIP, 31, site.format))]), range(2), site)
        found = run(session(instrument(model, [site])), x, **changes.feeds(site))
        assert np.array_equal(found, expected), key
        baked = bake(model, {key: [NeuronEdit(1, 1, *operation(Kind.FLIP, 31, site.format))]}, {key: site})
        assert np.array_equal(run(session(baked), x), expected), key


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", ["float16", "float32", "float64", "int8", "uint8", "int64"])
def test_a_baked_model_is_right_at_every_batch_size(name: str, place: str) -> None:
    """A fault of input 3 is absent from a batch of three; a fault of all inputs is in every row."""
    fmt = FORMATS[name]
    row = patterns(fmt)
    model = moving(fmt, len(row))
    site = site_of(model, place, (len(row),))
    edits = [
        NeuronEdit(3, 4, *operation(Kind.FLIP, fmt.width - 1, fmt)),
        NeuronEdit(ALL_INPUTS, 0, *operation(Kind.MASK, 5, fmt)),
        NeuronEdit(0, 4, *operation(Kind.SET, 3, fmt)),
        NeuronEdit(3, 4, *operation(Kind.STUCK_AT_0, 0, fmt)),
        NeuronEdit(ALL_INPUTS, 1, *operation(Kind.STUCK_AT_1, 1, fmt)),
    ]
    handle = session(bake(model, {site.key: edits}, {site.key: site}))
    for count in (1, 3, 4, 6):
        expected = np.tile(row, (count, 1))
        expected[:, 0] ^= fmt.view.type(5)
        expected[:, 1] |= fmt.view.type(2)
        expected[0, 4] = 3
        if count > 3:
            expected[3, 4] = (expected[3, 4] ^ fmt.view.type(1 << (fmt.width - 1))) & fmt.view.type(
                (1 << fmt.width) - 2
            )
        found = run(handle, np.tile(row, (count, 1)).view(fmt.dtype))
        assert found.tobytes() == expected.tobytes(), count
