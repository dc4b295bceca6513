"""ONNX → Keras: weights bit for bit, scores of PyTorch networks, layers as Keras numbers them, and what is refused."""

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from torch import Tensor, nn

from bitswap_onnx.converters import onnx_to_keras as module
from bitswap_onnx.converters.keras_setup import load_keras_file, quiet
from bitswap_onnx.converters.onnx_to_keras import SUPPORTED, KerasReport, onnx_to_keras
from bitswap_onnx.converters.torch_to_onnx import export_torch
from bitswap_onnx.errors import ControlFailedError, ModelError
from bitswap_onnx.graph.model import from_proto
from tests import reference
from tests.builders import build, cnn, normal
from tests.torch_networks import images, resnet20_network, with_statistics

pytest.importorskip("tensorflow")
pytest.importorskip("tf2onnx")
keras = pytest.importorskip("keras")

KERAS_LIST = (
    reference.FOLDER / "dnn-benchmarks/tensorflow/gpu/image_classification/CIFAR10/fp32/resnet/ResNet20_TF_FL.csv"
)


def predicted(path: Path, inputs: NDArray[Any]) -> NDArray[Any]:
    """Return the scores of the saved Keras model for NCHW inputs."""
    model = load_keras_file(path)
    last = inputs if inputs.ndim < 3 else np.moveaxis(inputs, 1, -1)
    with quiet():
        return np.asarray(model.predict(last, verbose=0))


@pytest.fixture(scope="session")
def resnet20_in_keras(resnet20: Path) -> KerasReport:
    """ResNet20 as a Keras file beside its ONNX file, which tests only read."""
    return onnx_to_keras(resnet20, resnet20.with_suffix(".keras"))


def test_resnet20_there_and_back(resnet20: Path, resnet20_in_keras: KerasReport, tmp_path: Path) -> None:
    from bitswap_onnx.converters.keras_to_onnx import export_keras

    network, x, report = resnet20_network(), images(), resnet20_in_keras
    exported = export_keras(resnet20.with_suffix(".keras"), tmp_path / "keras.onnx")
    assert set(exported.parameters) == set(report.parameters)
    stored = {
        tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(tmp_path / "keras.onnx").graph.initializer
    }
    state = network.state_dict()
    assert set(report.parameters.values()) == {name for name in state if not name.endswith("num_batches_tracked")}
    for name, origin in report.parameters.items():
        axes = {4: (2, 3, 1, 0), 2: (1, 0), 1: (0,)}[stored[name].ndim]
        assert stored[name].tobytes() == state[origin].numpy().transpose(axes).tobytes()
    convolutions = [f"conv2d_{number}" if number else "conv2d" for number in range(19)]
    assert [name for name in report.layers if name.startswith(("conv2d", "dense"))] == [*convolutions, "dense"]
    with torch.no_grad():
        scores = network(x).numpy()
    native = predicted(resnet20.with_suffix(".keras"), x.numpy())
    assert np.array_equal(native.argmax(1), scores.argmax(1))
    assert np.abs(native - scores).max() < 1e-4


@reference.needed
def test_layers_are_those_of_the_published_keras_list(resnet20_in_keras: KerasReport) -> None:
    with KERAS_LIST.open(newline="") as file:
        published = {row["Layer"] for row in csv.DictReader(file)}
    kernels = [name for name in resnet20_in_keras.parameters if name.endswith("/kernel")]
    assert {name.partition("/")[0] for name in kernels} == published


class Mixed(nn.Module):
    """Grouped and depthwise convolutions, every kind of padding, joins, and a flatten of several pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.grouped = nn.Conv2d(8, 8, 3, padding=2, dilation=2, groups=4, bias=False)
        self.depthwise = nn.Conv2d(8, 8, (5, 3), padding=(1, 0), groups=8)
        self.norm = nn.BatchNorm2d(8, eps=1e-3)
        self.relu6 = nn.ReLU6()
        self.pool = nn.AvgPool2d(3, stride=2, padding=1)
        self.head = nn.Linear(24 * 3 * 3, 7)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.stem(x))
        y = self.relu6(self.grouped(x))
        z = nn.functional.pad(self.depthwise(x), (0, 2, 1, 1)) * torch.sigmoid(x.mean((2, 3), keepdim=True))
        joined = torch.cat([y, x - z * 0.5, torch.minimum(x, z)], 1)
        scores: Tensor = self.head(torch.flatten(self.pool(joined[:, :, :, 1:]), 1))
        return scores.softmax(1)


class Strided(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        y = x[:, 1:4, 1::2, 2:9:3]
        return (2 - y).reshape(-1, y.shape[1] * 5, 3).transpose(1, 2).flatten(1)


def pooled(pool: nn.Module, relu: bool = False) -> nn.Module:
    return nn.Sequential(nn.ReLU() if relu else nn.Identity(), pool, nn.Flatten())


@pytest.mark.parametrize(
    ("network", "shape"),
    [
        (Mixed, (3, 11, 12)),
        (Strided, (4, 10, 10)),
        (lambda: nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Dropout(), nn.Linear(6, 3)), (5,)),
        (lambda: pooled(nn.MaxPool2d(3, 2, 1)), (3, 9, 10)),
        (lambda: pooled(nn.MaxPool2d(3, 1, 1)), (3, 9, 10)),
        (lambda: pooled(nn.MaxPool2d(2, 2, 1), relu=True), (3, 9, 10)),
        (lambda: pooled(nn.MaxPool2d(3, 2, ceil_mode=True), relu=True), (3, 8, 10)),
        (lambda: pooled(nn.MaxPool2d(3, 2, ceil_mode=True)), (3, 9, 11)),
        (lambda: pooled(nn.AvgPool2d(3, 2, 1, count_include_pad=False)), (3, 9, 10)),
        (lambda: pooled(nn.AvgPool2d((2, 3), (1, 2), (1, 0))), (3, 9, 10)),
        (lambda: pooled(nn.AdaptiveMaxPool2d(1)), (3, 5, 5)),
        (
            lambda: pooled(nn.Sequential(nn.Hardswish(), nn.Hardsigmoid(), nn.LeakyReLU(0.2), nn.ELU(), nn.SiLU())),
            (3, 5, 5),
        ),
        (
            lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 3)).double(),
            (3, 4, 4),
        ),
    ],
)
def test_scores_are_those_of_pytorch(network: Callable[[], nn.Module], shape: tuple[int, ...], tmp_path: Path) -> None:
    native = with_statistics(network())
    export_torch(native, shape, tmp_path / "m.onnx")
    onnx_to_keras(tmp_path / "m.onnx", tmp_path / "m.keras")
    dtype = next((parameter.dtype for parameter in native.parameters()), torch.float32)
    x = torch.randn(6, *shape, dtype=dtype, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert np.allclose(predicted(tmp_path / "m.keras", x.numpy()), native(x).numpy(), rtol=1e-5, atol=1e-5)


def test_a_shortcut_keeps_nan_and_infinity(tmp_path: Path) -> None:
    proto = build(
        "net (float[N, 1, 4, 4] x) => (float[N, 4] y) { s = Slice (x, st, en, ax, by)  y = Flatten (s) }",
        st=np.array([0, 0]), en=np.array([9, 9]), ax=np.array([2, 3]), by=np.array([2, 2]),
    )  # fmt: skip
    report = onnx_to_keras(from_proto(proto), tmp_path / "m.keras")
    assert list(report.layers) == ["average_pooling2d", "flatten"]
    x = np.zeros((1, 1, 4, 4), np.float32)
    x[0, 0, ::2, ::2] = [[np.nan, np.inf], [-np.inf, -5]]
    assert np.array_equal(predicted(tmp_path / "m.keras", x), x[:, 0, ::2, ::2].reshape(1, 4), equal_nan=True)


def test_any_bits_survive(tmp_path: Path) -> None:
    proto = cnn()
    bits = np.random.default_rng(0).integers(0, 2**32, (3, 1, 3, 3), np.uint32)
    bits[0, 0, 0] = 0x7F800001, 0xFFC12345, 0x80000000
    proto.graph.initializer[0].CopyFrom(numpy_helper.from_array(bits.view(np.float32), "conv.weight"))
    onnx_to_keras(from_proto(proto), tmp_path / "m.keras")
    kernel = load_keras_file(tmp_path / "m.keras").get_layer("conv2d").get_weights()[0]
    assert kernel.transpose(3, 2, 0, 1).tobytes() == bits.tobytes()


def test_a_layer_that_is_used_twice_stays_one(tmp_path: Path) -> None:
    linear = nn.Linear(4, 4)
    network = nn.Sequential(linear, nn.ReLU(), linear)
    export_torch(network, (4,), tmp_path / "m.onnx")
    report = onnx_to_keras(tmp_path / "m.onnx", tmp_path / "m.keras")
    assert report.parameters == {"dense/kernel": "0.weight", "dense/bias": "0.bias"}
    x = torch.randn(3, 4)
    with torch.no_grad():
        assert np.allclose(predicted(tmp_path / "m.keras", x.numpy()), network(x).numpy(), atol=1e-6)


IMAGE = "net (float[N, 3, 8, 8] x) => (float[N, 3, H, W] y)"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("{ y = Erf (x) }", r"operator Erf \(y\) has no Keras counterpart; supported are Add, AveragePool"),
        ("{ y = Conv (x, x) }", r"operator Conv \(y\): expected a constant at input 1 \(x\)"),
        ("{ y = Conv <strides = [2, 2], dilations = [2, 2]> (x, w) }", "strides and dilations both above 1"),
        ("{ y = MaxPool <kernel_shape = [2, 2], pads = [1, 1, 0, 0]> (x) }", "values that may be negative"),
        ("{ y = MaxPool <kernel_shape = [2, 2], dilations = [2, 2]> (x) }", "dilated windows"),
        ("{ y = AveragePool <kernel_shape = [3, 3], strides = [2, 2], ceil_mode = 1> (x) }", "ceil_mode"),
        ("{ y = AveragePool <kernel_shape = [2, 2], pads = [1, 1, 0, 0]> (x) }", "not counted"),
        ("{ y = Pad <mode = \"reflect\"> (x, p) }", "only zeros around images"),
        ("{ y = Clip (x, one) }", "lower bound of 0, found 1.0"),
        ("{ y = Mul (x, w1) }", "with the constant w1 it has no counterpart"),
        ("{ y = Transpose <perm = [1, 0, 2, 3]> (x) }", "moving the batch"),
        ("{ y = Concat <axis = 0> (x, x) }", "joining batches"),
        ("{ a = Relu (x)  y = Reshape (a, flat) }", "the batch would change"),
    ],
)  # fmt: skip
def test_refusals_name_operator_and_node(body: str, message: str, tmp_path: Path) -> None:
    constants: dict[str, Any] = {
        "w": normal(3, 3, 2, 2), "w1": normal(1, 3, 1, 1), "one": np.float32(1),
        "p": np.array([0, 0, 1, 1, 0, 0, 1, 1]), "flat": np.array([-1, 3, 1, 1]),
    }  # fmt: skip
    proto = build(f"{IMAGE} {body}", **{name: values for name, values in constants.items() if name in body})
    with pytest.raises(ModelError, match=message):
        onnx_to_keras(from_proto(proto), tmp_path / "m.keras")
    assert list(tmp_path.iterdir()) == []


def test_other_suffixes_and_several_inputs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"ends in \.keras"):
        onnx_to_keras(from_proto(cnn()), tmp_path / "m.h5")
    two = build("net (float[N, 3] a, float[N, 3] b) => (float[N, 3] y) { y = Add (a, b) }")
    with pytest.raises(ModelError, match="expected one input and one output, found 2 and 1"):
        onnx_to_keras(from_proto(two), tmp_path / "m.keras")


def test_a_changed_weight_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def corrupted(path: Path) -> Any:
        model = load_keras_file(path)
        layer = model.get_layer("dense")
        kernel, bias = layer.get_weights()
        kernel.view(np.uint32)[5, 2] ^= 1
        layer.set_weights([kernel, bias])
        return model

    monkeypatch.setattr(module, "load_keras_file", corrupted)
    with pytest.raises(ControlFailedError, match=r"dense/kernel: expected the bits of fc\.weight"):
        onnx_to_keras(from_proto(cnn()), tmp_path / "m.keras")
    assert list(tmp_path.iterdir()) == []


def test_supported_layers_are_layers_of_keras() -> None:
    for operator, text in SUPPORTED.items():
        assert onnx.defs.has(operator)
        for name in (word.partition("(")[0].strip() for word in text.partition(" (")[0].split(", ")):
            assert name == "none" or hasattr(keras.layers, name), text
