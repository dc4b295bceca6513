"""Exports that tests of the converters share."""

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def resnet20(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ResNet20 as PyTorch's export writes it, for tests that only read it."""
    from bitswap_onnx.converters.torch_to_onnx import export_torch
    from tests.torch_networks import resnet20_network

    path = tmp_path_factory.mktemp("resnet20") / "resnet20.onnx"
    export_torch(resnet20_network(), (3, 32, 32), path)
    return path
