"""Faults that make every kind of number, to try a lane with before it is used."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitswap_onnx.faults.bits import FORMATS, to_bits
from bitswap_onnx.graph.model import Model
from bitswap_onnx.graph.weights import Edits

#: Elements of a tensor that planted faults hit.
_PLANTED = 16


def plant(model: Model, path: tuple[str, ...]) -> list[Edits]:
    """Return injections that put numbers of every kind into the tensors of a path; they are to share batches.

    The first spreads Inf, with it NaN (Inf times 0), from the middle element. The second makes elements all over a
    tensor subnormal. The others give them other mantissas, at least 16 in all: what a kernel makes of parameters when it
    is loaded may round otherwise in a part of the model, which the clean ones need not show. Of integers a bit flips.
    """
    smallest = min(model.tensor(tensor).size for tensor in path)
    noisy = math.ceil(_PLANTED / min(smallest, _PLANTED))
    plants: list[dict[str, list[tuple[int, int]]]] = [{} for _ in range(2 + noisy)]
    for tensor in path:
        array = model.tensor(tensor)
        fmt = FORMATS[array.dtype.name]
        infinity = sum(1 << bit for bit in fmt.exponent)
        spread = np.unique(np.linspace(0, array.size - 1, _PLANTED).astype(int)).tolist()
        draw = np.random.default_rng(0)
        plants[0][tensor] = [_change(array, array.size // 2, infinity)]
        plants[1][tensor] = [_change(array, element, 1) for element in spread]
        for noise in plants[2:]:
            masks = draw.integers(1, 1 << max(fmt.exponent.start, 1), len(spread)).tolist()
            noise[tensor] = list(zip(spread, masks, strict=True))
    return list(plants)


def _change(array: NDArray[Any], element: int, pattern: int) -> tuple[int, int]:
    """Return the edit that gives a float element a bit pattern, or flips an integer's top bit."""
    fmt = FORMATS[array.dtype.name]
    clean = int(to_bits(np.ascontiguousarray(array.reshape(-1)[element : element + 1]))[0])
    return element, clean ^ pattern if fmt.is_float else 1 << (fmt.width - 1)
