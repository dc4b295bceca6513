"""VGG with batch-norm: Simonyan and Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition", 2015.

Names are those of the public CIFAR-10 checkpoints: ``features.0``, ..., ``classifier.0``, ``classifier.3``,
``classifier.6``, convolutions and linear layers numbered by their place among the layers without names of their own.
"""

from typing import TYPE_CHECKING

from bitswap_onnx.converters.torch_checkpoint import require_torch
from bitswap_onnx.errors import ModelError

if TYPE_CHECKING:
    from torch import nn

#: Layers → convolutions in each of the five stages (table 1 of the paper: A, B, D, E).
VGG_DEPTHS = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}

#: Channels of the five stages.
CHANNELS = (64, 128, 256, 512, 512)
HIDDEN = 4096


def vgg_bn(depth: int, classes: int = 10) -> "nn.Module":
    """Return an untrained network: (batch, 3, height, width) → scores (batch, ``classes``), made for 32×32 and 50×50.

    Raises ModelError for a depth that is not in `VGG_DEPTHS`, MissingExtraError without PyTorch.
    """
    if depth not in VGG_DEPTHS:
        raise ModelError(f"VGG: expected depth {', '.join(map(str, VGG_DEPTHS))}, found {depth}")
    require_torch()
    from torch import nn

    network = nn.Sequential()
    network.add_module("features", _features(depth))
    network.add_module("avgpool", nn.AdaptiveAvgPool2d(1))
    network.add_module("flatten", nn.Flatten())
    network.add_module("classifier", _classifier(classes))
    return network


def _features(depth: int) -> "nn.Sequential":
    from torch import nn

    layers: list[nn.Module] = []
    inputs = 3
    for channels, convolutions in zip(CHANNELS, VGG_DEPTHS[depth], strict=True):
        for _ in range(convolutions):
            layers += [nn.Conv2d(inputs, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.ReLU()]
            inputs = channels
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers)


def _classifier(classes: int) -> "nn.Sequential":
    from torch import nn

    return nn.Sequential(
        nn.Linear(CHANNELS[-1], HIDDEN),
        nn.ReLU(),
        nn.Dropout(),
        nn.Linear(HIDDEN, HIDDEN),
        nn.ReLU(),
        nn.Dropout(),
        nn.Linear(HIDDEN, classes),
    )
