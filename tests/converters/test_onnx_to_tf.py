"""ONNX → TensorFlow through onnx2tf: scores against PyTorch and ONNX Runtime, faults included, and what it says."""

import sys
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
import torch

from bitswap_onnx.converters import onnx_to_tf as module
from bitswap_onnx.converters.onnx_to_tf import onnx_to_tf, run_saved_model
from bitswap_onnx.errors import MissingExtraError, ModelError
from bitswap_onnx.graph.model import from_proto
from tests.builders import build, cnn, normal
from tests.torch_networks import images, resnet20_network

pytest.importorskip("tensorflow")
pytest.importorskip("tf_keras")


def test_resnet20_scores_are_those_of_pytorch(resnet20: Path, tmp_path: Path) -> None:
    network, x = resnet20_network(), images()
    before = resnet20.read_bytes()
    onnx_to_tf(resnet20, tmp_path / "tf")
    with torch.no_grad():
        scores = network(x).numpy()
    found = run_saved_model(tmp_path / "tf", x.numpy())
    assert np.array_equal(found.argmax(1), scores.argmax(1))
    assert np.abs(found - scores).max() < 1e-4
    assert resnet20.read_bytes() == before


def test_a_faulty_model_in_keras_layout(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A weight of 1e30 and one of NaN behind a Transpose, and an attribute that is a list."""
    kernel = normal(3, 3, 1, 3)
    kernel[1, 1, 0, 1:] = 1e30, np.nan
    proto = build(
        """net (float[N, 6, 6, 1] x) => (float[N, 3] scores) {
            t = Transpose <perm = [0, 3, 1, 2]> (x)
            k = Transpose <perm = [3, 2, 0, 1]> ("conv2d/kernel")
            c = Conv <pads = [1, 1, 1, 1]> (t, k)
            n = Transpose <perm = [0, 2, 3, 1]> (c)
            axes = Constant <value_ints = [1, 2]> ()
            scores = ReduceMean <keepdims = 0> (n, axes)
        }""",
        18,
        **{"conv2d/kernel": kernel},
    )
    onnx_to_tf(from_proto(proto), tmp_path)
    x = normal(70, 6, 6, 1, seed=1)
    expected = ort.InferenceSession(proto.SerializeToString()).run(None, {"x": x})[0]
    found = run_saved_model(tmp_path, x)
    assert np.allclose(found, expected, rtol=1e-4, atol=1e-5, equal_nan=True)
    assert np.isnan(found[:, 2]).all()
    assert tuple(capfd.readouterr()) == ("", "")


def test_a_fixed_batch_is_filled(tmp_path: Path) -> None:
    proto = cnn()
    proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 4
    proto.graph.output[0].type.tensor_type.shape.dim[0].dim_value = 4
    onnx_to_tf(from_proto(proto), tmp_path)
    x = normal(6, 1, 6, 6, seed=1)
    expected = ort.InferenceSession(cnn().SerializeToString()).run(None, {"x": x})[0]
    assert np.allclose(run_saved_model(tmp_path, x), expected, atol=1e-4)


def test_failures_are_one_line(tmp_path: Path) -> None:
    custom = build("net (float[N, 3] x) => (float[N, 3] y) { y = com.microsoft.QuickGelu (x) }")
    with pytest.raises(ModelError, match=r"^model: onnx2tf cannot convert it: .*QuickGelu") as caught:
        onnx_to_tf(from_proto(custom), tmp_path / "tf")
    assert "\n" not in str(caught.value)
    with pytest.raises(ModelError, match="cannot load the SavedModel"):
        run_saved_model(tmp_path, np.zeros((1, 3), np.float32))


def test_a_missing_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "find_spec", lambda name: None if name == "sng4onnx" else sys)
    with pytest.raises(MissingExtraError, match=r"sng4onnx is not installed; .*bitswap-onnx\[keras\]"):
        onnx_to_tf(from_proto(cnn()), tmp_path)
