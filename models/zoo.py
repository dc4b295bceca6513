"""The networks of the published fault lists: the datasets that each was trained for, and the paths of its weights.

The paths are those of the public repository cad-polito-it/dnn-benchmarks, whose fault lists have the layer names of the
networks here.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from bitswap_onnx.converters.torch_checkpoint import require_torch
from bitswap_onnx.converters.torch_weights import load_weights
from bitswap_onnx.errors import ModelError, nearest
from bitswap_onnx.models.densenet import densenet, densenet_unpooled
from bitswap_onnx.models.googlenet import googlenet, googlenet_stacked
from bitswap_onnx.models.mobilenet_v2 import mobilenet_v2
from bitswap_onnx.models.resnet18 import resnet18
from bitswap_onnx.models.resnet_cifar import resnet
from bitswap_onnx.models.vgg import vgg_bn

if TYPE_CHECKING:
    import torch
    from torch import nn

ModelBuilder = Callable[[int], "nn.Module"]

#: Inputs that batch-norm statistics of a random network are measured on.
CALIBRATION_INPUTS = 8

_LFS_POINTER = b"version https://git-lfs.github.com"


@dataclass(frozen=True)
class DatasetName:
    """Inputs and outputs of the networks for a dataset: ``input_shape`` without the batch, number of classes."""

    name: str
    input_shape: tuple[int, ...]
    classes: int


@dataclass(frozen=True)
class Network:
    """One network for one dataset; ``weights`` is the path of its checkpoint in a dnn-benchmarks checkout."""

    name: str
    dataset: DatasetName
    builder: ModelBuilder
    weights: str

    def untrained(self) -> "nn.Module":
        """Return the architecture as PyTorch initialises it, on the device of the surrounding context."""
        return self.builder(self.dataset.classes)


CIFAR10 = DatasetName("CIFAR10", (3, 32, 32), 10)
CIFAR100 = DatasetName("CIFAR100", (3, 32, 32), 100)
GTSRB = DatasetName("GTSRB", (3, 50, 50), 43)

#: Name, dataset, builder, folder and file of the checkpoint.
_TABLE: tuple[tuple[str, DatasetName, ModelBuilder, str, str], ...] = (
    ("ResNet20", CIFAR10, partial(resnet, 20), "resnet", "ResNet20.th"),
    ("ResNet32", CIFAR10, partial(resnet, 32), "resnet", "ResNet32.th"),
    ("ResNet44", CIFAR10, partial(resnet, 44), "resnet", "ResNet44.th"),
    ("ResNet56", CIFAR10, partial(resnet, 56), "resnet", "ResNet56.th"),
    ("ResNet110", CIFAR10, partial(resnet, 110), "resnet", "ResNet110.th"),
    ("MobileNetV2", CIFAR10, mobilenet_v2, "mobilenet", "MobileNetV2.pt"),
    ("Vgg11_bn", CIFAR10, partial(vgg_bn, 11), "vgg", "Vgg11_bn.pt"),
    ("Vgg13_bn", CIFAR10, partial(vgg_bn, 13), "vgg", "Vgg13_bn.pt"),
    ("Vgg16_bn", CIFAR10, partial(vgg_bn, 16), "vgg", "Vgg16_bn.pt"),
    ("Vgg19_bn", CIFAR10, partial(vgg_bn, 19), "vgg", "Vgg19_bn.pt"),
    ("DenseNet121", CIFAR10, partial(densenet, 121), "densenet", "DenseNet121.pt"),
    ("DenseNet161", CIFAR10, partial(densenet, 161), "densenet", "DenseNet161.pt"),
    ("GoogLeNet", CIFAR10, googlenet, "googlenet", "GoogLeNet.pt"),
    ("ResNet18", CIFAR100, resnet18, "resnet", "ResNet18_CIFAR100.pth"),
    ("DenseNet121", CIFAR100, partial(densenet_unpooled, 121), "densenet", "DenseNet121_CIFAR100.pth"),
    ("GoogLeNet", CIFAR100, googlenet_stacked, "googlenet", "GoogLeNet_CIFAR100.pth"),
    ("ResNet20", GTSRB, partial(resnet, 20), "resnet", "ResNet20_GTSRB.pt"),
    ("DenseNet121", GTSRB, partial(densenet_unpooled, 121), "densenet", "DenseNet121_GTSRB.pt"),
    ("Vgg11_bn", GTSRB, partial(vgg_bn, 11), "vgg", "Vgg11_bn_GTSRB.pt"),
)


def _zoo() -> Mapping[str, Mapping[str, Network]]:
    result: dict[str, dict[str, Network]] = {}
    for name, dataset, builder, folder, file in _TABLE:
        weights = f"torch/gpu/image_classification/{dataset.name}/fp32/{folder}/{file}"
        result.setdefault(name, {})[dataset.name] = Network(name, dataset, builder, weights)
    return MappingProxyType({name: MappingProxyType(datasets) for name, datasets in result.items()})


#: Network name → dataset name → network.
ZOO = _zoo()


def networks() -> Iterator[Network]:
    """Yield every network for every dataset that it was trained for."""
    for datasets in ZOO.values():
        yield from datasets.values()


def find(name: str, dataset: str) -> Network:
    """Return a network of the zoo; case does not matter. Raises ModelError, with the nearest names, for an unknown one."""
    known = {_fold(each): each for each in ZOO}
    if _fold(name) not in known:
        raise ModelError(f"no network {name!r} in the zoo; nearest: {nearest(name, ZOO)}")
    datasets = ZOO[known[_fold(name)]]
    folded = {_fold(each): each for each in datasets}
    if _fold(dataset) not in folded:
        raise ModelError(
            f"no {known[_fold(name)]} for dataset {dataset!r} in the zoo; it is there for {', '.join(datasets)}"
        )
    return datasets[folded[_fold(dataset)]]


def _fold(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "")


def build(
    name: str,
    dataset: str,
    weights: str | Path | None = None,
    seed: int = 0,
    *,
    key: str | None = None,
    on_notes: Callable[[tuple[str, ...]], None] | None = None,
) -> "nn.Module":
    """Return a network at inference, with trained weights or, without ``weights``, with seeded random ones.

    ``weights`` is a checkpoint or a dnn-benchmarks checkout, where the checkpoint of the network is looked up; ``key`` and
    the notes that ``on_notes`` gets are those of `load_weights`. Random weights are Kaiming-normal, batch-norm scales
    uniform in 0.5-1.5 and shifts normal with deviation 0.1; batch-norm means and variances are then measured on
    `CALIBRATION_INPUTS` standard-normal inputs, so that signals keep their size through any depth and scores depend on the
    input. The same seed gives the same bits on the same software and CPU.

    Raises ModelError for an unknown network and for weights that are missing or do not fit, MissingExtraError without
    PyTorch.
    """
    network = find(name, dataset)
    require_torch()
    if weights is None:
        return _random(network, seed)
    file = weights_file(network, weights)
    module = network.untrained().eval()
    notes = load_weights(module, file, key)
    if on_notes is not None:
        on_notes(notes)
    return module


def weights_file(network: Network, weights: str | Path) -> Path:
    """Return the path of the checkpoint: ``weights`` itself, or a file in it if it is a dnn-benchmarks checkout.

    Raises ModelError where there is none, or only a Git LFS pointer to it.
    """
    weights = Path(weights)
    file = weights / network.weights if weights.is_dir() else weights
    try:
        with file.open("rb") as content:
            start = content.read(len(_LFS_POINTER))
    except FileNotFoundError:
        inside = (
            f"expected a dnn-benchmarks checkout with {network.weights} in it" if file != weights else "no such file"
        )
        raise ModelError(f"{weights}: {inside}; give the checkpoint file as `weights`") from None
    except OSError as error:
        raise ModelError(f"{file}: cannot read the checkpoint: {error.strerror}") from None
    if start == _LFS_POINTER:
        raise ModelError(f"{file}: found a Git LFS pointer instead of the weights; fetch them with: git lfs pull")
    return file


def _random(network: Network, seed: int) -> "nn.Module":
    import torch
    from torch import nn

    with _reproducible(seed), torch.no_grad():
        module = network.untrained().eval()
        for child in module.modules():
            if isinstance(child, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(child.weight, nonlinearity="relu")
            elif isinstance(child, nn.BatchNorm2d):
                nn.init.uniform_(child.weight, 0.5, 1.5)
                nn.init.normal_(child.bias, std=0.1)
        _calibrate(module, torch.randn(CALIBRATION_INPUTS, *network.dataset.input_shape))
    return module


def _calibrate(module: "nn.Module", inputs: "torch.Tensor") -> None:
    """Set the means and variances of every batch-norm to those that ``inputs`` (batch, ...) give there."""
    from torch import nn

    norms = [child for child in module.modules() if isinstance(child, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
        norm.train()
    module(inputs)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        norm.eval()


@contextmanager
def _reproducible(seed: int) -> Iterator[None]:
    """Use one thread and a fixed seed; afterwards restore the caller's."""
    import torch

    threads = torch.get_num_threads()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(threads)
