"""Every published fault list against the zoo, from shapes alone: each layer and index exists, torch and TF lists agree."""

import ast
import csv
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import nn

from bitswap_onnx.models import zoo
from tests import reference

Shapes = dict[str, tuple[int, ...]]
Rows = list[tuple[str, tuple[int, ...], int]]

BENCHMARKS = reference.FOLDER / "dnn-benchmarks"

#: Folder of a list → networks in it, by what their lists' names begin with.
FOLDERS = {
    "CIFAR10": (
        "ResNet20",
        "ResNet32",
        "MobileNetV2",
        "Vgg11_bn",
        "Vgg13_bn",
        "DenseNet121",
        "DenseNet161",
        "GoogLeNet",
    ),
    "CIFAR100": ("ResNet18", "DenseNet121", "GoogLeNet"),
    "GTSRB": ("DenseNet121", "Vgg11_bn"),
}
PAIRS = [(network, dataset) for dataset, networks in FOLDERS.items() for network in networks]
LISTS = {"torch": len(PAIRS), "tensorflow": len(PAIRS)}


def lists(framework: str) -> Iterator[Path]:
    yield from sorted((BENCHMARKS / framework).rglob("*_FL.csv"))


def find_list(framework: str, network: str, dataset: str) -> Path:
    (found,) = [
        path for path in lists(framework) if path.parts[-4] == dataset and path.name.lower().startswith(network.lower())
    ]
    return found


def read(path: Path) -> Rows:
    with path.open(newline="") as file:
        return [
            (row["Layer"], tuple(ast.literal_eval(row["TensorIndex"])), int(row["Bit"])) for row in csv.DictReader(file)
        ]


@cache
def kernels(network: str, dataset: str) -> list[tuple[str, nn.Conv2d | nn.Linear]]:
    """Return the convolutions and linear layers in the order in which they run, without computing anything."""
    found = zoo.find(network, dataset)
    with torch.device("meta"):
        module = found.untrained().eval()
    order: list[tuple[str, nn.Conv2d | nn.Linear]] = []
    for name, child in module.named_modules():
        if isinstance(child, nn.Conv2d | nn.Linear):
            entry = (name, child)
            child.register_forward_hook(lambda _module, _inputs, _output, entry=entry: order.append(entry))
    scores = module(torch.empty(2, *found.dataset.input_shape, device="meta"))
    assert scores.shape == (2, found.dataset.classes)
    return order


def torch_shapes(network: str, dataset: str) -> Shapes:
    return {name: tuple(layer.weight.shape) for name, layer in kernels(network, dataset)}


def keras_shapes(network: str, dataset: str) -> Shapes:
    """Return the shapes by the default names of Keras's layers in a new model."""
    shapes: Shapes = {}
    counts = {"conv2d": 0, "dense": 0}
    for _, layer in kernels(network, dataset):
        kind, order = ("conv2d", (2, 3, 1, 0)) if isinstance(layer, nn.Conv2d) else ("dense", (1, 0))
        name = f"{kind}_{counts[kind]}" if counts[kind] else kind
        counts[kind] += 1
        shapes[name] = tuple(layer.weight.shape[axis] for axis in order)
    return shapes


def check(rows: Rows, shapes: Shapes) -> None:
    """Every layer is in the list, and every index lies inside its weight: the largest index of each axis shows it."""
    largest: Shapes = {}
    for layer, index, _ in rows:
        known = largest.get(layer, index)
        assert len(known) == len(index), layer
        largest[layer] = tuple(map(max, known, index))
    assert largest.keys() == shapes.keys()
    outside = {
        layer: (index, shapes[layer])
        for layer, index in largest.items()
        if len(index) != len(shapes[layer]) or any(map(int.__ge__, index, shapes[layer]))
    }
    assert not outside


@reference.needed
@pytest.mark.parametrize(("framework", "number"), LISTS.items())
def test_no_list_is_left_out(framework: str, number: int) -> None:
    assert {find_list(framework, *pair) for pair in PAIRS} == set(lists(framework))
    assert len(set(lists(framework))) == number


@reference.needed
@pytest.mark.parametrize(("network", "dataset"), PAIRS)
def test_torch_list(network: str, dataset: str) -> None:
    check(read(find_list("torch", network, dataset)), torch_shapes(network, dataset))


@reference.needed
@pytest.mark.parametrize(("network", "dataset"), PAIRS)
def test_tensorflow_list(network: str, dataset: str) -> None:
    check(read(find_list("tensorflow", network, dataset)), keras_shapes(network, dataset))


@reference.needed
@pytest.mark.parametrize(("network", "dataset"), PAIRS)
def test_row_by_row_both_lists_hit_the_same_element(network: str, dataset: str) -> None:
    partner = dict(zip(torch_shapes(network, dataset), keras_shapes(network, dataset), strict=True))
    theirs = read(find_list("tensorflow", network, dataset))
    ours = read(find_list("torch", network, dataset))
    expected = [
        (partner[layer], (index[2], index[3], index[1], index[0]) if len(index) == 4 else index[::-1], bit)
        for layer, index, bit in ours
    ]
    assert theirs == expected
