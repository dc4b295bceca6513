"""ResNet20 with its published weights, or random ones where they are not there, and images for it."""

import numpy as np
import torch
from torch import Tensor, nn

from bitswap_onnx.converters.torch_checkpoint import load_state_dict_file
from bitswap_onnx.models.resnet_cifar import resnet
from tests import reference


def lived_in(network: nn.Module) -> nn.Module:
    """Give biases, batch norms and their statistics random values above zero."""
    torch.manual_seed(0)
    for name, tensor in (*network.named_parameters(), *network.named_buffers()):
        if tensor.is_floating_point() and (tensor.ndim == 1 or "running" in name):
            tensor.data = torch.rand_like(tensor) + 0.1
    return network.eval()


def resnet20_network() -> nn.Module:
    """Return the network with the same weights at every call."""
    torch.manual_seed(0)
    network = resnet(20)
    if not reference.FOLDER.is_dir():
        return lived_in(network)
    network.load_state_dict(load_state_dict_file(reference.RESNET_FILES / "ResNet20.th"))
    return network.eval()


def images(count: int = 100) -> Tensor:
    if not reference.FOLDER.is_dir():
        return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with np.load(reference.IMAGES) as data:
        pixels = torch.from_numpy(data["x"][:count]).float() / 255
    mean, std = (torch.tensor(c).reshape(3, 1, 1) for c in ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)))
    return (pixels - mean) / std
