"""The chain: a model as stages, one behind the other, each a sub-model of its own, that together keep the golden bits."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitswap_onnx.errors import ModelError
from bitswap_onnx.graph.model import Model
from bitswap_onnx.graph.slices import Slicer
from bitswap_onnx.graph.stages import Border
from bitswap_onnx.runtime.chain_plan import ChainPlan
from bitswap_onnx.runtime.session import Numerics
from bitswap_onnx.runtime.submodel import Submodel, open_part

#: Arrays by name; each has one row per input.
Arrays = dict[str, NDArray[Any]]


#: Batches that pass all stages behind a border before these are loaded as one sub-model too.
_PASSES = 64


@dataclass(eq=False)
class Chain:
    """The stages of the model in ``slicer``: stage i leads from ``borders[i]`` to ``borders[i + 1]``.

    The first border is the model's input, the last one its scores. ``blocked``: the stages whose images enter in blocked
    layout (`bitswap_onnx.runtime.submodel.open_part`). ``direct_memory``: bytes for sub-models from a border to the scores,
    which stand in for several stages where many batches pass.
    """

    slicer: Slicer
    numerics: Numerics
    borders: tuple[Border, ...]
    blocked: frozenset[int] = frozenset()
    direct_memory: int = 0
    _loaded: dict[int, Submodel] = field(default_factory=dict, init=False, repr=False)
    _passes: Counter[int] = field(default_factory=Counter, init=False, repr=False)
    _direct: dict[int, Submodel] = field(default_factory=dict, init=False, repr=False)

    @property
    def plan(self) -> ChainPlan:
        """The division, for a chain of the same model elsewhere."""
        return ChainPlan(self.borders, tuple(sorted(self.blocked)))

    @property
    def count(self) -> int:
        """Number of stages."""
        return len(self.borders) - 1

    @cached_property
    def nodes(self) -> tuple[frozenset[int], ...]:
        """The nodes of each stage; a value without rows may be computed again in several stages."""
        between = self.slicer.between
        return tuple(frozenset(between(self.borders[i], self.borders[i + 1])) for i in range(self.count))

    def span(self, nodes: Iterable[int]) -> tuple[int, int] | None:
        """Return the border before the first stage that has one of ``nodes``, and that behind the last; None if none has."""
        wanted = set(nodes)
        stages = [i for i in range(self.count) if not wanted.isdisjoint(self.nodes[i])]
        return (stages[0], stages[-1] + 1) if stages else None

    def computed(self, stage: int) -> tuple[str, ...]:
        """Return the values behind a stage that it computes; others pass by it."""
        return tuple(name for name in self.borders[stage + 1] if name not in self.borders[stage])

    def entering(self, stage: int) -> tuple[str, ...]:
        """Return the values before a stage that its nodes read."""
        read = {name for node in self.nodes[stage] for name in self.slicer.reads[node]}
        return tuple(name for name in self.borders[stage] if name in read)

    def extract(self, first: int, last: int) -> Model:
        """Return the sub-model from border ``first`` to border ``last``."""
        outputs = [name for name in self.borders[last] if name not in self.borders[first]]
        nodes = self.slicer.between(self.borders[first], outputs)
        read = {name for node in nodes for name in self.slicer.reads[node]}
        return self.slicer.extract([name for name in self.borders[first] if name in read], outputs)

    def stage(self, number: int) -> Submodel:
        """Return a loaded stage."""
        if number not in self._loaded:
            model = self.extract(number, number + 1)
            self._loaded[number] = open_part(model, self.numerics, number in self.blocked)
        return self._loaded[number]

    def run(self, number: int, values: Arrays) -> Arrays:
        """Return the values behind a stage for one batch of the values before it."""
        part = self.stage(number)
        made = dict(zip(part.outputs, part.run({name: values[name] for name in part.inputs}), strict=True))
        return {name: made[name] if name in made else values[name] for name in self.borders[number + 1]}

    def run_through(self, first: int, last: int, values: Arrays) -> Arrays:
        """Return the values at border ``last`` for one batch of those at border ``first``."""
        if last == self.count and first in self._direct:
            part = self._direct[first]
            return dict(zip(part.outputs, part.run({name: values[name] for name in part.inputs}), strict=True))
        made = values
        for number in range(first, last):
            made = self.run(number, made)
        if last == self.count and last - first > 1:
            self._passes[first] += 1
            if self._passes[first] == _PASSES:
                self._try_direct(first, values, made)
        return made

    def _try_direct(self, border: int, values: Arrays, expected: Arrays) -> None:
        """Load all stages behind a border as one sub-model, if it gives ``expected`` for a batch, in any order of rows."""
        needed = self.slicer.loaded_bytes(self.borders[border], self.borders[-1])
        if needed > self.direct_memory:
            return
        try:
            part = open_part(self.extract(border, self.count), self.numerics, border in self.blocked)
            (name,) = part.outputs
            for order in orders(len(expected[name])):
                (made,) = part.run({name: values[name][order] for name in part.inputs})
                if not same_numbers(made, expected[name][order]):
                    return
        except ModelError:  # the stages do without it
            return
        self.direct_memory -= needed
        self._direct[border] = part

    def stage_bytes(self, stage: int) -> int:
        """Return the bytes of one row of all values of a stage: at both its borders, and within."""
        slicer = self.slicer
        names = {name for node in self.nodes[stage] for name in slicer.nodes[node].output if name}
        names |= {*self.borders[stage], *self.borders[stage + 1]}
        return sum(slicer.row_bytes(name) for name in names if slicer.has_rows(name))


def undivided(slicer: Slicer, numerics: Numerics) -> Chain:
    """Return the chain of one stage, the whole model."""
    return Chain(slicer, numerics, (tuple(sorted(slicer.inputs)), (slicer.output,)))


def find_chain(
    slicer: Slicer,
    numerics: Numerics,
    borders: Sequence[Border],
    inputs: NDArray[Any],
    scores: NDArray[Any],
    count: int | None = None,
) -> Chain:
    """Return a chain with those ``borders`` that keep the golden bits on the first ``count`` of ``inputs`` (n, ...).

    These are whole batches, with golden ``scores`` (n, classes). Reading the borders may change the scores of none of them:
    where a value is read the runtime may compute otherwise, and few scores may show it. Each stage is compared with the
    whole model, value by value, on its rows rotated by one, and with each row of one half twice: an operator that sees other
    rows may give the same in any order, but not beside other rows. A stage that is not exact is tried with its images in
    blocked layout, and then joined with the one before or behind it.
    """
    if len(borders) < 3:
        return undivided(slicer, numerics)
    observed = _observe(slicer, numerics, borders[1:-1], inputs, scores, len(inputs) if count is None else count)
    seen = [border for border in borders if all(name in observed for name in border)]
    return _exact_chain(slicer, numerics, seen, observed) if len(seen) > 2 else undivided(slicer, numerics)


def _exact_chain(slicer: Slicer, numerics: Numerics, borders: list[Border], observed: Arrays) -> Chain:
    """Return the chain of those ``borders`` between which stages are exact, from front to back.

    Where no exact stage leads from one border to the next, the former is left out if that helps, else the latter.
    """
    kept, entries = [borders[0]], list[bool]()
    waiting = borders[1:]

    def entry(start: int) -> bool | None:
        """Return the exact entry, blocked or not, of a stage from a kept border to the next one waiting."""
        trial = Chain(slicer, numerics, (kept[start], waiting[0]))
        likely = entries[start - 1] if start else False  # the model's own input is plain
        tried = (likely, not likely) if numerics.layout == "blocked" and start else (False,)
        return next((blocked for blocked in tried if _is_exact(trial, blocked, observed)), None)

    while waiting:
        start = len(kept) - 1
        found = entry(start)
        if found is None and start > 0 and (found := entry(start - 1)) is not None:
            start -= 1
        if found is not None:
            del kept[start + 1 :], entries[start:]
            kept.append(waiting.pop(0))
            entries.append(found)
        elif len(waiting) > 1:
            del waiting[0]
        elif start > 0:
            del kept[start:], entries[start - 1 :]
        else:
            return undivided(slicer, numerics)
    return Chain(slicer, numerics, tuple(kept), frozenset(i for i, blocked in enumerate(entries) if blocked))


def _is_exact(trial: Chain, blocked: bool, observed: Arrays) -> bool:
    """Whether the one stage of ``trial`` makes the observed values from those before it, whatever the order of rows."""
    size = trial.numerics.batch_size
    try:
        part = open_part(trial.extract(0, 1), trial.numerics, blocked)
        for order in orders(len(observed[trial.borders[0][0]])):
            for first in range(0, len(order), size):
                rows = order[first : first + size]
                made = part.run({name: observed[name][rows] for name in part.inputs})
                if not all(map(same_numbers, made, (observed[name][rows] for name in part.outputs))):
                    return False
    except ModelError:  # a part that the runtime does not take
        return False
    return True


def orders(count: int) -> Sequence[NDArray[np.intp]]:
    """Return orders of ``count`` rows to try: rotated by one, and each row of one half twice."""
    rows = np.arange(count)
    return np.roll(rows, 1), rows // 2


def same_numbers(array: NDArray[Any], other: NDArray[Any]) -> bool:
    """Whether two arrays hold equal numbers, NaN beside NaN."""
    return np.array_equal(array, other, equal_nan=array.dtype.kind in "fc")


def _observe(
    slicer: Slicer,
    numerics: Numerics,
    borders: Sequence[Border],
    inputs: NDArray[Any],
    scores: NDArray[Any],
    count: int,
) -> Arrays:
    """Return values of the whole model at ``borders``, its input and its scores; without those whose reading changes scores.

    The values are those of the first ``count`` of ``inputs``.

    Reading a value can end a fusion of kernels. Then the borders are read one by one, and those kept that change nothing.
    """
    together = _read(slicer, numerics, {name for border in borders for name in border}, inputs, scores, count)
    if together is not None:
        return together
    values: Arrays = {}
    for border in borders:
        values |= _read(slicer, numerics, set(border), inputs, scores, count) or {}
    return values


def _read(
    slicer: Slicer, numerics: Numerics, names: set[str], inputs: NDArray[Any], scores: NDArray[Any], count: int
) -> Arrays | None:
    """Return values of the whole model, its input and scores; None if the scores change, or values cannot be read."""
    (source,) = slicer.inputs
    computed = sorted((names | {slicer.output}) - {source})
    size = numerics.batch_size
    try:
        part = open_part(slicer.extract(slicer.inputs, computed), numerics)
        batches = [part.run({source: inputs[first : first + size]}) for first in range(0, count, size)]
        for first in range(count, len(inputs), size):
            (made,) = part.values([slicer.output], {source: inputs[first : first + size]})
            if not (made.reshape(size, -1) == scores[first : first + size]).all():
                return None
    except ModelError:  # a type that arrays cannot hold
        return None
    values = {
        name: np.concatenate(arrays) for name, arrays in zip(part.outputs, zip(*batches, strict=True), strict=True)
    }
    if not (values[slicer.output].reshape(count, -1) == scores[:count]).all():
        return None
    return values | {source: np.asarray(inputs[:count])}
