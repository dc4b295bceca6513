"""Planted faults: they make every kind of number, and a lane is tried with them before it is used."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from bitswap_onnx.faults.bits import FORMATS, BitFormat, to_bits
from bitswap_onnx.graph.edits import ALL_INPUTS, InjectionEdits, NeuronEdit, WeightEdit
from bitswap_onnx.graph.model import Model
from bitswap_onnx.graph.sites import NeuronSite
from bitswap_onnx.graph.stretches import ROWS

#: Elements of a tensor or site that each planted injection hits, at most: as many as a run of a stretch has room for.
_PLANTED = ROWS - 1


def plant(model: Model, path: tuple[str, ...], sites: Mapping[str, NeuronSite]) -> list[InjectionEdits]:
    """Return injections that put numbers of every kind into the tensors and ``sites`` of a path, to run in common batches.

    - The first makes the middle element as large as its format allows: Inf spreads from it, and NaN (Inf times 0).
    - The second hits elements all over a tensor. Every other one becomes subnormal; the others become ordinary numbers of
      either sign, so that channels that are dead without a fault may live and show how they round.
    - The others change mantissas all over a tensor, of at least 15 elements in all. A part of the model may prepare
      parameters at loading with another rounding than the whole model, which clean parameters need not show.

    Of integers a bit flips. Neurons are hit in every input.
    """
    stored = {key: _Stored(model.tensor(key)) for key in path if key not in sites}
    neurons = {key: _Neurons(sites[key]) for key in path if key in sites}
    sizes = [tensor.size for tensor in stored.values()] + [site.size for site in neurons.values()]
    noisy = math.ceil(_PLANTED / min(_PLANTED, *sizes))
    weight_edits = {key: _planted(place, noisy) for key, place in stored.items()}
    neuron_edits = {key: _planted(place, noisy) for key, place in neurons.items()}
    return [
        InjectionEdits(
            {key: edits[number] for key, edits in weight_edits.items()},
            {key: edits[number] for key, edits in neuron_edits.items()},
        )
        for number in range(2 + noisy)
    ]


_Edit = TypeVar("_Edit", covariant=True)


class _Place(Protocol[_Edit]):
    """A tensor or site: makes the edits of its elements."""

    @property
    def size(self) -> int:
        """Number of elements."""

    @property
    def format(self) -> BitFormat:
        """How an element lays out its bits."""

    def set(self, element: int, pattern: int) -> _Edit:
        """Return the edit that gives a float element the bits ``pattern``, or flips an integer's top bit."""

    def flip(self, element: int, mask: int) -> _Edit:
        """Return the edit that flips the bits of ``mask``."""


@dataclass(frozen=True, eq=False)
class _Stored:
    array: NDArray[Any]

    @property
    def size(self) -> int:
        return int(self.array.size)

    @property
    def format(self) -> BitFormat:
        return FORMATS[self.array.dtype.name]

    def set(self, element: int, pattern: int) -> WeightEdit:
        clean = int(to_bits(np.ascontiguousarray(self.array.reshape(-1)[element : element + 1]))[0])
        return WeightEdit(element, clean ^ pattern if self.format.is_float else 1 << (self.format.width - 1))

    def flip(self, element: int, mask: int) -> WeightEdit:
        return WeightEdit(element, mask)


@dataclass(frozen=True, eq=False)
class _Neurons:
    site: NeuronSite

    @property
    def size(self) -> int:
        return self.site.elements

    @property
    def format(self) -> BitFormat:
        return self.site.format

    def set(self, element: int, pattern: int) -> NeuronEdit:
        if self.format.is_float:
            return NeuronEdit(ALL_INPUTS, element, keep=0, toggle=pattern)
        return self.flip(element, 1 << (self.format.width - 1))

    def flip(self, element: int, mask: int) -> NeuronEdit:
        return NeuronEdit(ALL_INPUTS, element, keep=(1 << self.format.width) - 1, toggle=mask)


def _planted(place: _Place[_Edit], noisy: int) -> list[list[_Edit]]:
    """Return the edits of one tensor or site, for each planted injection; ``noisy`` of them change mantissas."""
    fmt, draw = place.format, np.random.default_rng(0)
    largest = sum(1 << bit for bit in fmt.exponent) - 1
    spread = np.unique(np.linspace(0, place.size - 1, _PLANTED).astype(int)).tolist()
    patterns = [_ordinary(draw, fmt) if number % 2 else 1 for number in range(len(spread))]
    planted = [[place.set(place.size // 2, largest)], list(map(place.set, spread, patterns))]
    for _ in range(noisy):
        masks = draw.integers(1, 1 << max(fmt.exponent.start, 1), len(spread)).tolist()
        planted.append(list(map(place.flip, spread, masks)))
    return planted


def _ordinary(draw: np.random.Generator, fmt: BitFormat) -> int:
    """Return the bits of a random number: between 1/8 and 2, of either sign; of an integer format, any non-negative one."""
    if not fmt.is_float:
        return int(draw.integers(1 << (fmt.width - 1)))
    number = np.array([draw.choice((-1.0, 1.0)) * 2.0 ** draw.uniform(-3, 1)]).astype(fmt.dtype)
    return int(to_bits(number)[0])
