"""Synthetic inputs: seeded noise in the shape of a model's input, for a user who asks for it instead of data."""

import math
import re
from typing import Any

import numpy as np

from bitswap_onnx.data.dataset import Dataset
from bitswap_onnx.data.preprocessing import is_float
from bitswap_onnx.errors import DataError, amount

#: Inputs where ``synthetic`` stands without a number.
DEFAULT_INPUTS = 128

#: Bytes of synthetic inputs, at most.
_MOST_BYTES = 1 << 33


def is_synthetic(data: object) -> bool:
    """Whether ``data`` asks for synthetic inputs: as text; a `Path`, or ``./synthetic``, is a file of that name."""
    return isinstance(data, str) and data.partition(":")[0] == "synthetic"


def synthetic_count(data: str) -> int | None:
    """Return the number of inputs in ``synthetic:N``, None for ``synthetic`` alone; raises DataError."""
    match = re.fullmatch(r"synthetic(?::([1-9][0-9]{0,17}))?", data, re.ASCII)
    if match is None:
        raise DataError(f"`data`: expected synthetic, or synthetic:N with N from 1 on, found {data[:80]!r}")
    return int(match[1]) if match[1] else None


def synthetic_dataset(input_shape: tuple[int, ...], dtype: np.dtype[Any], count: int, seed: int) -> Dataset:
    """Return ``count`` inputs of standard-normal values drawn in float32 with ``seed``, no labels; raises DataError."""
    dtype = np.dtype(dtype)
    if not is_float(dtype):
        raise DataError(f"the model takes {dtype} and synthetic inputs are floats; give a dataset as `data`")
    if count < 1:
        raise DataError(f"`count`: expected at least 1 synthetic input, found {count}")
    size = 4 * count * math.prod(input_shape)
    if size > _MOST_BYTES:
        raise DataError(
            f"the model's input has shape {input_shape}: {amount(count, 'synthetic input')} would take "
            f"{size / 1e9:,.0f} GB, more than {_MOST_BYTES / 1e9:,.0f}; give a dataset as `data`"
        )
    try:
        values = np.random.default_rng(seed).standard_normal((count, *input_shape), np.float32).astype(dtype)
    except MemoryError:
        raise DataError(
            f"no memory for {amount(count, 'synthetic input')} of shape {input_shape}; give a dataset as `data`"
        ) from None
    source = f"{amount(count, 'synthetic input')}, standard normal with seed {seed}, no labels"
    return Dataset("synthetic", source, None, input_shape, dtype, count, lambda a, b: values[a:b].copy())
