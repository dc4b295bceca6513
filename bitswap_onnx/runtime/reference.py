"""The reference engine: each injection runs as the whole faulty model. The incremental engine is checked against it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from numpy.typing import NDArray

from bitswap_onnx.graph.edits import InjectionEdits
from bitswap_onnx.graph.model import Model
from bitswap_onnx.graph.sites import NeuronSite
from bitswap_onnx.outcome import Scores
from bitswap_onnx.runtime.lanes import Block, FaultyPath, FaultyScores, LaneKind
from bitswap_onnx.runtime.model_lanes import WholeLanes, clean_model
from bitswap_onnx.runtime.session import Numerics
from bitswap_onnx.runtime.stopwatch import STOPWATCH


@dataclass(frozen=True, eq=False)
class ReferenceEngine:
    """Runs each injection as the whole faulty model, in the session settings of the golden run.

    ``inputs`` (n, ...) are prepared, ``scores`` (n, classes) are their golden scores. ``sites``, by key, are those that
    faulty paths may hold.
    """

    model: Model
    numerics: Numerics
    output: str
    inputs: NDArray[Any]
    scores: Scores
    sites: Mapping[str, NeuronSite] = field(default_factory=dict)

    @property
    def lost(self) -> int:
        """As `IncrementalEngine.lost`: no golden rows run along with whole models, which have null controls."""
        return 0

    def lane_kind(self, path: FaultyPath) -> LaneKind:
        """Return the kind of lane that every path runs on."""
        return self._lanes.lane(path).kind

    @STOPWATCH.span("controls")
    def control(self, path: FaultyPath, first: int, stop: int) -> int:
        """Rewrite the tensors of ``path`` with the bits that they have, and run; return how many inputs stay golden."""
        return self._lanes.lane(path).control(self._block(first, stop))

    def run(
        self, path: FaultyPath, injections: Sequence[InjectionEdits], first: int, stop: int
    ) -> Iterator[tuple[int, FaultyScores]]:
        """As `run_all`, for one path."""
        return self.run_all([(path, injections)], first, stop)

    def run_all(
        self, work: Sequence[tuple[FaultyPath, Sequence[InjectionEdits]]], first: int, stop: int
    ) -> Iterator[tuple[int, FaultyScores]]:
        """Yield the scores of injections of several paths, numbered through, over the inputs ``first`` to ``stop``."""
        count = 0
        for path, injections in work:
            for faulty in self._lanes.lane(path).run(list(enumerate(injections, count)), self._block(first, stop)):
                yield first, faulty
            count += len(injections)

    @cached_property
    def _lanes(self) -> WholeLanes:
        return WholeLanes(clean_model(self.model, self.sites), self.numerics, self.output, self.sites)

    def _block(self, first: int, stop: int) -> Block:
        return Block(self.inputs[first:stop], self.scores[first:stop], self.numerics.batch_size, first)
