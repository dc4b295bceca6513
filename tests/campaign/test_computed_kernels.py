"""Faults in computed kernels, tables, recurrent layers and small formats: scores as of a plain onnxruntime loop."""

from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

from bitswap_onnx.campaign.options import RunOptions
from bitswap_onnx.campaign.run import run_campaign
from bitswap_onnx.campaign.setup import prepare
from bitswap_onnx.faults.bits import FORMATS
from bitswap_onnx.faults.fault import Fault, Injection
from bitswap_onnx.graph.resolve import Resolver
from tests.builders import build, normal

WEIGHT_NORM = (
    """net (float[N, 4] x) => (float[N, 3] y) {
        norm = ReduceL2 <keepdims = 1> ("a.v", zeroth)
        scale = Div ("a.g", norm)
        kernel = Mul ("a.v", scale)
        [a] h = MatMul (x, kernel)
        r = Relu (h)
        wv = MatMul ("b.w", "b.v")
        sigma = MatMul ("b.u", wv)
        divided = Div ("b.w", sigma)
        [b] y = MatMul (r, divided)
    }""",
    {
        "a__v": normal(4, 6),
        "a__g": normal(1, 6),
        "zeroth": np.array([0], np.int64),
        "b__w": normal(6, 3),
        "b__u": normal(6),
        "b__v": normal(3),
    },
)

ARITHMETIC = (
    """net (float[N, 4] x) => (float[N, 3] y) {
        code = Cast <to = 1> ("fc.codes")
        kernel = Mul (code, "fc.scale")
        [fc] h = MatMul (x, kernel)
        positive = Relu (h)
        clipped = Clip (positive, zero, largest)
        ids = Cast <to = 7> (clipped)
        e = Gather ("embed.weight", ids)
        y = ReduceMean <keepdims = 0> (e, one)
    }""",
    {
        "fc__codes": np.arange(24, dtype=np.int8).reshape(4, 6) - np.int8(12),
        "fc__scale": np.float32(0.2) * np.ones(6, np.float32),
        "zero": np.float32(0),
        "largest": np.float32(4),
        "one": np.array([1], np.int64),
        "embed__weight": normal(5, 3),
    },
)

RECURRENT = (
    """net (float[N, 4] x) => (float[N, 3] y) {
        steps = Reshape (x, as_steps)
        first = Transpose <perm = [1, 0, 2]> (steps)
        [lstm] hidden, last = LSTM <hidden_size = 3> (first, "lstm.W", "lstm.R", "lstm.B")
        joined = Squeeze (hidden, one)
        [gru] states, state = GRU <hidden_size = 3, linear_before_reset = 1> (joined, "gru.W", "gru.R")
        merged = Squeeze (states, one)
        [rnn] seen, end = RNN <hidden_size = 3> (merged, "rnn.W", "rnn.R")
        y = Squeeze (end, zeroth)
    }""",
    {
        "as_steps": np.array([-1, 2, 2], np.int64),
        "one": np.array([1], np.int64),
        "zeroth": np.array([0], np.int64),
        "lstm__W": normal(1, 12, 2),
        "lstm__R": normal(1, 12, 3, seed=1),
        "lstm__B": normal(1, 24, seed=2),
        "gru__W": normal(1, 9, 3, seed=3),
        "gru__R": normal(1, 9, 3, seed=4),
        "rnn__W": normal(1, 3, 3, seed=5),
        "rnn__R": normal(1, 3, 3, seed=6),
    },
)

QUANTIZED_LSTM = (
    """net (float[N, 4] x) => (float[N, 3] y) {
        steps = Reshape (x, as_steps)
        first = Transpose <perm = [1, 0, 2]> (steps)
        [lstm] hidden, last = com.microsoft.DynamicQuantizeLSTM <hidden_size = 3> (
            first, "lstm.W", "lstm.R", , , , , , "w_scale", "w_zero", "r_scale", "r_zero"
        )
        y = Squeeze (last, zeroth)
    }""",
    {
        "as_steps": np.array([-1, 2, 2], np.int64),
        "zeroth": np.array([0], np.int64),
        "lstm__W": (40 * normal(1, 2, 12)).astype(np.int8),
        "lstm__R": (40 * normal(1, 3, 12, seed=1)).astype(np.int8),
        "w_scale": np.array([0.02], np.float32),
        "w_zero": np.array([0], np.int8),
        "r_scale": np.array([0.02], np.float32),
        "r_zero": np.array([0], np.int8),
    },
)

SMALL_FLOATS = (
    """net (float[N, 4] x) => (float[N, 3] y) {
        wide = DequantizeLinear ("a.weight", a_scale)
        [a] h = MatMul (x, wide)
        r = Relu (h)
        narrow = DequantizeLinear ("b.weight", b_scale)
        [b] y = MatMul (r, narrow)
    }""",
    {
        "a__weight": normal(4, 6).astype(ml_dtypes.float8_e4m3fn),
        "a_scale": np.float32(0.5),
        "b__weight": normal(6, 3, seed=1).astype(ml_dtypes.float8_e5m2),
        "b_scale": np.float32(0.25),
    },
)

NETWORKS = {
    "norms": WEIGHT_NORM,
    "codes and a table": ARITHMETIC,
    "recurrent": RECURRENT,
    "quantized LSTM": QUANTIZED_LSTM,
    "8-bit floats": SMALL_FLOATS,
}


@pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS)
def test_every_weight_scores_as_in_a_plain_loop(network: tuple[str, dict[str, np.ndarray]], tmp_path: Path) -> None:
    text, tensors = network
    proto = build(text, **tensors)
    onnx.save(proto, tmp_path / "net.onnx")
    x = np.random.default_rng(3).normal(size=(32, 4)).astype(np.float32)
    np.savez(tmp_path / "net.npz", x=x, y=np.zeros(32, np.int64))
    setup = prepare(tmp_path / "net.onnx")
    resolver, draw = Resolver(setup.model), np.random.default_rng(0)
    weights = [target for target in resolver.targets if target.role == "weight"]
    faults = []
    for number in range(50):
        target = weights[number % len(weights)]
        cell = tuple(int(draw.integers(size)) for size in target.shape)
        layer, parameter = resolver.address(target)
        bit = int(draw.integers(FORMATS[target.dtype].width))
        faults.append((target.tensor, Fault(layer, cell, bit, parameter=parameter)))
    injections = [Injection(str(i), (fault,)) for i, (_, fault) in enumerate(faults)]
    for engine in ("incremental", "reference"):
        run = tmp_path / engine
        run_campaign(setup, injections, options=RunOptions(run=run, workers=0, engine=engine, save_outputs=True))
        for i, (key, fault) in enumerate(faults):
            scores = _with_flip(proto, key, fault, x, setup.numerics.batch_size)
            np.testing.assert_array_equal(np.load(run / f"outputs/inj_{i}.npy"), scores)


def _with_flip(proto: onnx.ModelProto, key: str, fault: Fault, x: np.ndarray, size: int) -> np.ndarray:
    """Return the scores of the model with one flipped bit, edited with numpy, as onnxruntime computes them in batches."""
    faulty = onnx.ModelProto()
    faulty.CopyFrom(proto)
    tensor = next(tensor for tensor in faulty.graph.initializer if tensor.name == key)
    array = numpy_helper.to_array(tensor).copy()
    bits = array.view(f"u{array.itemsize}")  # elements of eight bits or more
    assert fault.bit is not None
    bits[fault.index] ^= bits.dtype.type(1 << fault.bit)
    tensor.CopyFrom(numpy_helper.from_array(array, key))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(faulty.SerializeToString(), options)
    return np.concatenate([session.run(None, {"x": x[i : i + size]})[0] for i in range(0, len(x), size)])
