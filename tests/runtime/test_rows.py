"""Which models must run one input at a time: held against batches and loops of plain ONNX Runtime."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

from bitswap_onnx.campaign.options import RunOptions
from bitswap_onnx.campaign.run import run_campaign
from bitswap_onnx.campaign.settings import Settings
from bitswap_onnx.campaign.setup import prepare
from bitswap_onnx.errors import ModelError
from bitswap_onnx.faults.fault import Fault, Injection
from bitswap_onnx.graph.model import from_proto
from bitswap_onnx.graph.operators import OPERATORS
from bitswap_onnx.graph.row_rules import ROW_RULES
from bitswap_onnx.runtime.measure import why_one_at_a_time
from tests.builders import build, normal, save

TABLE = normal(9, 4)
SQUARE = normal(4, 4, seed=1)

#: Graphs of x (N, 4) → y (N, 4) in which a row sees its own input alone.
APART = {
    "dense": "y = MatMul (x, W)",
    "axes moved and moved back": """
        a = Transpose <perm = [1, 0]> (x)
        b = Mul (a, column)
        y = Transpose <perm = [1, 0]> (b)""",
    "shape read for a reshape": """
        s = Shape (x)
        f = Reshape (x, flat)
        g = Relu (f)
        y = Reshape (g, s)""",
    "rows taken apart and joined": """
        a = Reshape (x, pieces)
        b = Softmax <axis = -1> (a)
        c = MatMul (b, V)
        y = Reshape (c, fours)""",
    "attention": """
        t = Reshape (x, tokens)
        k = Transpose <perm = [0, 2, 1]> (t)
        q = MatMul (t, k)
        p = Softmax <axis = -1> (q)
        o = MatMul (p, t)
        y = Reshape (o, fours)""",
    "a number of the type of another value": """
        s = Shape <start = 1, end = 2> (x)
        c = CastLike (s, x)
        r = Sqrt (c)
        y = Mul (x, r)""",
    "a class token and stored positions": """
        t = Reshape (x, tokens)
        n = Shape <start = 0, end = 1> (x)
        s = Concat <axis = 0> (n, token_shape)
        c = Expand (token, s)
        j = Concat <axis = 1> (c, t)
        p = Add (j, positions)
        l = Reshape (p, six)
        y = MatMul (l, V6)""",
    "recurrent": """
        t = Reshape (x, tokens)
        s = Transpose <perm = [1, 0, 2]> (t)
        h, state = RNN <hidden_size = 4> (s, W1, R1)
        y = Squeeze (state, zero)""",
    "recurrent, of which the last state alone is used": """
        t = Reshape (x, tokens)
        s = Transpose <perm = [1, 0, 2]> (t)
        , state = RNN <hidden_size = 4> (s, W1, R1)
        y = Squeeze (state, zero)""",
    "an embedding": """
        i = Cast <to = 7> (x)
        j = Abs (i)
        k = Mod (j, nine)
        e = Gather (T, k)
        y = ReduceMean <keepdims = 0> (e, one)""",
    "a branch that is always taken": """
        y = If (yes) <
            then_branch = g1 () => (float[N, 4] a) { a = Relu (x) },
            else_branch = g2 () => (float[N, 4] b) { m = ReduceSum <keepdims = 1> (x, zero)  b = Add (x, m) }
        >""",
    "a constant as long as the batch": """
        s = Shape <start = 0, end = 1> (x)
        c = ConstantOfShape (s)
        d = Unsqueeze (c, one)
        y = Add (x, d)""",
    "zeros around": """
        p = Pad (x, around)
        s = ReduceSum <keepdims = 1> (p, one)
        y = Add (x, s)""",
    "an equation": 'y = Einsum <equation = "ni,ij->nj"> (x, W)',
    "chosen elements": """
        i = ArgMax <axis = 1> (x)
        g = GatherElements <axis = 1> (x, i)
        y = Add (x, g)""",
}

#: Graphs in which it sees more.
TOGETHER = {
    "a sum over the batch": "m = ReduceSum <keepdims = 1> (x, zero)  y = Sub (x, m)",
    "softmax over the batch": "y = Softmax <axis = 0> (x)",
    "a scale of the whole batch": """
        q, s, z = DynamicQuantizeLinear (x)
        y = DequantizeLinear (q, s, z)""",
    "batch-norm in training mode": """
        y, m, v = BatchNormalization <training_mode = 1> (x, four, four, four, four)""",
    "how many inputs there are": """
        s = Shape <start = 0, end = 1> (x)
        f = Cast <to = 1> (s)
        y = Mul (x, f)""",
    "a condition on all inputs": """
        m = ReduceSum <keepdims = 0> (x)
        c = Greater (m, large)
        y = If (c) <
            then_branch = g1 () => (float[N, 4] a) { a = Neg (x) },
            else_branch = g2 () => (float[N, 4] b) { b = Relu (x) }
        >""",
    "inputs in another order": "y = Slice (x, last, first, zero, back)",
    "inputs times each other": """
        t = Transpose <perm = [1, 0]> (x)
        g = MatMul (x, t)
        y = MatMul (g, x)""",
    "where others say": """
        m = ReduceSum <keepdims = 0> (x, zero)
        i = ArgMax <axis = 0, keepdims = 1> (m)
        c = Concat <axis = 1> (x, x)
        j = Add (i, fours_one)
        y = Slice (c, i, j, one)""",
    "one row over another": 'y = ScatterND <reduction = "max"> (x, place, row)',
    "places in the whole batch": """
        t = Reshape (x, lines)
        v, i = MaxPool <kernel_shape = [1]> (t)
        c = Cast <to = 1> (i)
        y = Reshape (c, fours)""",
    "the place of an input": """
        s = Shape <start = 0, end = 1> (x)
        n = Squeeze (s, zero)
        r = Range (zero_number, n, one_number)
        c = Mod (r, nine)
        e = Gather (T, c)
        y = Add (x, e)""",
    "an operator that nothing is known of": """
        i = NonZero (x)
        c = Cast <to = 1> (i)
        m = ReduceMax <keepdims = 0> (c)
        y = Add (x, m)""",
}


def model(body: str) -> onnx.ModelProto:
    return build(
        f"net (float[N, 4] x) => (float[N, 4] y) {{ {body} }}",
        W=SQUARE,
        V=normal(2, 2, seed=2),
        T=TABLE,
        W1=normal(1, 4, 2, seed=3),
        R1=normal(1, 4, 4, seed=4),
        column=normal(4, 1),
        four=np.abs(normal(4)) + np.float32(1),
        pieces=np.array([-1, 2]),
        tokens=np.array([-1, 2, 2]),
        fours=np.array([-1, 4]),
        around=np.array([0, 1, 0, 1]),
        fours_one=np.array([4]),
        token=normal(1, 1, 2, seed=10),
        token_shape=np.array([1, 2]),
        positions=normal(1, 3, 2, seed=11),
        six=np.array([-1, 6]),
        V6=normal(6, 4, seed=12),
        place=np.array([[-1]]),
        row=normal(1, 4, seed=9),
        lines=np.array([-1, 1, 4]),
        flat=np.array([-1]),
        zero=np.array([0]),
        one=np.array([1]),
        last=np.array([-1]),
        first=np.array([-99]),
        back=np.array([-1]),
        nine=np.int64(9),
        zero_number=np.int64(0),
        one_number=np.int64(1),
        large=np.float32(1e6),
        yes=np.array(True),
    )


def scores(proto: onnx.ModelProto, x: NDArray[Any], size: int) -> NDArray[Any]:
    """Plain ONNX Runtime in batches of one size."""
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(["y"], {"x": x[i : i + size]})[0] for i in range(0, len(x), size)])


@pytest.mark.parametrize("name", APART)
def test_rows_that_see_their_input_alone(name: str) -> None:
    proto, x = model(APART[name]), normal(8, 4, seed=5)
    assert why_one_at_a_time(from_proto(proto), "y", x, None) is None
    np.testing.assert_allclose(scores(proto, x, 4), scores(proto, x, 1), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", TOGETHER)
def test_rows_that_see_others(name: str, tmp_path: Path) -> None:
    """They run one at a time on both engines, whatever batch size is asked for; a loop over single inputs is the oracle."""
    proto, x = model(TOGETHER[name]), normal(8, 4, seed=5)
    path = save(proto, tmp_path / "net.onnx")
    np.savez(tmp_path / "net.npz", x=x)
    why = why_one_at_a_time(from_proto(proto), "y", x, None)
    assert why
    setup = prepare(path, Settings(batch_size=4))
    assert setup.numerics.batch_size == 1
    assert f"inputs run one at a time: {why}" in setup.notes
    np.testing.assert_array_equal(setup.clean_run().golden.scores, scores(proto, x, 1))


@pytest.mark.parametrize("engine", ["incremental", "reference"])
def test_counts_where_inputs_see_each_other_are_those_of_a_loop(engine: Any, tmp_path: Path) -> None:
    """A fault that makes one sum of a batch large must not tip the condition for the others."""
    x = normal(24, 4, seed=5)
    body = TOGETHER["a condition on all inputs"].replace("ReduceSum <keepdims = 0> (x)", "ReduceSum <keepdims = 0> (h)")
    proto = model("h = MatMul (x, W) " + body.replace("Neg (x)", "Neg (h)").replace("Relu (x)", "Relu (h)"))
    path = save(proto, tmp_path / "net.onnx")
    np.savez(tmp_path / "net.npz", x=x)
    injections = [Injection(f"f{i}", (Fault("W", (i % 4, i // 4), 28),)) for i in range(16)]
    run_campaign(
        prepare(path), injections, options=RunOptions(run=tmp_path / "run", workers=0, engine=engine, save_outputs=True)
    )
    for i in range(16):
        faulty = onnx.ModelProto()
        faulty.CopyFrom(proto)
        bits = SQUARE.view(np.uint32).copy()
        bits[i % 4, i // 4] ^= 1 << 28
        tensor = next(t for t in faulty.graph.initializer if t.name == "W")
        tensor.raw_data = bits.tobytes()
        np.testing.assert_array_equal(np.load(tmp_path / f"run/outputs/inj_f{i}.npy"), scores(faulty, x, 1))


def test_a_fixed_larger_batch_is_refused(tmp_path: Path) -> None:
    proto = model(TOGETHER["a sum over the batch"])
    proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 7
    proto.graph.output[0].type.tensor_type.shape.dim[0].dim_value = 7
    with pytest.raises(
        ModelError, match=r"one at a time \(in a batch .* by ReduceSum .*\), and its batch is fixed at 7"
    ):
        prepare(save(proto, tmp_path / "net.onnx"), Settings(data="synthetic"))


def test_a_batch_baked_into_the_graph_runs_one_at_a_time(tmp_path: Path) -> None:
    proto = build("net (float[N, 4] x) => (float[N, 4] y) { y = Reshape (x, s) }", s=np.array([1, 4]))
    setup = prepare(save(proto, tmp_path / "net.onnx"), Settings(data="synthetic"))
    assert setup.numerics.batch_size == 1
    assert any("does not run on batches of 2" in note for note in setup.notes)


def test_live_dropout_is_refused(tmp_path: Path) -> None:
    proto = build(
        "net (float[N, 4] x) => (float[N, 4] y) { y = Dropout (x, half, yes) }",
        half=np.float32(0.5),
        yes=np.array(True),
    )
    with pytest.raises(ModelError, match=r"Dropout .* draws at random in every run"):
        prepare(save(proto, tmp_path / "net.onnx"), Settings(data="synthetic"))


def test_every_operator_of_the_table_has_a_rule() -> None:
    assert {known.rows for known in OPERATORS.values()} == ROW_RULES.keys()


def test_batch_norm_in_training_mode_keeps_no_state(tmp_path: Path) -> None:
    """Its kernel writes into the running mean; the runtime must not have made that one tensor with an equal bias."""
    proto = build(
        """net (float[N, 2, 3] x) => (float[N, 2] y) {
            h, m, v = BatchNormalization <training_mode = 1> (x, scale, bias, mean, var)
            y = ReduceMax <keepdims = 0> (h, last)
        }""",
        scale=np.ones(2, np.float32),
        bias=np.zeros(2, np.float32),
        mean=np.zeros(2, np.float32),
        var=np.ones(2, np.float32),
        last=np.array([2]),
    )
    x = normal(6, 2, 3) + np.float32(3)
    np.savez(tmp_path / "net.npz", x=x)
    setup = prepare(save(proto, tmp_path / "net.onnx"), Settings())
    spread = np.sqrt(x.var(axis=2, keepdims=True) + 1e-5)
    expected = ((x - x.mean(axis=2, keepdims=True)) / spread).max(axis=2)
    np.testing.assert_allclose(setup.clean_run().golden.scores, expected, rtol=1e-4)
