"""Engine 1, the oracle: rewrite the model, load it, run everything."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitswap_onnx.graph.model import Model
from bitswap_onnx.graph.weights import Edits
from bitswap_onnx.outcome import Scores
from bitswap_onnx.runtime.lanes import Block, Faulty, WholeLane
from bitswap_onnx.runtime.session import Numerics


@dataclass(frozen=True, eq=False)
class ReferenceEngine:
    """Runs each injection as the whole faulty model, in the session settings of the golden run.

    ``inputs`` (n, ...) are prepared, ``scores`` (n, classes) their golden scores.
    """

    model: Model
    numerics: Numerics
    output: str
    inputs: NDArray[Any]
    scores: Scores

    def control(self, path: tuple[str, ...], first: int, stop: int) -> int:
        """Rewrite the tensors of ``path`` with the bits they have, load and run; return how many inputs stay golden."""
        lane, block = self._lane(path), self._block(first, stop)
        return int(lane.control(block, np.arange(block.count)).sum())

    def run(
        self, path: tuple[str, ...], injections: Sequence[Edits], first: int, stop: int
    ) -> Iterator[tuple[int, Faulty]]:
        """Yield the scores of each injection over the inputs ``first`` to ``stop``, and the input they begin at."""
        for faulty in self._lane(path).run(injections, self._block(first, stop)):
            yield first, faulty

    def _lane(self, path: tuple[str, ...]) -> WholeLane:
        return WholeLane(self.model, self.numerics, self.output, path)

    def _block(self, first: int, stop: int) -> Block:
        return Block(self.inputs[first:stop], {}, self.scores[first:stop], self.numerics.batch_size)
