"""GoogLeNet with batch-norm for 32×32 images: Szegedy et al., "Going Deeper with Convolutions", CVPR 2015.

Two variants are in use, each with its own names and checkpoints, both with 3×3 instead of 5×5 convolutions:
`googlenet` (CIFAR-10; ``conv1.conv``, ``inception3a.branch2.1.conv``, ..., ``fc``) and `googlenet_stacked` (CIFAR-100;
``prelayer.0``, ``a3.b2.3``, ..., ``linear``), which begins with three convolutions and stacks two where the paper has 5×5.
"""

from functools import cache
from typing import TYPE_CHECKING

from bitswap_onnx.converters.torch_checkpoint import require_torch

if TYPE_CHECKING:
    from torch import Tensor, nn

#: Module → (1×1, 3×3 reduce, 3×3, 5×5 reduce, 5×5, pool projection) of table 1 of the paper.
MODULES = {
    "3a": (64, 96, 128, 16, 32, 32),
    "3b": (128, 128, 192, 32, 96, 64),
    "4a": (192, 96, 208, 16, 48, 64),
    "4b": (160, 112, 224, 24, 64, 64),
    "4c": (128, 128, 256, 24, 64, 64),
    "4d": (112, 144, 288, 32, 64, 64),
    "4e": (256, 160, 320, 32, 128, 128),
    "5a": (256, 160, 320, 32, 128, 128),
    "5b": (384, 192, 384, 48, 128, 128),
}

#: Modules with a pooling in front.
POOLED = ("4a", "5a")
GOOGLENET_STEM = 192


def googlenet(classes: int = 10) -> "nn.Module":
    """Return an untrained network: (batch, 3, height, width) → scores (batch, ``classes``), made for 32×32.

    Raises MissingExtraError without PyTorch.
    """
    require_torch()
    from torch import nn

    network = nn.Sequential()
    network.add_module("conv1", _named_unit(3, GOOGLENET_STEM, 3))
    channels = GOOGLENET_STEM
    for name, sizes in MODULES.items():
        if name in POOLED:
            network.add_module(f"maxpool{int(name[0]) - 1}", nn.MaxPool2d(3, stride=2, padding=1))
        network.add_module(f"inception{name}", _named_inception(channels, *sizes))
        channels = sizes[0] + sizes[2] + sizes[4] + sizes[5]
    network.add_module("avgpool", nn.AdaptiveAvgPool2d(1))
    network.add_module("flatten", nn.Flatten())
    network.add_module("dropout", nn.Dropout(0.2))
    network.add_module("fc", nn.Linear(channels, classes))
    return network


def googlenet_stacked(classes: int = 100) -> "nn.Module":
    """Return an untrained network: (batch, 3, height, width) → scores (batch, ``classes``), made for 32×32.

    Raises MissingExtraError without PyTorch.
    """
    require_torch()
    from torch import nn

    stem = [layer for inputs, planes in ((3, 64), (64, 64), (64, GOOGLENET_STEM)) for layer in _unit(inputs, planes, 3)]
    network = nn.Sequential()
    network.add_module("prelayer", nn.Sequential(*stem))
    channels = GOOGLENET_STEM
    for name, sizes in MODULES.items():
        if name in POOLED:
            network.add_module(f"maxpool{int(name[0]) - 1}", nn.MaxPool2d(3, stride=2, padding=1))
        network.add_module(name[1] + name[0], _numbered_inception(channels, *sizes))
        channels = sizes[0] + sizes[2] + sizes[4] + sizes[5]
    network.add_module("avgpool", nn.AdaptiveAvgPool2d(1))
    network.add_module("dropout", nn.Dropout2d(0.4))
    network.add_module("flatten", nn.Flatten())
    network.add_module("linear", nn.Linear(channels, classes))
    return network


def _unit(inputs: int, planes: int, size: int, bias: bool = False, eps: float = 1e-5) -> list["nn.Module"]:
    from torch import nn

    convolution = nn.Conv2d(inputs, planes, size, padding=size // 2, bias=bias)
    return [convolution, nn.BatchNorm2d(planes, eps=eps), nn.ReLU()]


def _named_unit(inputs: int, planes: int, size: int) -> "nn.Module":
    from torch import nn

    unit = nn.Sequential()
    for name, layer in zip(("conv", "bn", "relu"), _unit(inputs, planes, size, eps=1e-3), strict=True):
        unit.add_module(name, layer)
    return unit


def _named_inception(inputs: int, n1: int, r3: int, n3: int, r5: int, n5: int, pooled: int) -> "nn.Module":
    from torch import nn

    return _branches(
        branch1=_named_unit(inputs, n1, 1),
        branch2=nn.Sequential(_named_unit(inputs, r3, 1), _named_unit(r3, n3, 3)),
        branch3=nn.Sequential(_named_unit(inputs, r5, 1), _named_unit(r5, n5, 3)),
        branch4=nn.Sequential(nn.MaxPool2d(3, stride=1, padding=1), _named_unit(inputs, pooled, 1)),
    )


def _numbered_inception(inputs: int, n1: int, r3: int, n3: int, r5: int, n5: int, pooled: int) -> "nn.Module":
    from torch import nn

    def layers(inputs: int, planes: int, size: int, eps: float = 1e-5) -> list["nn.Module"]:
        return _unit(inputs, planes, size, bias=True, eps=eps)

    # The public definition hands BatchNorm2d(n5, n5) the channels as epsilon, and its checkpoints were trained so.
    return _branches(
        b1=nn.Sequential(*layers(inputs, n1, 1)),
        b2=nn.Sequential(*layers(inputs, r3, 1), *layers(r3, n3, 3)),
        b3=nn.Sequential(*layers(inputs, r5, 1), *layers(r5, n5, 3, eps=float(n5)), *layers(n5, n5, 3)),
        b4=nn.Sequential(nn.MaxPool2d(3, stride=1, padding=1), *layers(inputs, pooled, 1)),
    )


def _branches(**branches: "nn.Module") -> "nn.Module":
    result = _inception_type()()
    for name, branch in branches.items():
        result.add_module(name, branch)
    return result


@cache
def _inception_type() -> type["nn.Module"]:
    """Return the Inception module; it is defined here because torch is imported only inside functions."""
    import torch
    from torch import nn

    class Inception(nn.Module):
        """Its branches side by side: (batch, c, h, w) → (batch, sum of the branches' channels, h, w)."""

        def forward(self, x: "Tensor") -> "Tensor":
            return torch.cat([branch(x) for branch in self.children()], 1)

    return Inception
