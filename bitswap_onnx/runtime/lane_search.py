"""The search for what runs the injections of a model: its chain of stages, and the lane of each faulty path."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

from numpy.typing import NDArray

from bitswap_onnx.graph.model import Model
from bitswap_onnx.graph.neurons import tap
from bitswap_onnx.graph.sites import NeuronSite
from bitswap_onnx.graph.slices import Slicer
from bitswap_onnx.graph.stages import Border, divide, total_cost
from bitswap_onnx.outcome import Scores
from bitswap_onnx.runtime.candidates import Candidates
from bitswap_onnx.runtime.chain import Chain, find_chain, undivided
from bitswap_onnx.runtime.chain_plan import ChainPlan, decode_plan, encode_plan, may_be_plan
from bitswap_onnx.runtime.cut_rules import CutRules
from bitswap_onnx.runtime.golden_block import GoldenBlock
from bitswap_onnx.runtime.lane_cache import LaneCache
from bitswap_onnx.runtime.lanes import FaultyPath, LaneKind
from bitswap_onnx.runtime.measure import with_seen_shapes
from bitswap_onnx.runtime.model_lanes import StagesLane, WholeLane, WholeLanes, clean_model
from bitswap_onnx.runtime.neuron_lane import NeuronLane
from bitswap_onnx.runtime.packed import PackedLane
from bitswap_onnx.runtime.probe import PROBED_INPUTS, Probe
from bitswap_onnx.runtime.probed_inputs import inputs_to_probe
from bitswap_onnx.runtime.session import Numerics, open_session
from bitswap_onnx.runtime.stopwatch import STOPWATCH
from bitswap_onnx.runtime.verdicts import digest, kept_verdict

#: The fewest batches of a path for which a faster lane than its stages is tried.
MIN_BATCHES_TO_PACK = 24

#: Multiply-accumulates of the clean runs of a probe, at most, where one batch does not exceed them: large models run on
#: fewer inputs, which have more numbers each.
_PROBED_COST = 32e9

#: Inputs on which reading the values at the borders must leave the scores alone, and the cost of one such run.
_SCORED_INPUTS, _SCORED_COST = 1024, 1e9

Lane = PackedLane | NeuronLane | StagesLane | WholeLane


@dataclass(eq=False)
class LaneSearch:
    """Divides a model into stages and finds lanes, by trials on some of its prepared ``inputs``.

    ``inputs`` (n, ...) have golden ``scores`` (n, classes). ``paths`` are the faulty paths to come, each with the number of
    batches that are likely to run there in all; ``sites``, by key, are their neuron sites. ``memory``, in bytes: half of it
    bounds the golden values at borders, a quarter each the loaded lanes and the sub-models that stand in for several stages.
    ``min_batches``: see `MIN_BATCHES_TO_PACK`. ``plan``: the chain, if it is known to be exact.
    """

    model: Model
    numerics: Numerics
    output: str
    inputs: NDArray[Any]
    scores: Scores
    paths: Mapping[FaultyPath, int]
    sites: Mapping[str, NeuronSite] = field(default_factory=dict)
    memory: int = 1 << 30
    min_batches: int = MIN_BATCHES_TO_PACK
    plan: ChainPlan | None = None
    _given_up: set[FaultyPath] = field(default_factory=set, init=False)

    @cached_property
    def cache(self) -> LaneCache[Lane]:
        """The lanes that are loaded."""
        return LaneCache(self.memory // 4)

    @cached_property
    def slicer(self) -> Slicer:
        """The model, ready to be cut; with sites also before each node whose input is a site."""
        model = tap(self._clean_model, self.sites.values()) if self.sites else self.model
        slicer = Slicer(model, self.output, self.numerics.batch_size, self.inputs.shape[1:])
        return with_seen_shapes(slicer, self.inputs, self.numerics)

    @cached_property
    def wanted_borders(self) -> list[Border]:
        """The borders at which the model would best be divided, if all of them are exact."""
        if self.model.proto.graph.sparse_initializer:  # a part of the model would lack them
            return []
        return divide(self.slicer, self._rules.rows_may_move)

    @cached_property
    def chain(self) -> Chain:
        """The model as stages: as many as are exact."""
        chain = self._find_chain()
        chain.direct_memory = self.memory // 4
        return chain

    @STOPWATCH.span("probing")
    def _find_chain(self) -> Chain:
        if self.plan is not None:
            return self._chain_of(self.plan)
        facts = {**self._facts, "chain": digest(*self._scored), "sites": sorted(self.sites)}
        plan = decode_plan(kept_verdict(facts, self._find_plan, lambda plan: plan is not None and may_be_plan(plan)))
        assert plan is not None
        chain = self._chain_of(plan)
        exact = chain.count == 1 or self._survives_planted_faults(chain)
        return chain if exact else undivided(self.slicer, self.numerics)

    def _find_plan(self) -> Any:
        chain = find_chain(self.slicer, self.numerics, self.wanted_borders, *self._scored, len(self._probed[0]))
        return encode_plan(chain.plan)

    def _chain_of(self, plan: ChainPlan) -> Chain:
        return Chain(self.slicer, self.numerics, plan.borders, frozenset(plan.blocked))

    @cached_property
    def candidates(self) -> Candidates:
        """Proposes lanes."""
        return Candidates(self._probed_block(self.chain), self.sites, self._rules, self._packed_paths)

    @cached_property
    def probe(self) -> Probe:
        """Judges lanes."""
        return Probe(self.model, self.sites, self.candidates.block)

    @cached_property
    def _rules(self) -> CutRules:
        return CutRules(self.slicer, self.numerics)

    @cached_property
    def _probed(self) -> tuple[NDArray[Any], Scores]:
        """Inputs in whole batches to try chains and lanes with, and their golden scores."""
        (inputs, scores), size = self._scored, self.numerics.batch_size
        count = math.ceil(self._affordable(PROBED_INPUTS, _PROBED_COST) / size) * size
        return inputs[:count], scores[:count]

    @cached_property
    def _scored(self) -> tuple[NDArray[Any], Scores]:
        """Those, and more of small models, for what shows in few scores."""
        least = max(self._affordable(PROBED_INPUTS, _PROBED_COST), self._affordable(_SCORED_INPUTS, _SCORED_COST))
        inputs = inputs_to_probe(self.inputs, least, self.numerics.batch_size)
        if len(inputs) <= len(self.inputs):
            return inputs, self.scores[: len(inputs)]
        return inputs, open_session(self._clean_model, self.numerics, self.output).run(inputs)

    def _affordable(self, inputs: int, cost: float) -> int:
        return max(1, min(inputs, int(cost / max(total_cost(self.slicer), 1.0))))

    @cached_property
    def _whole_lanes(self) -> WholeLanes:
        loaded_bytes = self.slicer.loaded_bytes(self.slicer.inputs, (self.output,))
        return WholeLanes(self._clean_model, self.numerics, self.output, self.sites, loaded_bytes)

    @cached_property
    def _clean_model(self) -> Model:
        return clean_model(self.model, self.sites)

    def lane(self, path: FaultyPath) -> Lane:
        """Return the lane of a faulty path; the first call for a path finds it."""
        return self.cache.get(path, partial(self._find_lane, path))

    def lane_kind(self, path: FaultyPath) -> LaneKind:
        """Return the kind of lane that a path runs on."""
        return self.lane(path).kind

    def give_up(self, path: FaultyPath) -> None:
        """Run a path as whole models from now on: its lane has failed the null control."""
        if path not in self._given_up:
            self._given_up.add(path)
            self.cache.drop(path)

    def expect(self, paths: Mapping[FaultyPath, int]) -> None:
        """Replace ``paths``; a path that was not worth a faster lane before may be worth it now."""
        before = self._packed_paths()
        self.paths = paths
        for path in self._packed_paths() ^ before:
            self.cache.drop(path)

    @STOPWATCH.span("probing")
    def _find_lane(self, path: FaultyPath) -> Lane:
        stages = None if path in self._given_up else self.candidates.stages_lane(path)
        if stages is None:
            return self._whole_lanes.lane(path)
        whole = self._whole_lanes.lane(path)
        if path in self._packed_paths() and not (stages.covers_all and not self.probe.is_exact_chain(stages, whole)):
            for lane in self.candidates.lanes(path, stages):
                if self._accepts(lane, stages):
                    return lane
        return whole if stages.covers_all else stages

    def _accepts(self, lane: PackedLane | NeuronLane, stages: StagesLane) -> bool:
        """Whether the probe accepts a lane."""
        facts = {
            **self._facts,
            "lane": lane.facts,
            "path": stages.path,
            "tried": self._tried,
            "sites": sorted(self.sites),
        }
        return bool(kept_verdict(facts, lambda: self.probe.accepts(lane, stages), lambda kept: isinstance(kept, bool)))

    @property
    def _facts(self) -> dict[str, Any]:
        return {"model": self.model.sha256, "output": self.output, "numerics": self.numerics.as_dict()}

    @cached_property
    def _tried(self) -> str:
        return digest(json.dumps(encode_plan(self.chain.plan)).encode(), *self._probed)

    def _packed_paths(self) -> frozenset[FaultyPath]:
        return frozenset(path for path, batches in self.paths.items() if batches >= self.min_batches) - self._given_up

    def _survives_planted_faults(self, chain: Chain) -> bool:
        """Whether the chain agrees with the whole model about faults planted in the first path that has tensors alone."""
        block = self._probed_block(chain)
        candidates = Candidates(block, self.sites, self._rules, self._packed_paths)
        lanes = filter(None, map(candidates.stages_lane, self.paths))
        first = min((lane for lane in lanes if not lane.covers_all), key=lambda lane: lane.first, default=None)
        probe = Probe(self.model, self.sites, block)
        return first is None or probe.is_exact_chain(first, self._whole_lanes.lane(first.path))

    def _probed_block(self, chain: Chain) -> GoldenBlock:
        return GoldenBlock(*self._probed, self.numerics.batch_size, 0, chain, self.memory // 2)
