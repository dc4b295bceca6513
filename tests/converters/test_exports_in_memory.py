"""Exports of live modules and models that stay in memory: the same as the file, every time; the module is unchanged."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

import bitswap_onnx as bo
from bitswap_onnx.graph.tensors import stored_tensors

#: A module and a model, made here and in another process.
TORCH = """
import torch, bitswap_onnx as bo
torch.manual_seed(0)
net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Dropout(), torch.nn.Flatten(),
    torch.nn.Linear(144, 5))
def export():
    return bo.export_torch(net, torch.zeros(2, 3, 8, 8)).sha256
"""
KERAS = """
import os
os.environ["KERAS_BACKEND"] = "tensorflow"
import keras, bitswap_onnx as bo
keras.utils.set_random_seed(0)
layers = keras.layers
net = keras.Sequential([keras.Input((8, 8, 3)), layers.Conv2D(4, 3, activation="relu"), layers.BatchNormalization(),
    layers.SeparableConv2D(3, 3), layers.Flatten(), layers.Dense(5)], name="net")
for number, layer in enumerate(net.layers):
    layer.name = f"layer_{number}"
def export():
    return bo.export_keras(net).sha256
"""


@pytest.mark.parametrize(
    "code", [pytest.param(TORCH, marks=pytest.mark.torch), pytest.param(KERAS, marks=pytest.mark.keras)]
)
def test_the_same_network_is_the_same_model_in_every_process(code: str) -> None:
    here: dict[str, Any] = {}
    exec(code, here)
    command = [sys.executable, "-c", f"{code}\nprint(export())"]
    there = subprocess.check_output(command, text=True, stderr=subprocess.DEVNULL).strip()
    assert [here["export"](), here["export"]()] == [there, there]


@pytest.mark.torch
def test_a_torch_module_in_memory(tmp_path: Path) -> None:
    import torch
    from torch import nn

    torch.manual_seed(1)
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.9), nn.Flatten(), nn.Linear(64, 5)).train()
    net[1].eval()
    x = torch.randn(3, 1, 6, 6)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    model = bo.export_torch(net, x)
    assert [child.training for child in net.modules()] == [True, True, False, True, True, True]
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    scores = ort.InferenceSession(model.proto.SerializeToString()).run(None, {"input": x.numpy()})[0]
    with torch.no_grad():
        assert np.abs(scores - net.eval()(x).numpy()).max() < 1e-5
    written = bo.export_torch(net, (1, 6, 6), tmp_path / "m.onnx")
    assert (model.source, written.source, model.name, written.name) == (None, tmp_path / "m.onnx", "Sequential", "m")
    assert model.sha256 == written.sha256 == bo.load_model(tmp_path / "m.onnx").sha256
    for name, tensor in net.state_dict().items():
        if name in stored_tensors(model.proto):
            assert model.tensor(name).tobytes() == tensor.numpy().tobytes()
    assert list(written.parameters) == [name for name in before if not name.endswith("num_batches_tracked")]
    assert written.unused == ("1.num_batches_tracked",)
    assert (
        repr(written)
        == f"<ExportedModel m, {tmp_path}/m.onnx: {len(written.proto.graph.node)} nodes, sha256 {written.sha256[:12]}>"
    )


@pytest.mark.torch
@pytest.mark.parametrize(
    ("example", "message"),
    [
        ("3,8,8", "`example_input`: expected inputs .* as a tensor or array, or positive sizes .*, found '3,8,8'"),
        (
            np.zeros(3, np.float32),
            r"`example_input`: expected one or more inputs \(batch, ...\), found the shape \(3,\); x\[None\]",
        ),
        (np.zeros((0, 3), np.float32), r"`example_input`: .* found the shape \(0, 3\)"),
    ],
)
def test_wrong_examples(example: Any, message: str) -> None:
    import torch

    with pytest.raises(bo.BitswapError, match=message):
        bo.export_torch(torch.nn.Linear(3, 3), example)


@pytest.mark.torch
def test_token_ids_as_an_example() -> None:
    import torch
    from torch import nn

    net = nn.Sequential(nn.Embedding(9, 4), nn.Flatten(), nn.Linear(20, 3))
    model = bo.export_torch(net, torch.zeros(1, 5, dtype=torch.long))
    assert ort.InferenceSession(model.proto.SerializeToString()).get_inputs()[0].type == "tensor(int64)"
    with pytest.raises(bo.BitswapError, match=r"`module`: expected a torch.nn.Module, found an object of type type"):
        bo.export_torch(nn.Linear, (3,))  # type: ignore[arg-type]


@pytest.mark.keras
def test_a_keras_model_in_memory(tmp_path: Path) -> None:
    import keras

    keras.utils.set_random_seed(1)
    net = keras.Sequential([keras.Input((6,)), keras.layers.Dense(8, "relu"), keras.layers.Dense(4)], name="a.b_c")
    model, written = bo.export_keras(net), bo.export_keras(net, tmp_path / "m.onnx")
    assert (model.source, written.source, model.name, written.name) == (None, tmp_path / "m.onnx", "a.b_c", "m")
    assert model.sha256 == written.sha256 == bo.load_model(tmp_path / "m.onnx").sha256
    for variable in net.variables:
        assert model.tensor(variable.path).tobytes() == np.asarray(variable.value).tobytes()
    with pytest.raises(bo.BitswapError, match=r"`model`: expected a Keras model or the path .*, found 3"):
        bo.export_keras(3)


def test_a_protobuf_is_the_model_of_its_file(tmp_path: Path) -> None:
    path = Path(__file__).parent.parent.parent / "models" / "digits_cnn.onnx"
    loaded = bo.load_model(path)
    assert bo.load_model(loaded.proto).sha256 == loaded.sha256
    proto = type(loaded.proto)()
    with pytest.raises(bo.BitswapError, match="`model`: expected an ONNX model, found a protobuf without a graph"):
        bo.load_model(proto)
