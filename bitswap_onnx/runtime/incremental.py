"""The incremental engine, exact and fast: it runs only the part that a fault can change, and the clean part once.

For every faulty path it uses the fastest lane (`bitswap_onnx.runtime.lanes`) that is exact for this model, in these
numerics, on this machine: `Candidates` proposes lanes, `Probe` tries them, `LaneCache` keeps them loaded. Where no
proposed lane is exact, the path runs as the whole model.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitswap_onnx.graph.edits import InjectionEdits
from bitswap_onnx.graph.model import Model
from bitswap_onnx.graph.neurons import tap
from bitswap_onnx.graph.sites import NeuronSite
from bitswap_onnx.graph.slices import Slicer
from bitswap_onnx.outcome import Scores
from bitswap_onnx.runtime.candidates import WHOLE, Candidates
from bitswap_onnx.runtime.cut_rules import CutRules
from bitswap_onnx.runtime.golden_values import GoldenValues
from bitswap_onnx.runtime.lane_cache import LaneCache
from bitswap_onnx.runtime.lanes import Block, FaultyPath, FaultyScores, Lane, LaneKind
from bitswap_onnx.runtime.measure import with_seen_shapes
from bitswap_onnx.runtime.model_lanes import WholeLanes, clean_model
from bitswap_onnx.runtime.probe import PROBED_INPUTS, Probe
from bitswap_onnx.runtime.session import Numerics
from bitswap_onnx.runtime.stopwatch import STOPWATCH

#: The fewest batches of a path for which a faster lane is searched. The search costs about ten runs of a batch.
MIN_BATCHES_FOR_SEARCH = 24

#: Golden values on a device at most, in bytes: nothing tells how much of its memory is free.
DEVICE_MEMORY = 4 << 30


@dataclass(eq=False)
class IncrementalEngine:
    """Runs injections over the prepared ``inputs`` (n, ...), whose golden ``scores`` (n, classes) are known.

    ``paths`` are the faulty paths to come, each with the number of batches that are likely to run there in all; ``sites``,
    by key, are their neuron sites. ``memory`` bounds, in bytes, the golden values and the loaded parts of the model, half
    of it each. ``min_batches``: see `MIN_BATCHES_FOR_SEARCH`. ``device``: where golden values stay; None: in arrays of the
    host (default: where the model computes, if that is not the CPU).
    """

    model: Model
    numerics: Numerics
    output: str
    inputs: NDArray[Any]
    scores: Scores
    paths: Mapping[FaultyPath, int]
    sites: Mapping[str, NeuronSite] = field(default_factory=dict)
    memory: int = 1 << 30
    min_batches: int = MIN_BATCHES_FOR_SEARCH
    device: str | None = None
    cache: LaneCache = field(init=False)
    _lane_numbers: dict[FaultyPath, int] = field(default_factory=dict, init=False)
    _given_up: set[FaultyPath] = field(default_factory=set, init=False)
    _shared_values: frozenset[str] | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        if self.numerics.provider != "cpu":
            self.device = self.device or self.numerics.provider
            self.memory = min(self.memory, DEVICE_MEMORY)
        self.cache = LaneCache(self.memory // 2)

    @cached_property
    def slicer(self) -> Slicer:
        """The model, ready to be cut; with sites also before each node whose input is a site."""
        model = tap(self._clean_model, self.sites.values()) if self.sites else self.model
        slicer = Slicer(model, self.output, self.numerics.batch_size, self.inputs.shape[1:])
        return with_seen_shapes(slicer, self.inputs, self.numerics)

    @cached_property
    def golden(self) -> GoldenValues:
        """Golden values of the inputs, computed on demand, within half of the memory."""
        return GoldenValues(self.slicer, self.numerics, self.inputs, self.scores, self.memory // 2, self.device)

    @cached_property
    def candidates(self) -> Candidates:
        """Proposes lanes."""
        rules = CutRules(self.slicer, self.numerics)
        return Candidates(
            self.model, self.slicer, self.numerics, self.sites, rules, self._whole_lanes, device=self.device
        )

    @cached_property
    def probe(self) -> Probe:
        """Judges lanes."""
        golden = self.golden.to_probe(self._clean_model, PROBED_INPUTS)
        return Probe(self.model, self.sites, self._whole_lanes, golden, self._values_for)

    @cached_property
    def _whole_lanes(self) -> WholeLanes:
        loaded_bytes = self.slicer.loaded_bytes(self.slicer.inputs, (self.output,))
        return WholeLanes(self._clean_model, self.numerics, self.output, self.sites, loaded_bytes)

    @cached_property
    def _clean_model(self) -> Model:
        return clean_model(self.model, self.sites)

    @STOPWATCH.span("controls")
    def control(self, path: FaultyPath, first: int, stop: int) -> int:
        """Run the null control of ``path`` over the inputs ``first`` to ``stop``; return how many of them stay golden."""
        lane = self.lane(path)
        return sum(
            int(lane.control(block, np.arange(block.count)).sum()) for _, block in self.blocks(lane, first, stop)
        )

    def run(
        self, path: FaultyPath, injections: Sequence[InjectionEdits], first: int, stop: int
    ) -> Iterator[tuple[int, FaultyScores]]:
        """Yield the scores of ``injections`` of one path over the inputs ``first`` to ``stop``.

        Each item is (start, scores), with rows counted from the input ``start``; every injection comes for every input
        once.
        """
        lane = self.lane(path)
        for start, block in self.blocks(lane, first, stop):
            yield from ((start, faulty) for faulty in lane.run(injections, block))

    def blocks(self, lane: Lane, first: int, stop: int) -> Iterator[tuple[int, Block]]:
        """Yield (first input, block) for the inputs ``first`` to ``stop``, with the golden values for a lane."""
        return self.golden.blocks(self._values_for(lane), first, stop)

    def lane(self, path: FaultyPath) -> Lane:
        """Return the fastest exact lane of a faulty path; the first call for a path searches for it."""
        number = self._lane_numbers.get(path)
        if number is None:
            number = self._lane_numbers[path] = self._search(path)
        return self.cache.get(path, partial(self.candidates.lane, path, number))

    def lane_number(self, path: FaultyPath) -> int:
        """Return the number that the lane of a path has among its `Candidates`, or `WHOLE`."""
        self.lane(path)
        return self._lane_numbers[path]

    def lane_kind(self, path: FaultyPath) -> LaneKind:
        """Return the kind of lane that a path runs on."""
        return self.lane(path).kind

    def adopt_lane(self, path: FaultyPath, number: int) -> None:
        """Use the lane that another worker found for ``path`` (`lane_number`), unless this engine has found one."""
        self._lane_numbers.setdefault(path, number)

    def give_up(self, path: FaultyPath) -> None:
        """Run a path as whole models from now on: its lane has failed the null control."""
        self._given_up.add(path)
        if self._lane_numbers.get(path) != WHOLE:
            self._lane_numbers[path] = WHOLE
            self.cache.drop(path)

    def expect(self, paths: Mapping[FaultyPath, int]) -> None:
        """Replace ``paths``; a path that was not worth a search before may be worth it now."""
        before = set(filter(self._is_worth_a_search, self.paths))
        self.paths = paths
        if before == set(filter(self._is_worth_a_search, paths)):
            return
        for path in self._lane_numbers.keys() - before:
            del self._lane_numbers[path]
            self.cache.drop(path)
        self._shared_values = None

    @STOPWATCH.span("probing")
    def _search(self, path: FaultyPath) -> int:
        candidates = enumerate(self.candidates.lanes(path) if self._is_worth_a_search(path) else ())
        return next((number for number, lane in candidates if self.probe.accepts(lane, path)), WHOLE)

    def _is_worth_a_search(self, path: FaultyPath) -> bool:
        return self.paths.get(path, 0) >= self.min_batches and path not in self._given_up

    def _values_for(self, lane: Lane) -> frozenset[str]:
        """Return the golden values to compute for a lane: the shared ones, if they hold all that it reads."""
        return self.shared_values if lane.values and lane.values <= self.shared_values else lane.values

    @property
    def shared_values(self) -> frozenset[str]:
        """The golden values that one clean run computes for all paths together; empty if a batch exceeds the memory.

        Reading a value can end a fusion of kernels and change the scores. Such values are left out, and lanes that need
        them get a clean run of their own.
        """
        if self._shared_values is None:
            self._shared_values = self._find_shared_values()
        return self._shared_values

    def _find_shared_values(self) -> frozenset[str]:
        paths = filter(self._is_worth_a_search, self.paths)
        wanted = [next((lane.values for lane in self.candidates.lanes(path)), frozenset[str]()) for path in paths]
        names = frozenset[str]().union(*wanted)
        if not self.golden.fits(names):
            return frozenset()
        if not self.golden.keeps_scores(names):
            names = frozenset[str]().union(*filter(self.golden.keeps_scores, set(wanted)))
        return names if self.golden.keeps_scores(names) else frozenset()
