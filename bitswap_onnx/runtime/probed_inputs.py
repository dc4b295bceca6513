"""Inputs to try chains and lanes with."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray


def inputs_to_probe(inputs: NDArray[Any], least: int, size: int) -> NDArray[Any]:
    """Return whole batches of ``size`` inputs, ``least`` or more: the first ones, filled up with random ones like them."""
    count = math.ceil(least / size) * size
    if len(inputs) >= count:
        return inputs[:count]
    return np.concatenate([inputs, _random_inputs_like(inputs, count - len(inputs))])


def _random_inputs_like(inputs: NDArray[Any], count: int) -> NDArray[Any]:
    """Return ``count`` random inputs made from ``inputs`` (n, ...): the numbers of each shuffled, floats scaled down."""
    draw = np.random.default_rng(0)
    rows = np.stack([draw.permutation(inputs[i % len(inputs)].reshape(-1)) for i in range(count)])
    if inputs.dtype.kind == "f":
        rows = (rows * draw.uniform(0.1, 1.0, rows.shape)).astype(inputs.dtype)
    return rows.reshape(count, *inputs.shape[1:])
