"""Engine 2, exact and fast: run only what a fault can change, and the clean part of the model once.

For every faulty path it looks for the fastest lane (`bitswap_onnx.runtime.lanes`) that is exact for this model, in these
numerics, on this machine. What is tried must keep the golden bits of the whole model on a batch of inputs in another
order than they came, and give what the reference engine gives for planted faults that make Inf, NaN, huge and subnormal
numbers. The whole model is the lane that is left when nothing else is exact.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitswap_onnx.dataset import batches
from bitswap_onnx.errors import ModelError
from bitswap_onnx.graph.heads import Head, find_head
from bitswap_onnx.graph.model import Model
from bitswap_onnx.graph.slices import Slicer
from bitswap_onnx.graph.weights import Edits
from bitswap_onnx.outcome import Scores
from bitswap_onnx.runtime.device import DeviceLane
from bitswap_onnx.runtime.lanes import Block, ConeLane, Faulty, Lane, WholeLane
from bitswap_onnx.runtime.packed import ROWS, PackedLane
from bitswap_onnx.runtime.part import Part, open_part, to_device
from bitswap_onnx.runtime.plants import plant
from bitswap_onnx.runtime.session import Numerics

#: The tensors that an injection touches, sorted.
Path = tuple[str, ...]

#: A path with fewer batches to run than this (injections times batches) is not worth the search for a faster lane, which
#: costs some ten runs of a batch.
WORTH_BATCHES = 24

#: The number of the lane that is none of the candidates: the whole model.
WHOLE = -1

#: Golden values on a device at most, in bytes: nothing tells how much of its memory is free.
DEVICE_MEMORY = 4 << 30

#: How images may enter head and suffix under blocked kernels.
_LAYOUTS = ((False, False), (True, True), (False, True), (True, False))

#: Inputs that a lane is tried with, at least, where there are as many.
_PROBED = 32


@dataclass(eq=False)
class IncrementalEngine:
    """Runs injections over the prepared ``inputs`` (n, ...), whose golden ``scores`` (n, classes) are known.

    ``paths`` are the faulty paths that will come, each with its number of injections. ``memory`` bounds, in bytes, the
    golden values and the loaded parts of the model, half of it each. ``worth``: see `WORTH_BATCHES`. ``device``: where
    golden values stay; None: in arrays of the host (by default where the model computes, if that is not the CPU).
    """

    model: Model
    numerics: Numerics
    output: str
    inputs: NDArray[Any]
    scores: Scores
    paths: Mapping[Path, int]
    memory: int = 1 << 30
    worth: int = WORTH_BATCHES
    device: str | None = None
    _found: dict[Path, int] = field(default_factory=dict)
    _lanes: dict[Path, Lane] = field(default_factory=dict)
    _prefix: tuple[frozenset[str], Part] | None = None
    _block: tuple[tuple[int, int, frozenset[str]], Block] | None = None

    def __post_init__(self) -> None:
        if self.numerics.provider != "cpu":
            self.device = self.device or self.numerics.provider
            self.memory = min(self.memory, DEVICE_MEMORY)

    @cached_property
    def slicer(self) -> Slicer:
        """The model, ready to be cut."""
        return Slicer(self.model, self.output, self.numerics.batch_size, self.inputs.shape[1:])

    def control(self, path: Path, first: int, stop: int) -> int:
        """Send no fault the way of ``path``, over the inputs ``first`` to ``stop``; return how many stay golden."""
        lane = self.lane(path)
        return sum(
            int(lane.control(block, np.arange(block.count)).sum()) for _, block in self._blocks(lane, first, stop)
        )

    def run(self, path: Path, injections: Sequence[Edits], first: int, stop: int) -> Iterator[tuple[int, Faulty]]:
        """Yield what becomes of ``injections`` of one path over the inputs ``first`` to ``stop``.

        Each item comes with the input that its rows count from; every injection comes for every input once.
        """
        lane = self.lane(path)
        for start, block in self._blocks(lane, first, stop):
            yield from ((start, faulty) for faulty in lane.run(injections, block))

    def lane(self, path: Path) -> Lane:
        """Return the fastest exact lane of a faulty path, looked for when it is first asked for.

        Lanes stay loaded, in the order of use, as far as half the memory holds them.
        """
        if path not in self._found:
            self._found[path] = self._search(path)
        lane = self._lanes.pop(path, None) or self._make(path, self._found[path])
        self._lanes[path] = lane
        while len(self._lanes) > 1 and sum(lane.loaded_bytes for lane in self._lanes.values()) > self.memory // 2:
            del self._lanes[next(iter(self._lanes))]
        return lane

    def found(self, path: Path) -> int:
        """Return which of the `candidates` a path runs on, or `WHOLE`."""
        self.lane(path)
        return self._found[path]

    def kind(self, path: Path) -> str:
        """Return what a path runs on: ``packed``, ``cone`` or ``whole``."""
        lane = self.lane(path)
        return "packed" if isinstance(lane, PackedLane) else "cone" if isinstance(lane, ConeLane) else "whole"

    def trust(self, path: Path, number: int) -> None:
        """Take for ``path`` what another worker found (`found`)."""
        self._found.setdefault(path, number)

    def _search(self, path: Path) -> int:
        candidates = enumerate(self.candidates(path) if self._is_worth_it(path) else ())
        return next((number for number, lane in candidates if self.holds(lane, path)), WHOLE)

    def _is_worth_it(self, path: Path) -> bool:
        to_run = self.paths.get(path, 0) * math.ceil(len(self.inputs) / self.numerics.batch_size)
        return to_run >= self.worth

    def _make(self, path: Path, number: int) -> Lane:
        return self._whole(path) if number == WHOLE else next(islice(self.candidates(path), number, None))

    def holds(self, lane: Lane, path: Path) -> bool:
        """Whether a lane may be used: it is exact and bears plants. One that the runtime does not take may not."""
        try:
            return self.is_exact(lane) and self.bears_plants(lane, path)
        except ModelError:
            return False

    def _whole(self, path: Path) -> WholeLane:
        return WholeLane(self.model, self.numerics, self.output, path)

    def candidates(self, path: Path) -> Iterator[PackedLane | ConeLane]:
        """Yield the lanes that may be exact for a path, the fastest first."""
        if self.model.proto.graph.sparse_initializer:  # parts of the model would lack them
            return
        longest = find_head(self.slicer, path[0]) if len(path) == 1 else None
        for head in filter(None, (longest, longest and longest.trimmed)):
            cuts = self.slicer.cuts(self.slicer.cone([head.start]), head.value)
            for blocked in _LAYOUTS if self.numerics.layout == "blocked" else _LAYOUTS[:1]:
                if cuts is not None and not self._prepared_apart([head.start]):
                    yield self._packed(head, cuts, path, blocked)
        starts = [user for tensor in path for user in self.slicer.users(tensor)]
        cuts = self.slicer.cuts(self.slicer.cone(starts))
        if cuts is not None and not self._prepared_apart(starts):
            yield ConeLane(self.slicer, self.numerics, path, cuts)

    def _prepared_apart(self, starts: Iterable[int]) -> bool:
        """Whether a part that starts there may compute a batch norm otherwise than the whole model does.

        Blocked kernels make a convolution of one whose input is blocked, and round its parameters when it is loaded: a
        difference that shows for some parameters only, so that no probe is sure to find it.
        """
        blocked = self.numerics.layout == "blocked"
        return blocked and any(self.slicer.nodes[start].op_type == "BatchNormalization" for start in starts)

    def _packed(self, head: Head, cuts: tuple[str, ...], path: Path, blocked: tuple[bool, bool]) -> PackedLane:
        if self.device is None:
            return PackedLane(self.slicer, self.numerics, head, cuts, self._whole(path), blocked)
        return DeviceLane(self.slicer, self.numerics, head, cuts, self._whole(path), blocked, device=self.device)

    @property
    def _probed(self) -> int:
        """How many inputs are tried: whole batches, more than a few."""
        size = self.numerics.batch_size
        return min(math.ceil(_PROBED / size) * size, len(self.inputs))

    def is_exact(self, lane: Lane) -> bool:
        """Whether the first inputs keep the golden bits on a lane, rotated by one row and each of one half twice.

        An operator that mixes the inputs of a batch may not mind their order, but it minds which ones there are.
        """
        _, block = next(self._blocks(lane, 0, self._probed))
        order = np.arange(block.count)
        return all(bool(lane.control(block, rows).all()) for rows in (np.roll(order, 1), order // 2))

    def bears_plants(self, lane: Lane, path: Path) -> bool:
        """Whether planted faults give on a lane what they give in the whole model, over the first inputs."""
        _, block = next(self._blocks(lane, 0, self._probed))
        plants = plant(self.model, path)
        expected = np.stack([block.scores] * len(plants))
        found = expected.copy()
        for scores, way in ((expected, self._whole(path)), (found, lane)):
            for faulty in way.run(plants, block):
                for number, part in zip(faulty.numbers, faulty.parts, strict=True):
                    scores[number, faulty.rows[part]] = faulty.scores[part]
        return np.array_equal(found, expected, equal_nan=True)

    def _blocks(self, lane: Lane, first: int, stop: int) -> Iterator[tuple[int, Block]]:
        """Yield the inputs ``first`` to ``stop`` in blocks whose golden values fit the memory, each with where it begins."""
        if not lane.values:
            yield first, Block(self.inputs[first:stop], {}, self.scores[first:stop], self.numerics.batch_size)
            return
        names = self._shared if lane.values <= self._shared else lane.values
        size = self.numerics.batch_size
        step = size * max(1, self.memory // 2 // (size * self._bytes(names)))
        for start in range(first, stop, step):
            yield start, self._golden(start, min(start + step, stop), names)

    @cached_property
    def _shared(self) -> frozenset[str]:
        """The golden values that one run of the clean model gives for all paths; none if a batch does not fit the memory.

        A value that is asked for can end a fusion of the kernels around it. Those whose lanes do so are left out.
        """
        paths = filter(self._is_worth_it, self.paths)
        wanted = [next((lane.values for lane in self.candidates(path)), frozenset[str]()) for path in paths]
        names = frozenset[str]().union(*wanted)
        if self._bytes(names) * self.numerics.batch_size > self.memory // 2:
            return frozenset()
        if not self._keeps_scores(names):
            names = frozenset[str]().union(*filter(self._keeps_scores, set(wanted)))
        return names if self._keeps_scores(names) else frozenset()

    def _keeps_scores(self, names: frozenset[str]) -> bool:
        """Whether the clean model that also hands out ``names`` still has its golden scores."""
        made = sorted((names | {self.output}) - set(self.slicer.inputs))
        batch, count = next(batches(self.inputs, self.numerics.batch_size))
        try:
            part = open_part(self.slicer.extract(self.slicer.inputs, made), self.numerics)
            scores = part.run({self.slicer.inputs[0]: batch})[part.outputs.index(self.output)]
        except ModelError:  # a type that arrays cannot hold
            return False
        return bool((scores.reshape(len(batch), -1)[:count] == self.scores[:count]).all())

    def _bytes(self, names: frozenset[str] | set[str]) -> int:
        """Return what golden values take per input, room for a run of the widest head included."""
        sizes = [self.slicer.row_bytes(name) for name in names]
        return sum(sizes) + ROWS * (max(sizes, default=0) + self.scores[:1].nbytes)

    def _golden(self, first: int, stop: int, names: frozenset[str]) -> Block:
        """Return a block of golden values; the last one is kept, and its memory used again."""
        key = first, stop, names
        if self._block is None or self._block[0] != key:
            spare = self._block[1].values if self._block and self._block[0][2] == names else {}
            self._block = None  # on a device, two blocks may be too many
            inputs = self.inputs[first:stop]
            values = self._values(inputs, names, spare)
            self._block = key, Block(inputs, values, self.scores[first:stop], self.numerics.batch_size)
        return self._block[1]

    def _values(self, inputs: NDArray[Any], names: frozenset[str], spare: dict[str, NDArray[Any]]) -> dict[str, Any]:
        """Run the clean model up to ``names``; ``spare`` arrays are written over."""
        if self.device is not None:
            return self._device_values(inputs, names, self.device)
        size = self.numerics.batch_size
        rows = math.ceil(len(inputs) / size) * size
        values = {}
        for name in names:
            shape = (rows, *(self.slicer.dims(name) or ())[1:])
            fits = name in spare and len(spare[name]) >= rows
            values[name] = spare[name][:rows] if fits else np.empty(shape, self.slicer.dtype(name))
        (source,) = self.slicer.inputs
        made = names - {source}
        for number, (batch, _) in enumerate(batches(inputs, size)):
            part = slice(number * size, (number + 1) * size)
            if source in names:
                values[source][part] = batch
            if made:
                self._part(made).run_into({source: batch}, {name: values[name][part] for name in made})
        return values

    def _device_values(self, inputs: NDArray[Any], names: frozenset[str], device: str) -> dict[str, list[Any]]:
        values: dict[str, list[Any]] = {name: [] for name in names}
        (source,) = self.slicer.inputs
        made = names - {source}
        for batch, _ in batches(inputs, self.numerics.batch_size):
            found = {source: to_device(batch, device)}
            if made:
                part = self._part(made)
                found |= dict(zip(part.outputs, part.run_on({source: found[source]}, device), strict=True))
            for name in names:
                values[name].append(found[name])
        return values

    def _part(self, names: frozenset[str]) -> Part:
        if self._prefix is None or self._prefix[0] != names:
            self._prefix = names, open_part(self.slicer.extract(self.slicer.inputs, sorted(names)), self.numerics)
        return self._prefix[1]
