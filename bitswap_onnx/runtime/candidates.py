"""Proposes lanes that may stand in for one stage of the chain: those that the graph and the cut rules allow.

A proposed lane may still round otherwise than the stage: `bitswap_onnx.runtime.probe` judges it before it is used.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field

from bitswap_onnx.errors import ModelError
from bitswap_onnx.graph.neurons import tapped_value
from bitswap_onnx.graph.sites import NeuronSite, is_site
from bitswap_onnx.graph.stretches import ChannelwiseStretch, find_stretch
from bitswap_onnx.runtime.chain import Chain, same_numbers
from bitswap_onnx.runtime.common_batches import Rest
from bitswap_onnx.runtime.cut_rules import CutRules
from bitswap_onnx.runtime.golden_block import GoldenBlock, InnerValues
from bitswap_onnx.runtime.lanes import FaultyPath
from bitswap_onnx.runtime.model_lanes import StagesLane
from bitswap_onnx.runtime.neuron_lane import NeuronLane
from bitswap_onnx.runtime.packed import PackedLane
from bitswap_onnx.runtime.submodel import open_part

#: With blocked kernels: whether images enter (stretch, rest of the stage) in blocked layout, in the order of trial.
_BLOCKED_ENTRIES = ((False, False), (True, True), (False, True), (True, False))


@dataclass(frozen=True, eq=False)
class _Plan:
    """A way through a ``stage``: values ``changed`` go on, to make ``computed`` values of the border from ``names``.

    ``names`` are the border's values where nothing is to be computed. ``wanted``: all golden values within the stage.
    """

    stage: int
    changed: tuple[str, ...]
    names: tuple[str, ...]
    computed: tuple[str, ...]
    wanted: frozenset[str]
    stretch: ChannelwiseStretch | None = None


@dataclass(frozen=True, eq=False)
class Candidates:
    """The lanes of faulty paths in the chain of ``block``, which has the inputs to try them with.

    ``sites``, by key, are the neuron sites of the paths. ``paths`` gives the paths to come, whose golden values within a
    stage are computed together.
    """

    block: GoldenBlock
    sites: Mapping[str, NeuronSite]
    rules: CutRules
    paths: Callable[[], Collection[FaultyPath]]
    _inner: dict[tuple[int, frozenset[str]], InnerValues | None] = field(default_factory=dict, init=False)
    _shared: dict[int, frozenset[str]] = field(default_factory=dict, init=False)

    @property
    def chain(self) -> Chain:
        """The chain that lanes lead into."""
        return self.block.chain

    def stages_lane(self, path: FaultyPath) -> StagesLane | None:
        """Return the lane that loads the stages with the faults; None if the scores do not depend on the path."""
        reaching = {key: self.sites[key] for key in path if is_site(key) and self.chain.span(self._nodes(key))}
        span = self.chain.span([node for key in path for node in self._nodes(key)])
        return None if span is None else StagesLane(self.chain, *span, path, reaching)

    def lanes(self, path: FaultyPath, stages: StagesLane) -> Iterator[PackedLane | NeuronLane]:
        """Yield the lanes that may stand in for ``stages``, if one stage is enough; the one to try first comes first."""
        for plan in self._plans(path, stages):
            stage, inner = plan.stage, self._inner_values(plan.stage, plan.wanted)
            if inner is None:
                continue
            entries = _BLOCKED_ENTRIES if self.chain.numerics.layout == "blocked" else _BLOCKED_ENTRIES[:1]
            for stretch_entry, rest_entry in entries:
                place = Rest(self.chain, stage, plan.names, plan.computed, rest_entry) if plan.computed else stage + 1
                if plan.stretch is None:
                    yield NeuronLane(tuple(stages.sites.values()), place, inner)
                elif plan.computed or not rest_entry:
                    yield PackedLane(self.chain.numerics, plan.stretch, place, inner, stages, stretch_entry)

    def _nodes(self, key: str) -> Collection[int]:
        """Return the nodes that a stored tensor or a site acts on first."""
        slicer = self.chain.slicer
        if not is_site(key):
            return slicer.users(key)
        value = tapped_value(key)
        makers = {slicer.producer[value]} if value in slicer.producer else set[int]()
        is_input = value == key  # its flip node stands before the node that reads it
        return makers.union(slicer.readers.get(value, ())) if is_input or not makers else makers

    def _plans(self, path: FaultyPath, stages: StagesLane) -> Iterator[_Plan]:
        if self.chain.slicer.model.proto.graph.sparse_initializer:
            return
        if any(map(is_site, path)):
            yield from self._neuron_plans(path, stages)
        elif len(path) == 1 and stages.last == stages.first + 1:
            yield from self._packed_plans(path[0], stages.first)

    def _packed_plans(self, tensor: str, stage: int) -> Iterator[_Plan]:
        slicer, rules = self.chain.slicer, self.rules
        longest = find_stretch(slicer, tensor, self.chain.borders[stage], self.chain.borders[stage + 1])
        for stretch in filter(None, (longest, longest and longest.trimmed)):
            feeds = [feed.value for feed in stretch.feeds]
            if rules.parts_fold([stretch.start]) or any(map(rules.parts_sum, feeds)):
                continue
            yield from self._plan(stage, (stretch.value,), slicer.cone([stretch.start]), feeds, stretch)

    def _neuron_plans(self, path: FaultyPath, stages: StagesLane) -> Iterator[_Plan]:
        """Yield the plan for a path of sites of one stage, none of which depends on another one."""
        slicer = self.chain.slicer
        values = tuple(tapped_value(key) for key in stages.sites)
        makers = [slicer.producer[value] for value in values if value in slicer.producer]
        behind = slicer.cone(reader for value in values for reader in slicer.readers.get(value, ()))
        span = self.chain.span(makers) or (0, 1)  # inputs of the model have no maker
        is_one_stage = span[1] - span[0] == 1 and (span[0] == 0 or len(makers) == len(values))
        if values and all(map(is_site, path)) and is_one_stage and behind.isdisjoint(makers):
            yield from self._plan(span[0], values, behind, (), None)

    def _plan(
        self,
        stage: int,
        changed: tuple[str, ...],
        cone: Collection[int],
        more: Collection[str],
        stretch: ChannelwiseStretch | None,
    ) -> Iterator[_Plan]:
        """Yield the plan for values ``changed`` whose readers lie in ``cone``, if the rules allow it."""
        slicer, border = self.chain.slicer, self.chain.borders[stage + 1]
        computed = tuple(name for name in border if name not in changed and slicer.producer.get(name) in cone)
        passing = set(changed).intersection(border)
        cuts = slicer.cuts(cone, changed, computed) if computed else border if passing else None
        if cuts is None or not self.rules.rows_may_move({*cuts, *changed}, computed or changed):
            return
        yield _Plan(
            stage, changed, tuple(sorted({*cuts, *passing})), computed, frozenset({*cuts, *changed, *more}), stretch
        )

    def _inner_values(self, stage: int, wanted: frozenset[str]) -> InnerValues | None:
        """Return golden values that include those ``wanted``; None if reading them changes what the stage makes."""
        if stage not in self._shared:
            self._shared[stage] = self._wanted_together(stage)
        shared = self._shared[stage]
        together = self._exact_inner_values(stage, shared) if wanted <= shared else None
        return together or self._exact_inner_values(stage, wanted)

    def _wanted_together(self, stage: int) -> frozenset[str]:
        names: frozenset[str] = frozenset()
        for path in self.paths():
            lane = self.stages_lane(path)
            if lane is not None and lane.first <= stage < lane.last:
                names |= next((plan.wanted for plan in self._plans(path, lane) if plan.stage == stage), frozenset())
        return names

    def _exact_inner_values(self, stage: int, names: frozenset[str]) -> InnerValues | None:
        if (stage, names) not in self._inner:
            self._inner[stage, names] = self._try_inner_values(stage, names)
        return self._inner[stage, names]

    def _try_inner_values(self, stage: int, names: frozenset[str]) -> InnerValues | None:
        """Return golden values within a stage, if the stage makes the golden border while they are read."""
        chain, size = self.chain, self.block.size
        before, behind = self.block.border(stage), self.block.border(stage + 1)
        outputs = sorted((names | set(chain.computed(stage))) - set(chain.borders[stage]))
        try:
            model = chain.slicer.extract([n for n in before if n in chain.entering(stage)], outputs)
            part = open_part(model, chain.numerics, stage in chain.blocked)
            for start in range(0, self.block.rows, size):
                rows = slice(start, start + size)
                made = dict(
                    zip(part.outputs, part.run({name: before[name][rows] for name in part.inputs}), strict=True)
                )
                if not all(same_numbers(made[name], behind[name][rows]) for name in chain.computed(stage)):
                    return None
        except ModelError:  # a type that arrays cannot hold
            return None
        return InnerValues(stage, names, part)
