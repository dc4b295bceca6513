"""Engine 1, the oracle: rewrite the model, load it, run everything."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitswap_onnx.graph.edits import InjectionEdits
from bitswap_onnx.graph.model import Model
from bitswap_onnx.graph.neurons import instrument
from bitswap_onnx.graph.sites import NeuronSite
from bitswap_onnx.outcome import Scores
from bitswap_onnx.runtime.lanes import Block, Faulty, WholeLane
from bitswap_onnx.runtime.session import Numerics


@dataclass(frozen=True, eq=False)
class ReferenceEngine:
    """Runs each injection as the whole faulty model, in the session settings of the golden run.

    ``inputs`` (n, ...) are prepared, ``scores`` (n, classes) their golden scores. ``sites``, by key, are those that
    faulty paths may hold. A lane is kept from one call to the next: flip nodes are loaded once.
    """

    model: Model
    numerics: Numerics
    output: str
    inputs: NDArray[Any]
    scores: Scores
    sites: Mapping[str, NeuronSite] = field(default_factory=dict)
    _last: list[WholeLane] = field(default_factory=list)

    def control(self, path: tuple[str, ...], first: int, stop: int) -> int:
        """Rewrite the tensors of ``path`` with the bits they have, load and run; return how many inputs stay golden."""
        lane, block = self._lane(path), self._block(first, stop)
        return int(lane.control(block, np.arange(block.count)).sum())

    def run(
        self, path: tuple[str, ...], injections: Sequence[InjectionEdits], first: int, stop: int
    ) -> Iterator[tuple[int, Faulty]]:
        """Yield the scores of each injection over the inputs ``first`` to ``stop``, and the input they begin at."""
        for faulty in self._lane(path).run(injections, self._block(first, stop)):
            yield first, faulty

    @cached_property
    def _clean(self) -> Model:
        """The model without a fault, with sites at the opset of flip nodes, so that each node need not bring it there."""
        return instrument(self.model, ()) if self.sites else self.model

    def _lane(self, path: tuple[str, ...]) -> WholeLane:
        if not self._last or self._last[0].path != path:
            self._last[:] = [WholeLane(self._clean, self.numerics, self.output, path, self.sites)]
        return self._last[0]

    def _block(self, first: int, stop: int) -> Block:
        return Block(self.inputs[first:stop], {}, self.scores[first:stop], self.numerics.batch_size, first)
