"""Common batches: rows of many injections run together through the stages behind their faults.

Rows whose values a fault has changed wait at a border until they fill a batch, whatever injection and path they belong to.
A full batch runs through all later stages. In every batch one row is golden, at a place that moves on: it must come out
golden, so every session is controlled while it carries faults.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitswap_onnx.graph.stages import Border
from bitswap_onnx.outcome import Scores
from bitswap_onnx.runtime.chain import Arrays, Chain
from bitswap_onnx.runtime.golden_block import GoldenBlock, rows_that_differ, unequal_rows
from bitswap_onnx.runtime.lanes import FaultyScores, flat, same
from bitswap_onnx.runtime.memory import aligned_empty
from bitswap_onnx.runtime.submodel import Submodel, open_part

#: The owner of a golden row.
_GOLDEN = -1

#: Batches of fewer rows have no room for a golden one: a whole golden batch runs beside every eighth of them.
_LEAST_FOR_GOLDEN_ROW = 8
_BATCHES_PER_GOLDEN_BATCH = 8

#: Writes some of the rows to add, given by their slice, into arrays (rows, ...) by name.
Write = Callable[[Arrays, slice], None]


@dataclass(frozen=True, eq=False)
class Rest:
    """The rest of a stage: it makes the values ``computed`` of the border behind the stage from values within it.

    ``blocked``: its images enter in blocked layout.
    """

    chain: Chain
    stage: int
    names: Border
    computed: Border
    blocked: bool
    _loaded: list[Submodel] = field(default_factory=list, init=False, repr=False)

    @property
    def part(self) -> Submodel:
        """The sub-model, loaded."""
        if not self._loaded:
            model = self.chain.slicer.extract(self.names, self.computed)
            self._loaded.append(open_part(model, self.chain.numerics, self.blocked))
        return self._loaded[0]

    @property
    def loaded_bytes(self) -> int:
        """Estimated bytes of the sub-model."""
        return self.chain.slicer.loaded_bytes(self.names, self.computed)


#: Where rows are added: at a border, or within a stage.
RowPlace = int | Rest


def place_facts(place: RowPlace) -> int | list[Any]:
    """Return what tells a place from any other of a chain, as JSON has it."""
    return place if isinstance(place, int) else [place.stage, place.names, place.computed, place.blocked]


@dataclass(eq=False)
class _Waiting:
    """Rows that wait at one place for a batch to be full.

    The row at ``golden_slot`` is golden; once it is there, ``golden_slot`` is the size of the batch.
    """

    arrays: Arrays
    golden: Arrays
    owners: NDArray[np.intp]
    inputs: NDArray[np.intp]
    golden_slot: int
    count: int = 0


@dataclass(eq=False)
class CommonBatches:
    """Runs rows of a ``block`` to its scores, or only to the border ``end``.

    ``lost``: golden rows, and rows reported by `report`, that did not come out golden.
    """

    block: GoldenBlock
    end: int
    lost: int = 0
    _waiting: dict[RowPlace, _Waiting] = field(default_factory=dict, init=False)
    _ran: set[int] = field(default_factory=set, init=False)
    _done: list[tuple[NDArray[np.intp], NDArray[np.intp], Arrays]] = field(default_factory=list, init=False)
    _batches: int = field(default=0, init=False)
    _runs: int = field(default=0, init=False)

    @property
    def chain(self) -> Chain:
        """The chain of the block."""
        return self.block.chain

    def add(
        self, place: RowPlace, golden: Arrays, owners: NDArray[np.intp], inputs: NDArray[np.intp], write: Write
    ) -> None:
        """Add rows that belong to the block's ``inputs`` and the injections ``owners``; ``write`` gives their values.

        ``golden`` holds the golden values at the place.
        """
        if not len(owners):
            return
        if place == self.end:
            self._collect_written(owners, inputs, write)
            return
        done = 0
        while done < len(owners):
            waiting = self._at(place, golden)
            if waiting.count == waiting.golden_slot:
                self._add_golden_row(waiting)
            limit = waiting.golden_slot if waiting.count < waiting.golden_slot else self.block.size
            number = min(limit - waiting.count, len(owners) - done)
            if number:
                slots = slice(waiting.count, waiting.count + number)
                write({name: array[slots] for name, array in waiting.arrays.items()}, slice(done, done + number))
                waiting.owners[slots] = owners[done : done + number]
                waiting.inputs[slots] = inputs[done : done + number]
                waiting.count += number
                done += number
            if waiting.count == self.block.size:
                self._run_full(place, self._waiting.pop(place))

    def report(self, lost: int) -> None:
        """Count golden rows that a lane found changed."""
        self.lost += lost

    def finish(self, numbers: Iterable[int]) -> None:
        """Note that a lane has added all rows of the injections ``numbers``."""
        self._ran.update(numbers)

    def drain(self) -> None:
        """Run all rows that still wait."""
        for place in [place for place in self._waiting if isinstance(place, Rest)]:
            self._run_full(place, self._padded(self._waiting.pop(place)))
        while self._waiting:
            border = min(place for place in self._waiting if isinstance(place, int))
            waiting = self._padded(self._waiting.pop(border))
            real = np.flatnonzero(waiting.owners >= _GOLDEN)
            if not (waiting.owners >= 0).any():
                continue
            values = self.chain.run(border, waiting.arrays)
            self._pass_on(border + 1, values, waiting.owners[real], waiting.inputs[real], real)
            if self._wants_golden_batch():
                self._run_golden_batch(border, waiting, in_stages=True)

    def scores(self, numbers: Iterable[int]) -> FaultyScores:
        """Return the scores that were collected for the injections ``numbers``, which ascend and are finished."""
        numbers = list(numbers)
        if self._waiting or not self._ran.issuperset(numbers):
            raise AssertionError("rows of some injections did not run")
        owners, inputs, values = self.collected()
        output = self.chain.slicer.output
        scores: Scores = flat(values[output]) if values else self.block.scores[:0]
        order = np.argsort(owners, kind="stable")
        bounds = [*np.searchsorted(owners[order], numbers).tolist(), len(owners)]
        return FaultyScores(self.block.count, numbers, inputs[order], bounds, scores[order])

    def collected(self) -> tuple[NDArray[np.intp], NDArray[np.intp], Arrays]:
        """Return the owners, the inputs and the values of all rows that reached the end."""
        if not self._done:
            empty = np.empty(0, np.intp)
            return empty, empty, {}
        owners, inputs, values = zip(*self._done, strict=True)
        arrays = {name: np.concatenate([each[name] for each in values]) for name in values[0]}
        return np.concatenate(owners), np.concatenate(inputs), arrays

    def _at(self, place: RowPlace, golden: Arrays) -> _Waiting:
        if place not in self._waiting:
            size = self.block.size
            names = self.chain.borders[place] if isinstance(place, int) else place.names
            arrays = {name: aligned_empty((size, *golden[name].shape[1:]), golden[name].dtype) for name in names}
            owners, inputs = np.full(size, _GOLDEN - 1, np.intp), np.zeros(size, np.intp)
            slot = self._batches % size if size >= _LEAST_FOR_GOLDEN_ROW else size
            self._waiting[place] = _Waiting(arrays, golden, owners, inputs, slot)
            self._batches += 1
        return self._waiting[place]

    def _add_golden_row(self, waiting: _Waiting) -> None:
        row = self._batches % self.block.count
        for name, array in waiting.arrays.items():
            array[waiting.count] = waiting.golden[name][row]
        waiting.owners[waiting.count], waiting.inputs[waiting.count] = _GOLDEN, row
        waiting.count += 1
        waiting.golden_slot = self.block.size

    def _padded(self, waiting: _Waiting) -> _Waiting:
        """Fill up a batch: with a golden row if it has none yet, then with copies of its first row."""
        if waiting.golden_slot < self.block.size:
            self._add_golden_row(waiting)
        for array in waiting.arrays.values():
            array[waiting.count :] = array[:1]
        return waiting

    def _run_full(self, place: RowPlace, waiting: _Waiting) -> None:
        real = np.flatnonzero(waiting.owners >= _GOLDEN)
        owners, inputs = waiting.owners[real], waiting.inputs[real]
        if isinstance(place, Rest):
            self._run_rest(place, waiting, real)
        else:
            values = self.chain.run_through(place, self.end, waiting.arrays)
            self._collect({name: array[real] for name, array in values.items()}, owners, inputs)
        if self._wants_golden_batch():
            self._run_golden_batch(place, waiting)

    def _wants_golden_batch(self) -> bool:
        """Count a batch that ran; whether it is a small one beside which a golden batch is to run."""
        self._runs += 1
        return self.block.size < _LEAST_FOR_GOLDEN_ROW and self._runs % _BATCHES_PER_GOLDEN_BATCH == 1

    def _run_golden_batch(self, place: RowPlace, waiting: _Waiting, *, in_stages: bool = False) -> None:
        rows = (self._batches + np.arange(self.block.size)) % self.block.count
        arrays = {name: np.take(waiting.golden[name], rows, 0) for name in waiting.arrays}
        golden = _Waiting(arrays, waiting.golden, np.full(len(rows), _GOLDEN, np.intp), rows, self.block.size)
        if isinstance(place, Rest):
            self._run_rest(place, golden, np.arange(len(rows)))
            return
        if in_stages:
            for number in range(place, self.end):
                arrays = self.chain.run(number, arrays)
        else:
            arrays = self.chain.run_through(place, self.end, arrays)
        self._collect(arrays, golden.owners, rows)

    def _run_rest(self, rest: Rest, waiting: _Waiting, real: NDArray[np.intp]) -> None:
        """Run the rest of a stage; the rows that differ from the golden ones behind it go on."""
        border = rest.stage + 1
        golden = self.block.border(border)
        part = rest.part
        made = dict(zip(part.outputs, part.run(waiting.arrays), strict=True))
        made |= {name: waiting.arrays[name] for name in self.chain.borders[border] if name in waiting.arrays}
        owners, inputs = waiting.owners[real], waiting.inputs[real]
        made = {name: array[real] for name, array in made.items()}
        differ = rows_that_differ(made, {name: golden[name][inputs] for name in made}, slice(None))
        is_golden = owners == _GOLDEN
        self._count_lost(made, golden, inputs, np.flatnonzero(is_golden))
        chosen = np.flatnonzero(differ & ~is_golden)

        def write(arrays: Arrays, part: slice) -> None:
            for name, array in arrays.items():
                source, rows = (made[name], chosen[part]) if name in made else (golden[name], inputs[chosen[part]])
                np.take(source, rows, 0, out=array, mode="clip")

        self.add(border, golden, owners[chosen], inputs[chosen], write)

    def _pass_on(
        self, border: int, values: Arrays, owners: NDArray[np.intp], inputs: NDArray[np.intp], rows: NDArray[np.intp]
    ) -> None:
        if border == self.end:
            self._collect({name: array[rows] for name, array in values.items()}, owners, inputs)
            return

        def write(arrays: Arrays, part: slice) -> None:
            for name, array in arrays.items():
                np.take(values[name], rows[part], 0, out=array, mode="clip")

        self.add(border, self.block.border(border), owners, inputs, write)

    def _collect_written(self, owners: NDArray[np.intp], inputs: NDArray[np.intp], write: Write) -> None:
        golden = self.block.border(self.end)
        arrays = {
            name: np.empty((len(owners), *golden[name].shape[1:]), golden[name].dtype)
            for name in self.chain.borders[self.end]
        }
        write(arrays, slice(0, len(owners)))
        self._collect(arrays, owners, inputs)

    def _collect(self, values: Arrays, owners: NDArray[np.intp], inputs: NDArray[np.intp]) -> None:
        golden_rows = np.flatnonzero(owners == _GOLDEN)
        if len(golden_rows):
            if self.end == self.chain.count:
                scores = flat(values[self.chain.slicer.output][golden_rows])
                self.lost += int((~same(scores, self.block.scores[inputs[golden_rows]])).sum())
            else:
                self._count_lost(values, self.block.border(self.end), inputs, golden_rows)
        others = owners >= 0
        if others.any():
            self._done.append((owners[others], inputs[others], {name: array[others] for name, array in values.items()}))

    def _count_lost(
        self, values: Arrays, golden: Arrays, inputs: NDArray[np.intp], golden_rows: NDArray[np.intp]
    ) -> None:
        made = {name: array[golden_rows] for name, array in values.items()}
        self.lost += unequal_rows(made, {name: golden[name][inputs[golden_rows]] for name in values})
