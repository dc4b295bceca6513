"""ResNet-20/32/44/56/110 for 32×32 images: He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, sec. 4.2.

Shortcuts are the paper's option A: where a stage begins, every second pixel of the input, padded with zero channels, so
that no shortcut has parameters. Names are those of the widely used CIFAR-10 checkpoints (``conv1``, ``bn1``,
``layer1.0.conv1``, ..., ``linear``).
"""

from functools import cache
from typing import TYPE_CHECKING

from bitswap_onnx.converters.torch_checkpoint import require_torch
from bitswap_onnx.errors import ModelError

if TYPE_CHECKING:
    from torch import Tensor, nn

#: Layers → blocks per stage: 6n + 2 layers, n blocks in each of three stages.
RESNET_DEPTHS = {6 * blocks + 2: blocks for blocks in (3, 5, 7, 9, 18)}

#: (channels, stride of the first block) of the three stages.
RESNET_CIFAR_STAGES = ((16, 1), (32, 2), (64, 2))


def resnet(depth: int, classes: int = 10) -> "nn.Module":
    """Return an untrained network: (batch, 3, height, width) → scores (batch, ``classes``), made for 32×32.

    Raises ModelError for a depth that is not in `RESNET_DEPTHS`, MissingExtraError without PyTorch.
    """
    if depth not in RESNET_DEPTHS:
        raise ModelError(f"ResNet for CIFAR: expected depth {', '.join(map(str, RESNET_DEPTHS))}, found {depth}")
    require_torch()
    from torch import nn

    blocks = RESNET_DEPTHS[depth]
    network = nn.Sequential()
    network.add_module("conv1", nn.Conv2d(3, 16, 3, padding=1, bias=False))
    network.add_module("bn1", nn.BatchNorm2d(16))
    network.add_module("relu", nn.ReLU())
    channels = 16
    for number, (planes, stride) in enumerate(RESNET_CIFAR_STAGES, start=1):
        begin = _block_type()(channels, planes, stride)
        rest = (_block_type()(planes, planes, 1) for _ in range(blocks - 1))
        network.add_module(f"layer{number}", nn.Sequential(begin, *rest))
        channels = planes
    network.add_module("pool", nn.AdaptiveAvgPool2d(1))
    network.add_module("flatten", nn.Flatten())
    network.add_module("linear", nn.Linear(channels, classes))
    return network


@cache
def _block_type() -> type["nn.Module"]:
    """Return the basic block; it is defined here because torch is imported only inside functions."""
    from torch import nn

    class BasicBlock(nn.Module):
        """Two convolutions and a shortcut: (batch, inputs, h, w) → (batch, planes, h / stride, w / stride)."""

        def __init__(self, inputs: int, planes: int, stride: int) -> None:
            super().__init__()
            self.conv1 = nn.Conv2d(inputs, planes, 3, stride=stride, padding=1, bias=False)
            self.bn1 = nn.BatchNorm2d(planes)
            self.relu1 = nn.ReLU()
            self.conv2 = nn.Conv2d(planes, planes, 3, padding=1, bias=False)
            self.bn2 = nn.BatchNorm2d(planes)
            self.shortcut = nn.Identity() if stride == 1 else _shortcut_type()(planes // 4)
            self.relu2 = nn.ReLU()

        def forward(self, x: "Tensor") -> "Tensor":
            residual = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x)))))
            result: Tensor = self.relu2(residual + self.shortcut(x))
            return result

    return BasicBlock


@cache
def _shortcut_type() -> type["nn.Module"]:
    from torch import nn

    class OptionA(nn.Module):
        """Every second pixel, between zero channels: (b, c, h, w) → (b, c + 2·``channels``, h / 2, w / 2)."""

        def __init__(self, channels: int) -> None:
            super().__init__()
            self.channels = channels

        def forward(self, x: "Tensor") -> "Tensor":
            return nn.functional.pad(x[..., ::2, ::2], (0, 0, 0, 0, self.channels, self.channels))

    return OptionA
