"""Image files: how they are decoded, and sets of them."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from bitswap_onnx.data.stored import Array, decoding_errors
from bitswap_onnx.errors import DataError, MissingExtraError

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".ppm", ".webp"})


@dataclass(frozen=True)
class Decoding:
    """How an image file becomes pixels: Pillow's mode, then torchvision's Resize(shorter_side) and CenterCrop(crop)."""

    mode: str = "RGB"
    shorter_side: int | None = None
    crop: tuple[int, int] = (0, 0)


@dataclass(frozen=True, eq=False)
class StoredImages:
    """Image files, each decoded to (height, width, channels) uint8 when it is read; labels (N,) or None.

    ``classes``: the number of class folders that the labels count; None where they come from elsewhere.
    """

    name: str
    path: Path
    files: tuple[Path, ...]
    labels: Array | None
    decoding: Decoding
    classes: int | None = None
    layout: ClassVar[str] = "nhwc"
    dtype: ClassVar[np.dtype[Any]] = np.dtype(np.uint8)

    def __len__(self) -> int:
        return len(self.files)

    def blocks(self, rows: NDArray[np.intp]) -> Iterator[tuple[str, Array]]:
        """Yield the file and the pixels, (1, height, width, channels), of each of ``rows``."""
        for row in rows:
            yield str(self.files[row]), read_image(self.files[row], self.decoding)[None]


def read_image(path: Path, decoding: Decoding) -> NDArray[np.uint8]:
    """Decode a file to (height, width, channels); any resize is Pillow's bilinear, antialiased, as in torchvision."""
    try:
        from PIL import Image
    except ImportError as error:
        raise MissingExtraError(f"{path}: reading images needs Pillow: pip install 'bitswap-onnx[images]'") from error
    with decoding_errors(path, "an image"), Image.open(path) as file:
        if file.mode.startswith(("I", "F")):
            raise DataError(f"{path}: mode {file.mode} has over 8 bits per channel, expected 8; save it as 8-bit RGB")
        image = file.convert(decoding.mode)
        if decoding.shorter_side is not None:
            size, (top, left) = centre_crop((image.height, image.width), decoding.shorter_side, decoding.crop)
            image = image.resize(size[::-1], Image.Resampling.BILINEAR)
            image = image.crop((left, top, left + decoding.crop[1], top + decoding.crop[0]))
        return np.asarray(image, np.uint8).reshape(image.height, image.width, -1)


def centre_crop(found: tuple[int, int], side: int, crop: tuple[int, int]) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return the size with its shorter side made ``side``, and (top, left) of ``crop`` in it, rounded as in torchvision."""
    longer = int(side * max(found) / min(found))
    size = (side, longer) if found[0] <= found[1] else (longer, side)
    return size, (round((size[0] - crop[0]) / 2.0), round((size[1] - crop[1]) / 2.0))
