"""Arrays that begin at a multiple of 64 bytes, where some kernels round differently elsewhere, and memory that is free."""

import ctypes
import sys
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


def return_free_memory() -> None:
    """Give memory that this process has freed back to the system, where the C library can do so (glibc)."""
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
