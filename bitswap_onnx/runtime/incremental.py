"""Engine 2, exact and fast: run only what a fault can change, and the clean part of the model once.

For every faulty path it looks for the fastest lane (`bitswap_onnx.runtime.lanes`) that is exact for this model, in these
numerics, on this machine. What is tried must keep the golden bits of the whole model on a batch of inputs in another
order than they came, and give what the reference engine gives for planted faults that make Inf, NaN, huge and subnormal
numbers. The whole model is the lane that is left when nothing else is exact.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitswap_onnx.errors import ModelError
from bitswap_onnx.graph.edits import InjectionEdits
from bitswap_onnx.graph.heads import Head, find_head
from bitswap_onnx.graph.model import Model
from bitswap_onnx.graph.neurons import instrument, tap, tapped_value
from bitswap_onnx.graph.sites import NeuronSite, is_site
from bitswap_onnx.graph.slices import Slicer
from bitswap_onnx.outcome import Scores
from bitswap_onnx.runtime.cut_rules import CutRules
from bitswap_onnx.runtime.device import DeviceLane
from bitswap_onnx.runtime.golden_values import GoldenValues
from bitswap_onnx.runtime.lanes import Block, ConeLane, Faulty, Lane, WholeLane
from bitswap_onnx.runtime.measure import with_seen_shapes
from bitswap_onnx.runtime.neuron_lane import NeuronLane
from bitswap_onnx.runtime.packed import PackedLane
from bitswap_onnx.runtime.probes import plant
from bitswap_onnx.runtime.session import Numerics

#: The tensors that an injection touches, sorted.
FaultyPath = tuple[str, ...]

#: A path with fewer batches to run than this, in all, is not worth the search for a faster lane, which costs
#: some ten runs of a batch.
WORTH_BATCHES = 24

#: The number of the lane that is none of the candidates: the whole model.
WHOLE = -1

#: Golden values on a device at most, in bytes: nothing tells how much of its memory is free.
DEVICE_MEMORY = 4 << 30

#: How images may enter head and suffix under blocked kernels.
_LAYOUTS = ((False, False), (True, True), (False, True), (True, False))

#: Inputs that a lane is tried with, at least; where there are fewer, random ones like them are added.
_PROBED = 32


@dataclass(eq=False)
class IncrementalEngine:
    """Runs injections over the prepared ``inputs`` (n, ...), whose golden ``scores`` (n, classes) are known.

    ``paths`` are the faulty paths that will come, each with the number of batches that are likely to run there in all;
    ``sites`` are the neuron sites they hold, by key. ``memory`` bounds, in bytes, the golden values and the loaded parts of
    the model, half of it each. ``worth``: see `WORTH_BATCHES`. ``device``: where golden values stay; None: in arrays of the
    host (by default where the model computes, if that is not the CPU).
    """

    model: Model
    numerics: Numerics
    output: str
    inputs: NDArray[Any]
    scores: Scores
    paths: Mapping[FaultyPath, int]
    sites: Mapping[str, NeuronSite] = field(default_factory=dict)
    memory: int = 1 << 30
    worth: int = WORTH_BATCHES
    device: str | None = None
    _found: dict[FaultyPath, int] = field(default_factory=dict)
    _lanes: dict[FaultyPath, Lane] = field(default_factory=dict)
    _last_whole: WholeLane | None = None
    _given_up: set[FaultyPath] = field(default_factory=set)

    def __post_init__(self) -> None:
        if self.numerics.provider != "cpu":
            self.device = self.device or self.numerics.provider
            self.memory = min(self.memory, DEVICE_MEMORY)

    @cached_property
    def slicer(self) -> Slicer:
        """The model, ready to be cut, before a node as well where faults come in there."""
        model = tap(self._clean, self.sites.values()) if self.sites else self.model
        slicer = Slicer(model, self.output, self.numerics.batch_size, self.inputs.shape[1:])
        return with_seen_shapes(slicer, self.inputs, self.numerics)

    @cached_property
    def rules(self) -> CutRules:
        """Where the model may be cut."""
        return CutRules(self.slicer, self.numerics)

    @cached_property
    def golden(self) -> GoldenValues:
        """Golden values of the inputs, made where they are asked for; half of the memory is theirs."""
        return GoldenValues(self.slicer, self.numerics, self.inputs, self.scores, self.memory // 2, self.device)

    def control(self, path: FaultyPath, first: int, stop: int) -> int:
        """Send no fault the way of ``path``, over the inputs ``first`` to ``stop``; return how many stay golden."""
        lane = self.lane(path)
        return sum(
            int(lane.control(block, np.arange(block.count)).sum()) for _, block in self._blocks(lane, first, stop)
        )

    def run(
        self, path: FaultyPath, injections: Sequence[InjectionEdits], first: int, stop: int
    ) -> Iterator[tuple[int, Faulty]]:
        """Yield what becomes of ``injections`` of one path over the inputs ``first`` to ``stop``.

        Each item comes with the input that its rows count from; every injection comes for every input once.
        """
        lane = self.lane(path)
        for start, block in self._blocks(lane, first, stop):
            yield from ((start, faulty) for faulty in lane.run(injections, block))

    def lane(self, path: FaultyPath) -> Lane:
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

    def found(self, path: FaultyPath) -> int:
        """Return which of the `candidates` a path runs on, or `WHOLE`."""
        self.lane(path)
        return self._found[path]

    def kind(self, path: FaultyPath) -> str:
        """Return what a path runs on: ``packed``, ``neuron``, ``cone`` or ``whole``."""
        lane = self.lane(path)
        kinds = {"packed": PackedLane, "neuron": NeuronLane, "cone": ConeLane}
        return next((name for name, kind in kinds.items() if isinstance(lane, kind)), "whole")

    def trust(self, path: FaultyPath, number: int) -> None:
        """Take for ``path`` what another worker found (`found`)."""
        self._found.setdefault(path, number)

    def give_up(self, path: FaultyPath) -> None:
        """Run a path as whole models from now on: what lane it had has failed its null control."""
        self._given_up.add(path)
        if self._found.get(path) != WHOLE:
            self._found[path] = WHOLE
            self._lanes.pop(path, None)

    def expect(self, paths: Mapping[FaultyPath, int]) -> None:
        """Take in which ``paths`` will come from now on: one that was not worth a search may be worth it now."""
        before = set(filter(self._is_worth_it, self.paths))
        self.paths = paths
        if before == set(filter(self._is_worth_it, paths)):
            return
        for path in self._found.keys() - before:
            del self._found[path]
            self._lanes.pop(path, None)
        vars(self).pop("_shared", None)

    def _search(self, path: FaultyPath) -> int:
        candidates = enumerate(self.candidates(path) if self._is_worth_it(path) else ())
        return next((number for number, lane in candidates if self.holds(lane, path)), WHOLE)

    def _is_worth_it(self, path: FaultyPath) -> bool:
        return self.paths.get(path, 0) >= self.worth and path not in self._given_up

    def _make(self, path: FaultyPath, number: int) -> Lane:
        return self._whole(path) if number == WHOLE else next(islice(self.candidates(path), number, None))

    def holds(self, lane: Lane, path: FaultyPath) -> bool:
        """Whether a lane may be used: it is exact and bears plants. One that the runtime does not take may not."""
        try:
            return self.is_exact(lane) and self.bears_plants(lane, path)
        except ModelError:
            return False

    def _whole(self, path: FaultyPath) -> WholeLane:
        if self._last_whole is None or self._last_whole.path != path:
            own = (self._clean, self.numerics, self.output, path, self.sites)
            self._last_whole = WholeLane(*own, loaded_bytes=self._whole_bytes)
        return self._last_whole

    @cached_property
    def _whole_bytes(self) -> int:
        """About what a session of the whole model takes."""
        return self.slicer.loaded_bytes(self.slicer.inputs, (self.output,))

    def candidates(self, path: FaultyPath) -> Iterator[PackedLane | NeuronLane | ConeLane]:
        """Yield the lanes that may be exact for a path, the fastest first."""
        if self.model.proto.graph.sparse_initializer:  # parts of the model would lack them
            return
        if any(map(is_site, path)):
            yield from self._neuron_candidates(path)
            return
        longest = find_head(self.slicer, path[0]) if len(path) == 1 else None
        for head in filter(None, (longest, longest and longest.trimmed)):
            cuts = self.slicer.cuts(self.slicer.cone([head.start]), head.value)
            if cuts is None or self.rules.parts_fold([head.start]) or not self.rules.rows_may_move({*cuts, head.value}):
                continue
            if any(self.rules.parts_sum(feed.value) for feed in head.feeds):
                continue
            for blocked in _LAYOUTS if self.numerics.layout == "blocked" else _LAYOUTS[:1]:
                yield self._packed(head, cuts, path, blocked)
        starts = [user for tensor in path for user in self.slicer.users(tensor)]
        cuts = self.slicer.cuts(self.slicer.cone(starts))
        if cuts is not None and not self.rules.parts_fold(starts) and self.rules.may_cut(cuts):
            yield ConeLane(self.slicer, self.numerics, path, cuts)

    def _neuron_candidates(self, path: FaultyPath) -> Iterator[NeuronLane | ConeLane]:
        """Yield the lanes of a path with neuron sites: golden values and the suffix, or flip nodes in the cone."""
        sites = [self.sites[key] for key in path if is_site(key) and self._reaches_scores(self.sites[key])]
        values = [tapped_value(site.key) for site in sites]
        behind = self.slicer.cone(reader for value in values for reader in self.slicer.readers.get(value, ()))
        apart = all(self.slicer.producer.get(value) not in behind for value in values)
        if sites and all(map(is_site, path)) and apart:
            cuts = values if values == [self.output] else self.slicer.cuts(behind)
            if cuts is not None and self.rules.rows_may_move(set(cuts)):
                yield NeuronLane(self.slicer, self.numerics, tuple(sites), tuple(cuts))
        starts = [user for tensor in path if not is_site(tensor) for user in self.slicer.users(tensor)]
        cuts = self.slicer.cuts(behind | self.slicer.cone(starts))
        if cuts is not None and self.rules.may_cut(cuts):
            yield ConeLane(self.slicer, self.numerics, path, cuts, {site.key: site for site in sites})

    def _reaches_scores(self, site: NeuronSite) -> bool:
        """Whether the scores depend on a site; a part of the model need not have one that they do not."""
        value = tapped_value(site.key)
        return (
            value == self.output or self.slicer.cuts(self.slicer.cone(self.slicer.readers.get(value, ()))) is not None
        )

    def _packed(self, head: Head, cuts: tuple[str, ...], path: FaultyPath, blocked: tuple[bool, bool]) -> PackedLane:
        if self.device is None:
            return PackedLane(self.slicer, self.numerics, head, cuts, self._whole(path), blocked)
        return DeviceLane(self.slicer, self.numerics, head, cuts, self._whole(path), blocked, device=self.device)

    def is_exact(self, lane: Lane) -> bool:
        """Whether the first inputs keep the golden bits on a lane, rotated by one row and each of one half twice.

        An operator that mixes the inputs of a batch may not mind their order, but it minds which ones there are.
        """
        block = self._probe(lane)
        order = np.arange(block.count)
        if isinstance(lane, PackedLane) and not lane.keeps_places(block):
            return False
        return all(bool(lane.control(block, rows).all()) for rows in (np.roll(order, 1), order // 2))

    def bears_plants(self, lane: Lane, path: FaultyPath) -> bool:
        """Whether planted faults give on a lane what they give in the whole model, over the first inputs."""
        block = self._probe(lane)
        plants = plant(self.model, path, self.sites)
        expected = np.stack([block.scores] * len(plants))
        found = expected.copy()
        for scores, way in ((expected, self._whole(path)), (found, lane)):
            for faulty in way.run(plants, block):
                for number, part in zip(faulty.numbers, faulty.parts, strict=True):
                    scores[number, faulty.rows[part]] = faulty.scores[part]
        return np.array_equal(found, expected, equal_nan=True)

    def _blocks(
        self, lane: Lane, first: int, stop: int, golden: GoldenValues | None = None
    ) -> Iterator[tuple[int, Block]]:
        """Yield the inputs ``first`` to ``stop`` in blocks whose golden values fit the memory, each with where it begins."""
        names = self._shared if lane.values and lane.values <= self._shared else lane.values
        return (golden or self.golden).blocks(names, first, stop)

    def _probe(self, lane: Lane) -> Block:
        """Return the block of inputs that a lane is tried with."""
        return next(self._blocks(lane, 0, len(self._probed.inputs), self._probed))[1]

    @cached_property
    def _probed(self) -> GoldenValues:
        return self.golden.to_probe(self._clean, _PROBED)

    @cached_property
    def _clean(self) -> Model:
        """The model without a fault, with sites at the opset of flip nodes, so that each node need not bring it there."""
        return instrument(self.model, ()) if self.sites else self.model

    @cached_property
    def _shared(self) -> frozenset[str]:
        """The golden values that one run of the clean model gives for all paths; none if a batch does not fit the memory.

        A value that is asked for can end a fusion of the kernels around it. Those whose lanes do so are left out.
        """
        paths = filter(self._is_worth_it, self.paths)
        wanted = [next((lane.values for lane in self.candidates(path)), frozenset[str]()) for path in paths]
        names = frozenset[str]().union(*wanted)
        if not self.golden.fits(names):
            return frozenset()
        if not self.golden.keeps_scores(names):
            names = frozenset[str]().union(*filter(self.golden.keeps_scores, set(wanted)))
        return names if self.golden.keeps_scores(names) else frozenset()
