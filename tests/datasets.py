"""Datasets for tests: pixels, image files, and what presets make of them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from bitswap_onnx.data.dataset import Dataset
from bitswap_onnx.data.images import Decoding
from bitswap_onnx.data.readers import open_data
from bitswap_onnx.errors import DataError

F32 = np.dtype(np.float32)
Make = Callable[..., Dataset]

NORMALISED = {
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    "cifar100": (
        (0.5070751592371323, 0.48654887331495095, 0.4409178433670343),
        (0.2673342858792401, 0.2564384629170883, 0.27615047132568404),
    ),
    "gtsrb": ((0.3403, 0.3121, 0.3214), (0.2724, 0.2608, 0.2669)),
    "imagenet-torch": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}


def pixels(*shape: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def everything(data: Dataset) -> NDArray[Any]:
    return data.batch(0, len(data))


def images_in(folder: Path, *shapes: tuple[int, ...]) -> list[Path]:
    files = [folder / f"{i}.png" for i in range(len(shapes))]
    for i, (file, shape) in enumerate(zip(files, shapes, strict=True)):
        Image.fromarray(pixels(*shape, seed=i)).save(file)
    return files


def hand(x: NDArray[Any], mean: tuple[float, ...], std: tuple[float, ...]) -> NDArray[np.float32]:
    """Normalise pixels (N, 3, H, W) with the formula as the frameworks write it, in float32."""
    planes = [
        (x[:, c].astype(np.float32) / np.float32(255) - np.float32(mean[c])) / np.float32(std[c]) for c in range(3)
    ]
    return np.stack(planes, axis=1)


SOME = pixels(4, 3, 6, 8)
FLOATS = SOME.astype(np.float32)
HOLED = FLOATS.copy()
HOLED[2, 1, 0, 0] = np.nan


def opened(path: Path, labels: Path | None = None) -> Any:
    return open_data(path, labels, Decoding())


def contents(stored: Any) -> list[NDArray[Any]]:
    return [image for _, block in stored.blocks(np.arange(len(stored))) for image in block]


def refusal(path: Path, labels: Path | None = None) -> str:
    with pytest.raises(DataError) as caught:
        opened(path, labels)
    message = str(caught.value)
    assert "\n" not in message
    return message
