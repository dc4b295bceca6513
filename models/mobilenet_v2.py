"""MobileNetV2 for 32×32 images: Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks", CVPR 2018.

The variant of the public CIFAR-10 checkpoints (``conv1``, ``layers.0.conv1``, ..., ``conv2``, ``linear``): fewer strides,
ReLU instead of ReLU6, an expanding convolution in every block, and a convolution in the shortcut of a block that keeps the
size but not the channels.
"""

from functools import cache
from typing import TYPE_CHECKING

from bitswap_onnx.converters.torch_checkpoint import require_torch

if TYPE_CHECKING:
    from torch import Tensor, nn

#: (expansion, channels, blocks, stride of the first block) of the seven stages.
MOBILENET_STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 1),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
MOBILENET_STEM, HEAD = 32, 1280


def mobilenet_v2(classes: int = 10) -> "nn.Module":
    """Return an untrained network: (batch, 3, height, width) → scores (batch, ``classes``), made for 32×32.

    Raises MissingExtraError without PyTorch.
    """
    require_torch()
    from torch import nn

    blocks: list[nn.Module] = []
    channels = MOBILENET_STEM
    for expansion, planes, number, first in MOBILENET_STAGES:
        for stride in (first, *(1 for _ in range(number - 1))):
            blocks.append(_block_type()(channels, planes, expansion, stride))
            channels = planes
    layers = {
        "conv1": nn.Conv2d(3, MOBILENET_STEM, 3, padding=1, bias=False),
        "bn1": nn.BatchNorm2d(MOBILENET_STEM),
        "relu1": nn.ReLU(),
        "layers": nn.Sequential(*blocks),
        "conv2": nn.Conv2d(channels, HEAD, 1, bias=False),
        "bn2": nn.BatchNorm2d(HEAD),
        "relu2": nn.ReLU(),
        "pool": nn.AdaptiveAvgPool2d(1),
        "flatten": nn.Flatten(),
        "linear": nn.Linear(HEAD, classes),
    }
    network = nn.Sequential()
    for name, layer in layers.items():
        network.add_module(name, layer)
    return network


@cache
def _block_type() -> type["nn.Module"]:
    """Return the inverted residual; it is defined here because torch is imported only inside functions."""
    from torch import nn

    class InvertedResidual(nn.Module):
        """Expand, convolve each channel, shrink: (batch, inputs, h, w) → (batch, planes, h / stride, w / stride)."""

        def __init__(self, inputs: int, planes: int, expansion: int, stride: int) -> None:
            super().__init__()
            wide = expansion * inputs
            self.conv1 = nn.Conv2d(inputs, wide, 1, bias=False)
            self.bn1 = nn.BatchNorm2d(wide)
            self.relu1 = nn.ReLU()
            self.conv2 = nn.Conv2d(wide, wide, 3, stride=stride, padding=1, groups=wide, bias=False)
            self.bn2 = nn.BatchNorm2d(wide)
            self.relu2 = nn.ReLU()
            self.conv3 = nn.Conv2d(wide, planes, 1, bias=False)
            self.bn3 = nn.BatchNorm2d(planes)
            self.shortcut = _shortcut(inputs, planes) if stride == 1 else None

        def forward(self, x: "Tensor") -> "Tensor":
            y = self.relu1(self.bn1(self.conv1(x)))
            y = self.relu2(self.bn2(self.conv2(y)))
            y = self.bn3(self.conv3(y))
            result: Tensor = y if self.shortcut is None else y + self.shortcut(x)
            return result

    return InvertedResidual


def _shortcut(inputs: int, planes: int) -> "nn.Module":
    from torch import nn

    if inputs == planes:
        return nn.Identity()
    return nn.Sequential(nn.Conv2d(inputs, planes, 1, bias=False), nn.BatchNorm2d(planes))
