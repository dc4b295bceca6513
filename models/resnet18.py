"""ResNet-18 for 32×32 images: He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, with a 3×3 stem.

Names are those of the public CIFAR-100 checkpoints: ``conv1.0``, ``conv2_x.0.residual_function.0``, ...,
``conv3_x.0.shortcut.0``, ..., ``fc``.
"""

from functools import cache
from typing import TYPE_CHECKING

from bitswap_onnx.converters.torch_checkpoint import require_torch

if TYPE_CHECKING:
    from torch import Tensor, nn

#: (channels, stride of the first block) of the four stages of two blocks each.
RESNET18_STAGES = ((64, 1), (128, 2), (256, 2), (512, 2))


def resnet18(classes: int = 100) -> "nn.Module":
    """Return an untrained network: (batch, 3, height, width) → scores (batch, ``classes``), made for 32×32.

    Raises MissingExtraError without PyTorch.
    """
    require_torch()
    from torch import nn

    channels = RESNET18_STAGES[0][0]
    stem = nn.Sequential(nn.Conv2d(3, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels), nn.ReLU())
    network = nn.Sequential()
    network.add_module("conv1", stem)
    for number, (planes, stride) in enumerate(RESNET18_STAGES, start=2):
        blocks = nn.Sequential(_block_type()(channels, planes, stride), _block_type()(planes, planes, 1))
        network.add_module(f"conv{number}_x", blocks)
        channels = planes
    network.add_module("avg_pool", nn.AdaptiveAvgPool2d(1))
    network.add_module("flatten", nn.Flatten())
    network.add_module("fc", nn.Linear(channels, classes))
    return network


@cache
def _block_type() -> type["nn.Module"]:
    """Return the basic block; it is defined here because torch is imported only inside functions."""
    from torch import nn

    class BasicBlock(nn.Module):
        """Two convolutions and a shortcut: (batch, inputs, h, w) → (batch, planes, h / stride, w / stride)."""

        def __init__(self, inputs: int, planes: int, stride: int) -> None:
            super().__init__()
            self.residual_function = nn.Sequential(
                nn.Conv2d(inputs, planes, 3, stride=stride, padding=1, bias=False),
                nn.BatchNorm2d(planes),
                nn.ReLU(),
                nn.Conv2d(planes, planes, 3, padding=1, bias=False),
                nn.BatchNorm2d(planes),
            )
            self.shortcut = nn.Identity() if inputs == planes else _projection(inputs, planes, stride)
            self.relu = nn.ReLU()

        def forward(self, x: "Tensor") -> "Tensor":
            result: Tensor = self.relu(self.residual_function(x) + self.shortcut(x))
            return result

    return BasicBlock


def _projection(inputs: int, planes: int, stride: int) -> "nn.Module":
    from torch import nn

    return nn.Sequential(nn.Conv2d(inputs, planes, 1, stride=stride, bias=False), nn.BatchNorm2d(planes))
