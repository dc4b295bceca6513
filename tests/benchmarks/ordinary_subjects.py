"""Networks as users bring them: residual Adds behind biased convolutions, batch-norm folded by an exporter or by hand.

A value between such a convolution and its Add is no tensor of its own where the runtime computes both in one kernel.
"""

import argparse
import copy
import logging
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from bitswap_onnx.campaign.settings import Settings
from bitswap_onnx.converters.torch_to_onnx import export_torch
from tests.benchmarks.subjects import image_settings, make_subject


@dataclass(frozen=True, eq=False)
class Net:
    """An exported network and inputs for it; ``network``: the same in PyTorch, if it is there to be hooked."""

    name: str
    model: Path
    settings: Settings
    network: nn.Module | None


class Residual(nn.Module):
    """Two residual blocks of biased convolutions: (batch, 3, 16, 16) → scores (batch, 10)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.relu = nn.ReLU()
        self.block1 = ResidualBlock(16)
        self.block2 = ResidualBlock(16)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.linear = nn.Linear(16, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.block2(self.block1(self.relu(self.stem(x))))
        scores: torch.Tensor = self.linear(self.flatten(self.pool(x)))
        return scores


class ResidualBlock(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.relu2 = nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.relu2(self.conv2(self.relu1(self.conv1(x))) + x)
        return result


def torch_residual(options: argparse.Namespace, folder: Path) -> Net:
    torch.manual_seed(0)
    network = Residual().eval()
    export_torch(network, (3, 16, 16), folder / "torch.onnx")
    return Net(
        "PyTorch, residual with bias", folder / "torch.onnx", Settings(data="synthetic", first=options.inputs), network
    )


def keras_residual(options: argparse.Namespace, folder: Path) -> Net:
    from bitswap_onnx.converters.keras_setup import quiet
    from bitswap_onnx.converters.keras_to_onnx import export_keras

    with quiet():
        export_keras(_functional(), folder / "keras.onnx")
    return Net(
        "Keras, residual with bias", folder / "keras.onnx", Settings(data="synthetic", first=options.inputs), None
    )


def _functional() -> Any:
    """The Functional counterpart of `Residual`: (batch, 16, 16, 3) → scores (batch, 10)."""
    import keras

    keras.utils.set_random_seed(0)
    layers = keras.layers
    start = keras.Input((16, 16, 3))
    x = layers.ReLU(name="relu")(layers.Conv2D(16, 3, padding="same", use_bias=True, name="stem")(start))
    for block in ("block1", "block2"):
        y = layers.Conv2D(16, 3, padding="same", use_bias=True, name=f"{block}_conv1")(x)
        y = layers.ReLU(name=f"{block}_relu1")(y)
        y = layers.Conv2D(16, 3, padding="same", use_bias=True, name=f"{block}_conv2")(y)
        x = layers.ReLU(name=f"{block}_relu2")(layers.Add(name=f"{block}_add")([y, x]))
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(start, layers.Dense(10, name="dense")(x))


def folded_by_hand(options: argparse.Namespace, folder: Path) -> Net:
    """ResNet20 with its trained weights, batch-norm folded in PyTorch, then our export."""
    network = folded(make_subject("ResNet20", options.reference, folder).network)
    export_torch(network, (3, 32, 32), folder / "folded.onnx")
    return Net("ResNet20, folded", folder / "folded.onnx", image_settings(options.reference, options.inputs), network)


def folded_by_exporter(options: argparse.Namespace, folder: Path) -> Net:
    """ResNet20 with its trained weights as PyTorch's own exporter writes it: it folds batch-norm."""
    network = make_subject("ResNet20", options.reference, folder).network.eval()
    path = folder / "stock.onnx"
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it logs which packages it would take, were they there
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network,
            (torch.zeros(2, 3, 32, 32),),
            path,
            dynamo=True,
            optimize=True,
            verbose=False,
            external_data=False,
            dynamic_shapes=({0: "batch"},),
        )
    settings = image_settings(options.reference, options.inputs)
    return Net("ResNet20, exporter's own", path, settings, folded(network))


def mobilenet(options: argparse.Namespace, folder: Path) -> Net:
    subject = make_subject("MobileNetV2", options.reference, folder)
    settings = image_settings(options.reference, options.inputs)
    return Net(f"MobileNetV2, {subject.weights}", subject.model, settings, subject.network)


def folded(network: nn.Module) -> nn.Module:
    """A copy in which every ``convN`` holds the batch-norm ``bnN`` beside it, whose place an Identity takes."""
    network = copy.deepcopy(network).eval()
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            norm = name.replace("conv", "bn")
            if isinstance(child, nn.Conv2d) and isinstance(getattr(parent, norm, None), nn.BatchNorm2d):
                setattr(parent, name, fuse_conv_bn_eval(child, getattr(parent, norm)))
                setattr(parent, norm, nn.Identity())
    return network


NETS: dict[str, Callable[[argparse.Namespace, Path], Net]] = {
    "keras": keras_residual,
    "torch": torch_residual,
    "folded": folded_by_hand,
    "stock": folded_by_exporter,
    "mobilenet": mobilenet,
}
