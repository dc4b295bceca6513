"""A third opinion, within a tolerance: the ONNX specification in numpy."""

import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator

from tests.benchmarks.fuzz.builder import Array


def is_wrong(node: onnx.NodeProto) -> bool:
    """Whether the reference implementation of the specification computes a node otherwise than it says."""
    groups = next((a.i for a in node.attribute if a.name == "group"), 1)
    return node.op_type == "LRN" or (node.op_type == "ConvTranspose" and groups > 1 and len(node.input) > 2)


def specified_scores(model: onnx.ModelProto, inputs: Array, batch: int) -> Array | None:
    """Return the scores of the first ``batch`` inputs as the specification gives them; None where it has no answer."""
    if any(map(is_wrong, model.graph.node)):
        return None
    with np.errstate(all="ignore"):
        try:
            (scores,) = ReferenceEvaluator(model).run(None, {"x": inputs[:batch]})
        except Exception:  # it lacks operators, and raises whatever comes
            return None
    return np.asarray(scores, np.float64)


def agrees(scores: Array, specified: Array, half: bool) -> bool:
    """Whether scores are what is specified, within rounding; nothing is said about numbers that are not finite."""
    finite = np.isfinite(scores).all() and np.isfinite(specified).all()
    if not finite or scores.shape != specified.shape:
        return not finite
    size = max(float(np.abs(specified).max()), 0.1 if half else 1e-3)
    return bool(np.abs(scores.astype(np.float64) - specified).max() <= (5e-2 if half else 1e-3) * size)
