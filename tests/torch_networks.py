"""Small PyTorch networks that are hard to export, and the trained or random ResNet-20 with its images."""

import numpy as np
import torch
from torch import Tensor, nn

from bitswap_onnx.converters.torch_checkpoint import load_state_dict_file
from bitswap_onnx.models.resnet_cifar import resnet
from tests import reference


class Block(nn.Module):
    """Everything that makes modules hard to find: reuse, in-place work, a functional sum, modules without nodes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(4)
        self.relu = nn.ReLU(inplace=True)
        self.drop = nn.Dropout()
        self.same = nn.Identity()
        self.scale = nn.Parameter(torch.randn(1, 4, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        y = self.drop(self.relu(self.bn(self.conv(x))) * self.scale)
        y = self.relu(y - 0.25)
        y += x
        result: Tensor = self.same(y)
        return result


class Mixed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 1)
        self.blocks = nn.Sequential(Block(), Block())
        self.drop = nn.Dropout()
        self.head = nn.Linear(4, 5)
        self.never = nn.Linear(3, 3)
        self.dead = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.drop(self.blocks(self.stem(x)).mean((2, 3)))
        self.dead(x)
        result: Tensor = self.head(x)
        return result


class Tied(nn.Module):
    """The same parameter twice, and its memory once more under another one."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = (nn.Linear(4, 4) for _ in range(3))
        self.b.weight = self.a.weight
        self.c.weight = nn.Parameter(self.a.weight.data)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.c(self.b(self.a(x)).relu())
        return result


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.pos_embedding = nn.Parameter(torch.randn(1, 5, 6))
        self.layer = nn.TransformerEncoderLayer(6, 2, 8, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.layer(x + self.pos_embedding)
        return result


class Transformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.class_token = nn.Parameter(torch.randn(1, 1, 6))
        self.encoder = Encoder()
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        tokens = torch.cat([self.class_token.expand(x.shape[0], -1, -1), x], 1)
        result: Tensor = self.head(self.encoder(tokens)[:, 0])
        return result


class Clashing(nn.Module):
    """Parameters and buffers called like operators, like the input and like the output."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Parameter(torch.randn(3))
        self.output = nn.Parameter(torch.randn(3))
        self.register_buffer("mean", torch.randn(3))
        self.register_buffer("input", torch.randn(3), persistent=False)
        self.fc = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.fc(x - self.get_buffer("mean")) * self.linear + self.output + self.get_buffer("input")
        return x - x.mean(1, keepdim=True)


def small_cnn(bias: bool = False) -> nn.Module:
    layers = nn.Conv2d(3, 4, 3, bias=bias), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 16, 5)
    return nn.Sequential(*layers)


def lived_in(module: nn.Module) -> nn.Module:
    """Give batch-norm statistics and affine parameters other values than their first ones."""
    torch.manual_seed(0)
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.is_floating_point():
            tensor.data = torch.rand_like(tensor) + 0.1
    return module


def with_statistics(network: nn.Module) -> nn.Module:
    """Give batch-norm and biases other values than their first ones, weights stay; for inference."""
    torch.manual_seed(0)
    for name, tensor in (*network.named_parameters(), *network.named_buffers()):
        if tensor.is_floating_point() and (tensor.ndim == 1 or "running" in name):
            tensor.data = torch.rand_like(tensor) + 0.1
    return network.eval()


def resnet20_network() -> nn.Module:
    """The published ResNet20; without the reference data one with random weights, the same in every call."""
    torch.manual_seed(0)
    network = resnet(20)
    if not reference.FOLDER.is_dir():
        return with_statistics(network)
    network.load_state_dict(load_state_dict_file(reference.RESNET_FILES / "ResNet20.th"))
    return network.eval()


def images(count: int = 100) -> Tensor:
    if not reference.FOLDER.is_dir():
        return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with np.load(reference.IMAGES) as data:
        pixels = torch.from_numpy(data["x"][:count]).float() / 255
    mean, std = (torch.tensor(c).reshape(3, 1, 1) for c in ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)))
    return (pixels - mean) / std
