"""Golden values of some inputs: at the borders of the chain, and within a stage."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitswap_onnx.outcome import Scores
from bitswap_onnx.runtime.chain import Arrays, Chain
from bitswap_onnx.runtime.lanes import Block, flat, same
from bitswap_onnx.runtime.memory import aligned_empty
from bitswap_onnx.runtime.stopwatch import STOPWATCH
from bitswap_onnx.runtime.submodel import Submodel


@dataclass(frozen=True, eq=False)
class InnerValues:
    """Golden values ``names`` within a stage: ``part`` makes them from the border before it, where some may lie already."""

    stage: int
    names: frozenset[str]
    part: Submodel

    @property
    def facts(self) -> list[Any]:
        """What tells them from other golden values of a chain, as JSON has it."""
        return [self.stage, sorted(self.names)]


@dataclass(frozen=True, eq=False)
class GoldenBlock(Block):
    """A block whose golden values are computed by the ``chain`` when they are first read.

    A value is an array over whole batches, the last batch padded. Borders that were not read for longest are forgotten
    where all together exceed ``memory`` bytes.
    """

    chain: Chain
    memory: int
    _borders: dict[int, Arrays] = field(default_factory=dict, init=False)
    _inner: dict[InnerValues, Arrays] = field(default_factory=dict, init=False)

    @property
    def rows(self) -> int:
        """Number of inputs, rounded up to whole batches."""
        return math.ceil(self.count / self.size) * self.size

    def border(self, number: int) -> Arrays:
        """Return the golden values at a border."""
        if number not in self._borders:
            nearest = max((known for known in self._borders if known < number), default=None)
            for reached in range(0 if nearest is None else nearest + 1, number + 1):
                self._borders[reached] = self._behind(reached - 1) if reached else self._padded_inputs()
                self._forget()
        self._borders[number] = self._borders.pop(number)  # read last
        return self._borders[number]

    def inner(self, wanted: InnerValues) -> Arrays:
        """Return golden values within a stage; those of one stage are kept."""
        if wanted not in self._inner:
            self._inner.clear()
            before = self.border(wanted.stage)
            made = self._computed(wanted.part, before, wanted.names.intersection(wanted.part.outputs))
            self._inner[wanted] = {name: made[name] if name in made else before[name] for name in wanted.names}
        return self._inner[wanted]

    @cached_property
    def golden_inputs(self) -> int:
        """How many inputs keep their golden scores in the chain, from its start to its end: all of them if it is exact."""
        made: Scores = flat(self.border(self.chain.count)[self.chain.slicer.output][: self.count])
        return int(same(made, self.scores).sum())

    def _padded_inputs(self) -> Arrays:
        (source,) = self.chain.slicer.inputs
        array = aligned_empty((self.rows, *self.inputs.shape[1:]), self.inputs.dtype)
        array[: self.count] = self.inputs
        array[self.count :] = self.inputs[-1:]
        return {source: array}

    def _behind(self, stage: int) -> Arrays:
        before = self._borders[stage]
        computed = self._computed(self.chain.stage(stage), before, self.chain.computed(stage))
        return {name: computed[name] if name in computed else before[name] for name in self.chain.borders[stage + 1]}

    @STOPWATCH.span("golden")
    def _computed(self, part: Submodel, before: Arrays, names: Iterable[str]) -> Arrays:
        made = {name: self._array(name) for name in names}
        if not made:
            return made
        for start in range(0, self.rows, self.size):
            batch = slice(start, start + self.size)
            feeds = {name: before[name][batch] for name in part.inputs}
            part.run_into(feeds, {name: array[batch] for name, array in made.items()})
        return made

    def _array(self, name: str) -> NDArray[Any]:
        slicer = self.chain.slicer
        return aligned_empty((self.rows, *(slicer.dims(name) or ())[1:]), slicer.dtype(name))

    def _forget(self) -> None:
        """Forget the borders that were not read for longest; the last two always stay."""
        while len(self._borders) > 2 and self._bytes() > self.memory:
            del self._borders[next(iter(self._borders))]

    def _bytes(self) -> int:
        arrays = {id(array): array.nbytes for values in self._borders.values() for array in values.values()}
        return sum(arrays.values())


def rows_that_differ(values: Arrays, golden: Arrays, rows: slice) -> NDArray[np.bool_]:
    """Return which rows of one batch of ``values`` have other bits than the golden ``rows``."""
    differ = [_differ(array, golden[name][rows]) for name, array in values.items()]
    return np.asarray(np.logical_or.reduce(differ), np.bool_)


def _differ(array: NDArray[Any], golden: NDArray[Any]) -> NDArray[np.bool_]:
    kind = f"u{array.dtype.itemsize}"
    return np.asarray((array.view(kind) != golden.view(kind)).reshape(len(array), -1).any(axis=1))


def unequal_rows(values: Arrays, golden: Arrays) -> int:
    """Return how many rows hold other numbers than the golden ones: NaN is equal to NaN, and -0 to 0."""
    equal = [_equal(array, golden[name]) for name, array in values.items()]
    return int((~np.logical_and.reduce(equal)).sum()) if equal else 0


def _equal(array: NDArray[Any], golden: NDArray[Any]) -> NDArray[np.bool_]:
    same_number = (array == golden) | ((array != array) & (golden != golden))
    return np.asarray(same_number.all(axis=tuple(range(1, array.ndim))))
