"""DenseNet-BC for small images: Huang et al., "Densely Connected Convolutional Networks", CVPR 2017.

Two variants are in use, each with its own names and checkpoints. `densenet` (CIFAR-10; ``features.conv0``,
``features.denseblock1.denselayer1.conv1``, ..., ``classifier``) pools after the first convolution. `densenet_unpooled`
(CIFAR-100 and GTSRB; ``conv1``, ``features.dense_block_layer_0.bottle_neck_layer_0.bottle_neck.2``, ..., ``linear``) does
not, and has no ReLU in its transitions.
"""

from functools import cache
from typing import TYPE_CHECKING

from bitswap_onnx.converters.torch_checkpoint import require_torch
from bitswap_onnx.errors import ModelError

if TYPE_CHECKING:
    from torch import Tensor, nn

#: Layers → (growth rate, layers in each of the four dense blocks).
DENSENET_DEPTHS = {121: (32, (6, 12, 24, 16)), 161: (48, (6, 12, 36, 24))}

#: Channels of a bottleneck, in growth rates.
BOTTLENECK = 4


def densenet(depth: int, classes: int = 10) -> "nn.Module":
    """Return an untrained network: (batch, 3, height, width) → scores (batch, ``classes``), made for 32×32.

    Raises ModelError for a depth that is not in `DENSENET_DEPTHS`, MissingExtraError without PyTorch.
    """
    growth, blocks = _size(depth)
    require_torch()
    from torch import nn

    channels = 2 * growth
    features = _sequence(
        conv0=nn.Conv2d(3, channels, 3, padding=1, bias=False),
        norm0=nn.BatchNorm2d(channels),
        relu0=nn.ReLU(),
        pool0=nn.MaxPool2d(3, stride=2, padding=1),
    )
    for number, layers in enumerate(blocks, start=1):
        block = {f"denselayer{i + 1}": _named_layer(channels + i * growth, growth) for i in range(layers)}
        features.add_module(f"denseblock{number}", _sequence(**block))
        channels += layers * growth
        if number < len(blocks):
            features.add_module(f"transition{number}", _named_transition(channels))
            channels //= 2
    features.add_module("norm5", nn.BatchNorm2d(channels))
    return _sequence(
        features=features,
        relu=nn.ReLU(),
        pool=nn.AdaptiveAvgPool2d(1),
        flatten=nn.Flatten(),
        classifier=nn.Linear(channels, classes),
    )


def densenet_unpooled(depth: int, classes: int = 100) -> "nn.Module":
    """Return an untrained network: (batch, 3, height, width) → scores (batch, ``classes``), made for 32×32 and 50×50.

    The last pooling is a 4×4 window: of the 6×6 positions that 50×50 images leave, the upper left 16.

    Raises ModelError for a depth that is not in `DENSENET_DEPTHS`, MissingExtraError without PyTorch.
    """
    growth, blocks = _size(depth)
    require_torch()
    from torch import nn

    first = channels = 2 * growth
    features = nn.Sequential()
    for number, layers in enumerate(blocks):
        last = number == len(blocks) - 1
        block = {f"bottle_neck_layer_{i}": _numbered_layer(channels + i * growth, growth) for i in range(layers)}
        features.add_module(f"dense_block{number}" if last else f"dense_block_layer_{number}", _sequence(**block))
        channels += layers * growth
        if not last:
            features.add_module(f"transition_layer_{number}", _numbered_transition(channels))
            channels //= 2
    features.add_module("bn", nn.BatchNorm2d(channels))
    features.add_module("relu", nn.ReLU())
    return _sequence(
        conv1=nn.Conv2d(3, first, 3, padding=1, bias=False),
        features=features,
        classifier=nn.Sequential(nn.AvgPool2d(4)),
        flatten=nn.Flatten(),
        linear=nn.Linear(channels, classes),
    )


def _size(depth: int) -> tuple[int, tuple[int, ...]]:
    if depth not in DENSENET_DEPTHS:
        raise ModelError(f"DenseNet: expected depth {', '.join(map(str, DENSENET_DEPTHS))}, found {depth}")
    return DENSENET_DEPTHS[depth]


def _sequence(**layers: "nn.Module") -> "nn.Sequential":
    from torch import nn

    result = nn.Sequential()
    for name, layer in layers.items():
        result.add_module(name, layer)
    return result


def _bottleneck(inputs: int, growth: int) -> list["nn.Module"]:
    from torch import nn

    wide = BOTTLENECK * growth
    return [
        nn.BatchNorm2d(inputs),
        nn.ReLU(),
        nn.Conv2d(inputs, wide, 1, bias=False),
        nn.BatchNorm2d(wide),
        nn.ReLU(),
        nn.Conv2d(wide, growth, 3, padding=1, bias=False),
    ]


def _named_layer(inputs: int, growth: int) -> "nn.Module":
    names = ("norm1", "relu1", "conv1", "norm2", "relu2", "conv2")
    return _growing(**dict(zip(names, _bottleneck(inputs, growth), strict=True)))


def _numbered_layer(inputs: int, growth: int) -> "nn.Module":
    from torch import nn

    return _growing(bottle_neck=nn.Sequential(*_bottleneck(inputs, growth)))


def _named_transition(channels: int) -> "nn.Module":
    from torch import nn

    return _sequence(
        norm=nn.BatchNorm2d(channels),
        relu=nn.ReLU(),
        conv=nn.Conv2d(channels, channels // 2, 1, bias=False),
        pool=nn.AvgPool2d(2),
    )


def _numbered_transition(channels: int) -> "nn.Module":
    from torch import nn

    convolution = nn.Conv2d(channels, channels // 2, 1, bias=False)
    return _sequence(down_sample=nn.Sequential(nn.BatchNorm2d(channels), convolution, nn.AvgPool2d(2)))


def _growing(**layers: "nn.Module") -> "nn.Module":
    result = _growing_type()()
    for name, layer in layers.items():
        result.add_module(name, layer)
    return result


@cache
def _growing_type() -> type["nn.Module"]:
    """Return the dense layer; it is defined here because torch is imported only inside functions."""
    import torch
    from torch import nn

    class DenseLayer(nn.Sequential):
        """Its input, followed by the output of its layers: (batch, c, h, w) → (batch, c + growth, h, w)."""

        def forward(self, x: "Tensor") -> "Tensor":
            new = x
            for layer in self:
                new = layer(new)
            return torch.cat((x, new), 1)

    return DenseLayer
