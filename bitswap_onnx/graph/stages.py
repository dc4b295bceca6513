"""Division of a model into stages: sub-models, one behind the other, between borders that few values cross.

A *border* is a set of values such that everything behind them depends on nothing before them. Each of its values has one
row per input, so the rows of several runs can meet at a border and go on in common batches.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np

from bitswap_onnx.graph.costs import node_macs
from bitswap_onnx.graph.slices import Slicer

#: The values that cross a border, sorted.
Border = tuple[str, ...]

#: Values that may cross a border at most: each is copied wherever rows meet.
_MOST_VALUES = 4

#: Costs in multiply-accumulates of a convolution, which a core does about 70 of per nanosecond: making one element of a
#: value, carrying one byte over a border (out of a session and into the next, in the layout of each), running a session.
_PER_ELEMENT, _PER_BYTE, _PER_RUN = 4, 30, 3_000_000

_MULTIPLYING = frozenset(("Conv", "ConvTranspose", "FusedConv", "Gemm", "MatMul", "ConvInteger", "MatMulInteger"))


@dataclass(frozen=True, slots=True)
class _Crossing:
    """A possible border: the cost of the model before it, its values, and the bytes of one row of them."""

    cost: float
    values: Border
    row_bytes: int


def divide(slicer: Slicer, may_cut: Callable[[Border], bool]) -> list[Border]:
    """Return borders that divide a model into stages, in order: first its inputs, last its output.

    They make the expected cost of a fault small, if faults are distributed as the costs of layers are: a fault costs its
    own stage, and every border behind it. ``may_cut`` refuses borders.
    """
    crossings = {crossing.values: crossing for crossing in _crossings(slicer)}
    first, last = tuple(sorted(slicer.inputs)), (slicer.output,)
    may_cut = cache(may_cut)
    while True:
        chosen = _cheapest(list(crossings.values()), slicer.batch)
        refused = [border for border in chosen if not may_cut(border)]
        if not refused:
            return [first, *chosen, last]
        for border in refused:
            del crossings[border]


def total_cost(slicer: Slicer) -> float:
    """Return the cost of the whole model per input, in multiply-accumulates of a convolution."""
    return sum(_cost(slicer, index) for index in slicer.between(slicer.inputs, (slicer.output,)))


def _cheapest(crossings: list[_Crossing], batch: int) -> list[Border]:
    """Return the borders, among ``crossings``, with the least expected cost; the last crossing is the model's end."""
    if not crossings:
        return []
    costs = np.array([0.0, *(crossing.cost for crossing in crossings)])
    total = max(costs[-1], 1.0)
    carried = np.array([0.0, *(crossing.row_bytes * _PER_BYTE + _PER_RUN / batch for crossing in crossings)])
    carried *= costs / total  # by the faults before the border
    least = np.zeros(len(costs))
    before = np.zeros(len(costs), int)
    for i in range(1, len(costs)):
        candidates = least[:i] + carried[:i] + (costs[i] - costs[:i]) ** 2 / total
        before[i] = int(np.argmin(candidates))
        least[i] = candidates[before[i]]
    chosen: list[Border] = []
    place = int(before[-1])
    while place > 0:
        chosen.append(crossings[place - 1].values)
        place = int(before[place])
    return chosen[::-1]


def _crossings(slicer: Slicer) -> Iterator[_Crossing]:
    """Yield the possible borders of a model, front to back; the last one has nothing behind it but the output."""
    needed = sorted(slicer.between(slicer.inputs, (slicer.output,)))
    sources = _Sources(slicer)
    last_reader = {name: index for index in needed for name in sources.read_by(index)}
    live: set[str] = {name for name in slicer.inputs if name in last_reader}
    cost = 0.0
    for index in needed[:-1]:
        cost += _cost(slicer, index)
        live.update(name for name in slicer.nodes[index].output if last_reader.get(name, -1) > index)
        live = {name for name in live if last_reader[name] > index}
        if 0 < len(live) <= _MOST_VALUES and all(map(slicer.has_rows, live)) and not live <= set(slicer.inputs):
            yield _Crossing(cost, tuple(sorted(live)), sum(map(slicer.row_bytes, live)))
    if needed:
        yield _Crossing(cost + _cost(slicer, needed[-1]), (slicer.output,), 0)


class _Sources:
    """Finds the values with rows from which other values are computed again behind a border."""

    def __init__(self, slicer: Slicer) -> None:
        self.slicer = slicer
        self._known: dict[str, frozenset[str]] = {}

    def read_by(self, index: int) -> frozenset[str]:
        """Return the values that a node needs: those with rows, and the inputs of the model."""
        return frozenset().union(*map(self._of, self.slicer.reads[index]))

    def _of(self, name: str) -> frozenset[str]:
        if name in self._known:
            return self._known[name]
        slicer = self.slicer
        if name in slicer.constants:
            found: frozenset[str] = frozenset()
        elif name not in slicer.producer or slicer.has_rows(name):
            found = frozenset({name})
        else:
            found = self.read_by(slicer.producer[name])
        self._known[name] = found
        return found


def _cost(slicer: Slicer, index: int) -> float:
    """Return the cost of a node per input, in multiply-accumulates."""
    node = slicer.nodes[index]
    made = sum(math.prod((slicer.dims(name) or ())[1:]) for name in node.output if name and slicer.has_rows(name))
    return _PER_ELEMENT * made + (node_macs(slicer, index) if node.op_type in _MULTIPLYING else 0)
