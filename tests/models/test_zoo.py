"""The zoo: every network exported, its parameters bit for bit and its scores against PyTorch; weights found and fitted."""

from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
import torch
from torch import nn

from bitswap_onnx.converters.torch_to_onnx import export_torch
from bitswap_onnx.errors import ModelError
from bitswap_onnx.models import zoo
from bitswap_onnx.models.densenet import densenet, densenet_unpooled
from bitswap_onnx.models.vgg import vgg_bn
from tests import reference

NETWORKS = [pytest.param(network, id=f"{network.name}-{network.dataset.name}") for network in zoo.networks()]

# The public checkpoints hold this many bytes; what they need beside the tensors is 330 to 430 bytes for each.
CHECKPOINTS = {
    ("MobileNetV2", "CIFAR10"): 9442897,
    ("Vgg11_bn", "CIFAR10"): 112640861,
    ("DenseNet121", "CIFAR10"): 28435902,
    ("DenseNet161", "CIFAR10"): 107177326,
    ("GoogLeNet", "CIFAR10"): 22139739,
    ("ResNet18", "CIFAR100"): 44963876,
    ("DenseNet121", "CIFAR100"): 28837422,
    ("GoogLeNet", "CIFAR100"): 25828614,
    ("ResNet20", "GTSRB"): 1133178,
    ("DenseNet121", "GTSRB"): 28594192,
    ("Vgg11_bn", "GTSRB"): 113182656,
}


def counters(module: nn.Module) -> set[str]:
    return {name for name in module.state_dict() if name.endswith("num_batches_tracked")}


def scores(path: Path, x: torch.Tensor) -> np.ndarray:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"input": x.numpy()})[0])


@pytest.mark.parametrize("network", NETWORKS)
def test_every_parameter_and_the_scores(network: zoo.Network, tmp_path: Path) -> None:
    module = zoo.build(network.name, network.dataset.name, seed=3)
    path = tmp_path / "m.onnx"
    report = export_torch(module, network.dataset.input_shape, path)
    assert set(report.parameters) == module.state_dict().keys() - counters(module)
    assert set(report.unused) == counters(module)
    assert not report.tied
    x = torch.randn(2, *network.dataset.input_shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        native = module(x).numpy()
    found = scores(path, x)
    spread = np.ptp(native)
    assert native.shape == (2, network.dataset.classes)
    assert np.isfinite(native).all()
    assert 1 < spread < 100
    assert np.abs(native[0] - native[1]).max() > 0.05 * spread
    assert np.abs(found - native).max() < 1e-3 * spread
    assert np.array_equal(found.argmax(1), native.argmax(1))


@pytest.mark.parametrize(("name", "dataset", "size"), [(*key, size) for key, size in CHECKPOINTS.items()])
def test_the_tensors_are_as_many_bytes_as_the_public_checkpoints(name: str, dataset: str, size: int) -> None:
    with torch.device("meta"):
        tensors = list(zoo.find(name, dataset).untrained().state_dict().values())
    rest = size - sum(tensor.nbytes for tensor in tensors)
    assert 320 < rest / len(tensors) < 440


def test_what_the_zoo_holds() -> None:
    held = {dataset: {net.name for net in zoo.networks() if net.dataset.name == dataset} for dataset in ("CIFAR10", "CIFAR100", "GTSRB")}  # fmt: skip  # noqa: E501
    resnets = {f"ResNet{depth}" for depth in (20, 32, 44, 56, 110)}
    vggs = {f"Vgg{depth}_bn" for depth in (11, 13, 16, 19)}
    assert held == {
        "CIFAR10": {*resnets, *vggs, "MobileNetV2", "DenseNet121", "DenseNet161", "GoogLeNet"},
        "CIFAR100": {"ResNet18", "DenseNet121", "GoogLeNet"},
        "GTSRB": {"ResNet20", "DenseNet121", "Vgg11_bn"},
    }
    assert len({network.weights for network in zoo.networks()}) == sum(map(len, held.values()))


def test_the_epsilon_that_the_public_definition_mistook() -> None:
    with torch.device("meta"):
        modules = dict(zoo.find("GoogLeNet", "CIFAR100").untrained().named_modules())
    eps = {name: module.eps for name, module in modules.items() if isinstance(module, nn.BatchNorm2d)}
    assert {name.split(".", 1)[1] for name, value in eps.items() if value > 1} == {"b3.4"}
    assert [eps[f"{place}.b3.4"] for place in ("a3", "b3", "a4", "b5")] == [32, 96, 48, 128]


def test_random_weights_come_from_the_seed_alone() -> None:
    before = torch.get_rng_state()
    one, two, other = (zoo.build("ResNet20", "CIFAR10", seed=seed).state_dict() for seed in (5, 5, 6))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(one[name], two[name]) for name in one)
    random = [name for name in one if not name.endswith("num_batches_tracked")]
    assert not any(torch.equal(one[name], other[name]) for name in random)
    assert all(one[name].unique().numel() > 1 for name in random)


def test_networks_come_ready_for_inference() -> None:
    module = zoo.build("ResNet20", "CIFAR10")
    assert not any(child.training for child in module.modules())
    assert {child.momentum for child in module.modules() if isinstance(child, nn.BatchNorm2d)} == {0.1}


@pytest.mark.parametrize("name", ["resnet20", "RESNET20", "ResNet-20"])
@pytest.mark.parametrize("dataset", ["cifar10", "CIFAR-10"])
def test_case_does_not_matter(name: str, dataset: str) -> None:
    assert zoo.find(name, dataset) is zoo.ZOO["ResNet20"]["CIFAR10"]


def test_unknown_names() -> None:
    with pytest.raises(ModelError, match=r"^no network 'vgg12_bn' in the zoo; nearest: Vgg1"):
        zoo.find("vgg12_bn", "CIFAR10")
    with pytest.raises(
        ModelError, match=r"^no ResNet20 for dataset 'mnist' in the zoo; it is there for CIFAR10, GTSRB$"
    ):
        zoo.find("resnet20", "mnist")
    for builder in (vgg_bn, densenet, densenet_unpooled):
        with pytest.raises(ModelError, match=r"expected depth .*, found 12"):
            builder(12)


@reference.needed
@pytest.mark.parametrize("name", ["ResNet20", "ResNet32"])
def test_weights_from_a_checkout(name: str) -> None:
    found = zoo.build(name, "CIFAR10", reference.FOLDER / "dnn-benchmarks")
    file = reference.RESNET_FILES / f"{name}.th"
    direct = zoo.build(name, "CIFAR10", file)
    content = torch.load(file, map_location="cpu", weights_only=True)["state_dict"]
    for key, tensor in content.items():
        name = key.removeprefix("module.")
        assert torch.equal(found.state_dict()[name], tensor)
        assert torch.equal(direct.state_dict()[name], tensor)


def test_weights_without_counters(tmp_path: Path) -> None:
    """PyTorch before 0.4.1 counted no batches."""
    module = zoo.build("ResNet20", "CIFAR10", seed=1)
    state = {name: tensor for name, tensor in module.state_dict().items() if name not in counters(module)}
    torch.save({"net": {f"module.{name}": tensor for name, tensor in state.items()}}, tmp_path / "old.pt")
    loaded = zoo.build("ResNet20", "CIFAR10", str(tmp_path / "old.pt")).state_dict()
    assert all(torch.equal(loaded[name], state[name]) for name in state)


def test_weights_that_do_not_fit(tmp_path: Path) -> None:
    state = zoo.build("ResNet20", "CIFAR10").state_dict()
    state["extra"] = state.pop("conv1.weight")
    state["linear.bias"] = state["linear.bias"].half()
    state["linear.weight"] = torch.zeros(7, 64)
    torch.save(state, tmp_path / "other.pt")
    with pytest.raises(ModelError) as caught:
        zoo.build("ResNet20", "CIFAR10", tmp_path / "other.pt")
    message = str(caught.value)
    assert "\n" not in message
    assert "1 missing (conv1.weight); 1 unexpected (extra)" in message
    assert "linear.weight float32[7, 64] instead of float32[10, 64]" in message
    assert "linear.bias float16[10] instead of float32[10]" in message


def test_weights_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"expected a dnn-benchmarks checkout with torch/.*/ResNet20\.th in it"):
        zoo.build("ResNet20", "CIFAR10", tmp_path)
    with pytest.raises(ModelError, match=r"none\.th: no such file"):
        zoo.build("ResNet20", "CIFAR10", tmp_path / "none.th")
    pointer = tmp_path / zoo.find("ResNet20", "CIFAR10").weights
    pointer.parent.mkdir(parents=True)
    pointer.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    with pytest.raises(ModelError, match=r"found a Git LFS pointer .* git lfs pull"):
        zoo.build("ResNet20", "CIFAR10", tmp_path)
