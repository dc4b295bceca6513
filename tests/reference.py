"""Where the published weights, fault lists and images lie: the environment variable BITSWAP_REFERENCE names the folder."""

import os
from pathlib import Path

import pytest

FOLDER = Path(os.environ.get("BITSWAP_REFERENCE") or "no reference data").resolve()
RESNET_FILES = FOLDER / "dnn-benchmarks/torch/gpu/image_classification/CIFAR10/fp32/resnet"
IMAGES = FOLDER / "cifar10/test_846.npz"

needed = pytest.mark.skipif(
    not FOLDER.is_dir(), reason="BITSWAP_REFERENCE names no folder with the published weights and CIFAR-10 images"
)
