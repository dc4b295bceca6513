"""Batches: inputs as a model takes them, a fixed number at a time."""

from collections.abc import Iterator

import numpy as np

from bitswap_onnx.data.stored import Array


def batches(x: Array, size: int) -> Iterator[tuple[Array, int]]:
    """Yield ``x`` (N, ...) as batches (size, ...), each with its number of real inputs; the last batch is padded."""
    if size < 1:
        raise ValueError(f"batch size {size}")
    for start in range(0, len(x), size):
        real = np.ascontiguousarray(x[start : start + size])
        padding = np.repeat(real[-1:], size - len(real), axis=0)
        yield (np.concatenate([real, padding]) if len(padding) else real), len(real)
