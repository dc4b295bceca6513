"""The CIFAR ResNets: sizes against the paper's, ResNet-20 with its published weights against PyTorch."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from torch import nn

from bitswap_onnx.converters.torch_checkpoint import load_state_dict_file
from bitswap_onnx.converters.torch_to_onnx import ExportedModel, export_torch
from bitswap_onnx.errors import ModelError
from bitswap_onnx.models.resnet_cifar import RESNET_DEPTHS, resnet
from tests import reference


def trained(depth: int) -> nn.Module:
    network = resnet(depth)
    network.load_state_dict(load_state_dict_file(reference.RESNET_FILES / f"ResNet{depth}.th"))
    return network.eval()


def images() -> tuple[NDArray[np.float32], NDArray[Any]]:
    with np.load(reference.IMAGES, allow_pickle=False) as data:
        mean = np.reshape([0.4914, 0.4822, 0.4465], (3, 1, 1))
        std = np.reshape([0.2023, 0.1994, 0.2010], (3, 1, 1))
        return ((data["x"] / 255 - mean) / std).astype(np.float32), data["y"]


# He et al. 2016, table 6: 0.27M, 0.46M, 0.66M, 0.85M and 1.7M parameters.
@pytest.mark.parametrize(("depth", "parameters"), [(20, 0.27), (32, 0.46), (44, 0.66), (56, 0.85), (110, 1.73)])
def test_sizes(depth: int, parameters: float) -> None:
    network = resnet(depth, classes=10)
    assert sum(tensor.numel() for tensor in network.parameters()) / 1e6 == pytest.approx(parameters, abs=0.005)
    assert sum(isinstance(module, nn.Conv2d | nn.Linear) for module in network.modules()) == depth


def test_classes_and_shapes() -> None:
    with torch.no_grad():
        assert resnet(20, classes=7).eval()(torch.zeros(2, 3, 32, 32)).shape == (2, 7)


def test_unknown_depth() -> None:
    with pytest.raises(ModelError, match=f"expected depth {', '.join(map(str, RESNET_DEPTHS))}, found 21"):
        resnet(21)


@reference.needed
@pytest.mark.parametrize("depth", [20, 32])
def test_published_weights_fit(depth: int) -> None:
    trained(depth)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ExportedModel]:
    """The published ResNet20 as an ONNX file, and the report of its export."""
    path = tmp_path_factory.mktemp("resnet20") / "resnet20.onnx"
    return path, export_torch(trained(20), (3, 32, 32), path)


@reference.needed
def test_resnet20_with_its_published_weights(exported: tuple[Path, ExportedModel]) -> None:
    path, report = exported
    graph = onnx.load(path).graph
    state = trained(20).state_dict()
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    counted = {name for name in state if name.endswith("num_batches_tracked")}
    assert set(report.unused) == counted
    assert set(report.parameters) == state.keys() - counted
    assert all(stored[name].tobytes() == state[name].numpy().tobytes() for name in report.parameters)
    assert {f"layer1.{block}.shortcut" for block in range(3)} <= set(report.vanished)
    operators = Counter(node.op_type for node in graph.node)
    expected = {"Conv": 19, "BatchNormalization": 19, "Relu": 19, "Add": 9, "Slice": 4, "Pad": 2}
    assert operators == {**expected, "ReduceMean": 1, "Reshape": 1, "Gemm": 1}
    assert all(len(node.input) == 2 for node in graph.node if node.op_type == "Conv")


@reference.needed
def test_resnet20_scores_and_accuracy(exported: tuple[Path, ExportedModel]) -> None:
    network = trained(20)
    x, y = images()
    scores = ort.InferenceSession(exported[0]).run(None, {"input": x})[0]
    with torch.no_grad():
        native = network(torch.from_numpy(x)).numpy()
    assert np.abs(scores - native).max() < 1e-4
    assert np.mean(scores.argmax(1) == y) == pytest.approx(0.9125, abs=5e-5)
