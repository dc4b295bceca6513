"""Engine 1, the oracle: rewrite the model, load it, run everything."""

from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from bitswap_onnx.graph.model import Model
from bitswap_onnx.graph.weights import Edits, rewrite
from bitswap_onnx.outcome import Scores
from bitswap_onnx.runtime.session import Numerics, open_session


@dataclass(frozen=True, eq=False)
class ReferenceEngine:
    """Runs each injection as the whole faulty model, in the session settings of the golden run."""

    model: Model
    numerics: Numerics
    output: str

    def scores(self, edits: Edits, inputs: NDArray[Any]) -> Scores:
        """Return the scores (n, classes) of ``inputs`` (n, ...) with ``edits`` applied.

        Edits without changes (a null control) travel the same path: rewritten, loaded and run.
        """
        return open_session(rewrite(self.model, edits), self.numerics, self.output).run(inputs)
