"""Arrays that begin at a multiple of 64 bytes, the widest vector: some kernels round differently at other addresses."""

from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from bitswap_onnx.graph.places import VECTOR_BYTES


def is_aligned(array: NDArray[Any]) -> bool:
    """Whether an array is contiguous and begins at a multiple of the widest vector."""
    return bool(array.flags.c_contiguous) and array.ctypes.data % VECTOR_BYTES == 0


def aligned_empty(shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
    """Return an aligned array of uninitialised numbers."""
    kind = np.dtype(dtype)
    size = int(np.prod(shape, dtype=np.int64)) * kind.itemsize
    buffer = np.empty(size + VECTOR_BYTES, np.uint8)
    first = -buffer.ctypes.data % VECTOR_BYTES
    return buffer[first : first + size].view(kind).reshape(shape)


def aligned(array: NDArray[Any]) -> NDArray[Any]:
    """Return the array itself if it is aligned, else an aligned copy."""
    if is_aligned(array):
        return array
    copy = aligned_empty(array.shape, array.dtype)
    copy[...] = array
    return copy
