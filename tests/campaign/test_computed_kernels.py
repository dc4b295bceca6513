"""Faults in weights that reach their layer behind computations, and in tables: scores as of a plain onnxruntime loop."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

from bitswap_onnx.campaign.options import RunOptions
from bitswap_onnx.campaign.run import run_campaign
from bitswap_onnx.campaign.setup import prepare
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


@pytest.mark.parametrize("network", [WEIGHT_NORM, ARITHMETIC], ids=["norms", "codes and a table"])
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
        bit = int(draw.integers(8 if target.dtype == "int8" else 32))
        faults.append((target.tensor, Fault(layer, cell, bit, parameter=parameter)))
    injections = [Injection(str(i), (fault,)) for i, (_, fault) in enumerate(faults)]
    for engine in ("incremental", "reference"):
        run = tmp_path / engine
        run_campaign(setup, injections, RunOptions(run=run, workers=0, engine=engine, save_outputs=True))
        for i, (key, fault) in enumerate(faults):
            scores = _with_flip(proto, key, fault, x)
            np.testing.assert_array_equal(np.load(run / f"outputs/inj_{i}.npy"), scores)


def _with_flip(proto: onnx.ModelProto, key: str, fault: Fault, x: np.ndarray) -> np.ndarray:
    """Return the scores of the model with one flipped bit, edited with numpy, as onnxruntime computes them."""
    faulty = onnx.ModelProto()
    faulty.CopyFrom(proto)
    tensor = next(tensor for tensor in faulty.graph.initializer if tensor.name == key)
    array = numpy_helper.to_array(tensor).copy()
    bits = array.view(f"u{array.itemsize}")
    assert fault.bit is not None
    bits[fault.index] ^= bits.dtype.type(1 << fault.bit)
    tensor.CopyFrom(numpy_helper.from_array(array, key))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(faulty.SerializeToString(), options)
    return np.asarray(session.run(None, {"x": x})[0])
