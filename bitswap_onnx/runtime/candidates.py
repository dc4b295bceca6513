"""Proposes lanes for faulty paths: those that the graph and the cut rules allow, the fastest first.

A proposed lane may still round otherwise than the whole model: `bitswap_onnx.runtime.probe` judges it before it is used.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice

from bitswap_onnx.graph.model import Model
from bitswap_onnx.graph.neurons import tapped_value
from bitswap_onnx.graph.sites import NeuronSite, is_site
from bitswap_onnx.graph.slices import Slicer
from bitswap_onnx.graph.stretches import ChannelwiseStretch, find_stretch
from bitswap_onnx.runtime.cut_rules import CutRules
from bitswap_onnx.runtime.device import DeviceLane
from bitswap_onnx.runtime.lanes import FaultyPath, Lane
from bitswap_onnx.runtime.model_lanes import ConeLane, WholeLanes
from bitswap_onnx.runtime.neuron_lane import NeuronLane
from bitswap_onnx.runtime.packed import PackedLane
from bitswap_onnx.runtime.session import Numerics

#: The lane number of the whole model, which is none of the candidates.
WHOLE = -1

#: With blocked kernels: (stretch, suffix), whether images enter each in blocked layout, in the order of trial.
_BLOCKED_ENTRIES = ((False, False), (True, True), (False, True), (True, False))


@dataclass(frozen=True, eq=False)
class Candidates:
    """The lanes of a model's faulty paths. A lane's number is its place among the candidates of its path, or `WHOLE`.

    ``slicer`` cuts the ``model``; ``sites``, by key, are the neuron sites of the paths. ``device``: where golden values
    stay; None: in arrays of the host.
    """

    model: Model
    slicer: Slicer
    numerics: Numerics
    sites: Mapping[str, NeuronSite]
    rules: CutRules
    whole_lanes: WholeLanes
    device: str | None = None

    def lane(self, path: FaultyPath, number: int) -> Lane:
        """Return the lane of a path that has a number."""
        return self.whole_lanes.lane(path) if number == WHOLE else next(islice(self.lanes(path), number, None))

    def lanes(self, path: FaultyPath) -> Iterator[PackedLane | NeuronLane | ConeLane]:
        """Yield the lanes that may be exact for a path, the fastest first."""
        if self.model.proto.graph.sparse_initializer:  # a part of the model would lack them
            return
        if any(map(is_site, path)):
            yield from self._lanes_of_neurons(path)
            return
        yield from self._packed_lanes(path)
        starts = [user for tensor in path for user in self.slicer.users(tensor)]
        cuts = self.slicer.cuts(self.slicer.cone(starts))
        if cuts is not None and not self.rules.parts_fold(starts) and self.rules.may_cut(cuts):
            yield ConeLane(self.slicer, self.numerics, path, cuts)

    def _packed_lanes(self, path: FaultyPath) -> Iterator[PackedLane]:
        longest = find_stretch(self.slicer, path[0]) if len(path) == 1 else None
        for stretch in filter(None, (longest, longest and longest.trimmed)):
            cuts = self.slicer.cuts(self.slicer.cone([stretch.start]), stretch.value)
            if (
                cuts is None
                or self.rules.parts_fold([stretch.start])
                or not self.rules.rows_may_move({*cuts, stretch.value})
            ):
                continue
            if any(self.rules.parts_sum(feed.value) for feed in stretch.feeds):
                continue
            for blocked in _BLOCKED_ENTRIES if self.numerics.layout == "blocked" else _BLOCKED_ENTRIES[:1]:
                yield self._packed_lane(stretch, cuts, path, blocked)

    def _packed_lane(
        self, stretch: ChannelwiseStretch, cuts: tuple[str, ...], path: FaultyPath, blocked: tuple[bool, bool]
    ) -> PackedLane:
        fallback = self.whole_lanes.lane(path)
        if self.device is None:
            return PackedLane(self.slicer, self.numerics, stretch, cuts, fallback, blocked)
        return DeviceLane(self.slicer, self.numerics, stretch, cuts, fallback, blocked, device=self.device)

    def _lanes_of_neurons(self, path: FaultyPath) -> Iterator[NeuronLane | ConeLane]:
        """Yield the lanes of a path with neuron sites: golden values and the suffix, or flip nodes in the cone."""
        sites = [self.sites[key] for key in path if is_site(key) and self._reaches_scores(self.sites[key])]
        values = [tapped_value(site.key) for site in sites]
        behind = self.slicer.cone(reader for value in values for reader in self.slicer.readers.get(value, ()))
        are_apart = all(self.slicer.producer.get(value) not in behind for value in values)
        if sites and all(map(is_site, path)) and are_apart:
            cuts = values if values == [self.slicer.output] else self.slicer.cuts(behind)
            if cuts is not None and self.rules.rows_may_move(set(cuts)):
                yield NeuronLane(self.slicer, self.numerics, tuple(sites), tuple(cuts))
        starts = [user for tensor in path if not is_site(tensor) for user in self.slicer.users(tensor)]
        cuts = self.slicer.cuts(behind | self.slicer.cone(starts))
        if cuts is not None and self.rules.may_cut(cuts):
            yield ConeLane(self.slicer, self.numerics, path, cuts, {site.key: site for site in sites})

    def _reaches_scores(self, site: NeuronSite) -> bool:
        """Whether the scores depend on a site; a part of the model may lack a site that they do not depend on."""
        value = tapped_value(site.key)
        readers = self.slicer.readers.get(value, ())
        return value == self.slicer.output or self.slicer.cuts(self.slicer.cone(readers)) is not None
