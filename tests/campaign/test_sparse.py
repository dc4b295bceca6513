"""Models with a sparse initializer, which no fault hits: batches, faults and neurons against plain onnxruntime sessions."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper

from bitswap_onnx.campaign.options import RunOptions
from bitswap_onnx.campaign.run import run_campaign
from bitswap_onnx.campaign.settings import Settings
from bitswap_onnx.campaign.setup import prepare
from bitswap_onnx.faults.fault import Fault, Injection, Site
from tests.builders import build, normal

INPUTS = 16


def sparse_model(batch: str) -> onnx.ModelProto:
    proto = build(
        f"net (float[{batch}, 4] x) => (float[{batch}, 3] y) {{ a = MatMul (x, w) b = Relu (a) y = MatMul (b, s) }}",
        21,
        10,
        w=normal(4, 5),
    )
    values = numpy_helper.from_array(normal(6, seed=1), "s")
    places = numpy_helper.from_array(np.array([0, 2, 4, 7, 9, 14]), "places")
    proto.graph.sparse_initializer.append(helper.make_sparse_tensor(values, places, [5, 3]))
    return proto


@pytest.mark.parametrize("batch", ["N", "8"])
def test_faults_and_neurons_score_as_in_plain_sessions(batch: str, tmp_path: Path) -> None:
    proto, x = sparse_model(batch), normal(INPUTS, 4, seed=2)
    onnx.save(proto, tmp_path / "m.onnx")
    np.savez(tmp_path / "m.npz", x=x)
    setup = prepare(tmp_path / "m.onnx", Settings())
    assert setup.batch_size > 1
    weights = [Injection(str(bit), (Fault("w", (1, 2), bit),)) for bit in (3, 30, 31)]
    neurons = [Injection("n", (Fault("b", (2,), 31, site=Site.OUTPUT),))]
    for engine in ("incremental", "reference"):
        for faults, name in ((weights, "weights"), (neurons, "neurons")):
            run = tmp_path / f"{engine}_{name}"
            run_campaign(setup, faults, options=RunOptions(run=run, workers=0, engine=engine, save_outputs=True))
        for injection in weights:
            faulty = onnx.ModelProto.FromString(proto.SerializeToString())
            (tensor,) = faulty.graph.initializer
            content = bytearray(tensor.raw_data)
            place = 32 * (1 * 5 + 2) + int(injection.id)
            content[place // 8] ^= 1 << place % 8
            tensor.raw_data = bytes(content)
            scores = np.load(tmp_path / f"{engine}_weights" / "outputs" / f"inj_{injection.id}.npy")
            np.testing.assert_array_equal(scores, plain(faulty, x))
        hidden = np.maximum(x @ normal(4, 5), 0)
        hidden[:, 2] *= -1
        dense = np.zeros(15, np.float32)
        dense[[0, 2, 4, 7, 9, 14]] = normal(6, seed=1)
        scores = np.load(tmp_path / f"{engine}_neurons" / "outputs" / "inj_n.npy")
        np.testing.assert_allclose(scores, hidden @ dense.reshape(5, 3), rtol=1e-5, atol=1e-6)


def plain(proto: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options)
    return np.concatenate([session.run(None, {"x": x[i : i + 8]})[0] for i in range(0, len(x), 8)])
