"""Faults that make every kind of number, and inputs, to try a lane with before it is used."""

import math
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitswap_onnx.faults.bits import FORMATS, BitFormat, to_bits
from bitswap_onnx.graph.model import Model
from bitswap_onnx.graph.neurons import ALL_INPUTS
from bitswap_onnx.graph.receipts import InjectionEdits
from bitswap_onnx.graph.sites import NeuronSite

#: Elements of a tensor that planted faults hit.
_PLANTED = 16


def plant(model: Model, path: tuple[str, ...], sites: Mapping[str, NeuronSite]) -> list[InjectionEdits]:
    """Return injections that put numbers of every kind into a path's tensors and ``sites``; they are to share batches.

    The first makes the middle element as large as its format allows, so that Inf spreads from it, and NaN (Inf times 0).
    The second makes elements all over a tensor subnormal, and every other one an ordinary number of either sign: channels
    that are dead without a fault may live with one, and show how they round. The others give elements all over it other
    mantissas, at least 16 in all: what a kernel makes of parameters when it is loaded may round otherwise in a part of the
    model, which clean ones need not show. Of integers a bit flips. Neurons are hit in every input.
    """
    sizes = {key: sites[key].elements if key in sites else model.tensor(key).size for key in path}
    noisy = math.ceil(_PLANTED / min(_PLANTED, *sizes.values()))
    plants: list[dict[str, list[tuple[int, ...]]]] = [{} for _ in range(2 + noisy)]
    for key in path:
        fmt = sites[key].format if key in sites else FORMATS[model.tensor(key).dtype.name]
        change = _set_neuron if key in sites else partial(_change, model.tensor(key))
        largest = sum(1 << bit for bit in fmt.exponent) - 1
        spread = np.unique(np.linspace(0, sizes[key] - 1, _PLANTED).astype(int)).tolist()
        draw = np.random.default_rng(0)
        plants[0][key] = [change(sizes[key] // 2, largest, fmt)]
        patterns = [_ordinary(draw, fmt) if number % 2 else 1 for number in range(len(spread))]
        plants[1][key] = [change(element, pattern, fmt) for element, pattern in zip(spread, patterns, strict=True)]
        for noise in plants[2:]:
            masks = draw.integers(1, 1 << max(fmt.exponent.start, 1), len(spread)).tolist()
            if key in sites:
                every = (1 << fmt.width) - 1
                noise[key] = [(ALL_INPUTS, element, every, mask) for element, mask in zip(spread, masks, strict=True)]
            else:
                noise[key] = list(zip(spread, masks, strict=True))
    return list(plants)


def _ordinary(draw: np.random.Generator, fmt: BitFormat) -> int:
    """Return the bits of a random number between 1/8 and 2 of either sign, or of any, where the format is of integers."""
    if not fmt.is_float:
        return int(draw.integers(1 << (fmt.width - 1)))
    number = np.array([draw.choice((-1.0, 1.0)) * 2.0 ** draw.uniform(-3, 1)]).astype(fmt.dtype)
    return int(to_bits(number)[0])


def alike(inputs: NDArray[Any], count: int) -> NDArray[Any]:
    """Return ``count`` random inputs of the kind of ``inputs`` (n, ...): their numbers, shuffled; floats shrunk."""
    draw = np.random.default_rng(0)
    rows = np.stack([draw.permutation(inputs[i % len(inputs)].reshape(-1)) for i in range(count)])
    if inputs.dtype.kind == "f":
        rows = (rows * draw.uniform(0.1, 1.0, rows.shape)).astype(inputs.dtype)
    return rows.reshape(count, *inputs.shape[1:])


def _set_neuron(element: int, pattern: int, fmt: BitFormat) -> tuple[int, ...]:
    """Return the edit that gives a neuron a bit pattern, or flips an integer's top bit."""
    if fmt.is_float:
        return ALL_INPUTS, element, 0, pattern
    return ALL_INPUTS, element, (1 << fmt.width) - 1, 1 << (fmt.width - 1)


def _change(array: NDArray[Any], element: int, pattern: int, fmt: BitFormat) -> tuple[int, ...]:
    """Return the edit that gives a float element a bit pattern, or flips an integer's top bit."""
    clean = int(to_bits(np.ascontiguousarray(array.reshape(-1)[element : element + 1]))[0])
    return element, clean ^ pattern if fmt.is_float else 1 << (fmt.width - 1)
