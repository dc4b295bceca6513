"""Faulty scores from numpy and ONNX Runtime alone, one whole model per fault: nothing here imports bitswap_onnx.

The settings are those that the README documents for ``--fusion framework --layout plain``, written down a second time.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import numpy_helper

#: Optimisers that fold parameters into kernels, and the one that chooses NCHWc kernels.
DISABLED = (
    "ConvAddActivationFusion",
    "ConvAddFusion",
    "ConvBNFusion",
    "ConvMulFusion",
    "MatMul_BatchNormalization_Fusion",
    "NchwcTransformer",
)

Array = NDArray[Any]


@dataclass(frozen=True)
class Flip:
    """One bit, 0 the least significant, of the element at ``index`` of a stored tensor (`stored`)."""

    tensor: str
    index: tuple[int, ...]
    bit: int


@dataclass(frozen=True, eq=False)
class Loop:
    """A model file and how to run it: ``quantized`` models compute every QuantizeLinear and DequantizeLinear as written."""

    model: Path
    output: str
    batch: int
    quantized: bool = False

    def scores(self, flips: list[Flip], inputs: Array) -> Iterator[Array]:
        """Yield, fault by fault, the scores (inputs, values) of the whole faulty model."""
        clean = onnx.load(self.model)
        for flip in flips:
            faulty = onnx.ModelProto()
            faulty.CopyFrom(clean)
            apply(flip, faulty)
            yield self._run(self._open(faulty), inputs)

    def _open(self, model: onnx.ModelProto) -> Any:
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.log_severity_level = 4
        if self.quantized:
            options.add_session_config_entry("session.disable_quant_qdq", "1")
        content, providers = model.SerializeToString(), ["CPUExecutionProvider"]
        return ort.InferenceSession(content, options, providers=providers, disabled_optimizers=list(DISABLED))

    def _run(self, session: Any, inputs: Array) -> Array:
        name, parts = session.get_inputs()[0].name, []
        for first in range(0, len(inputs), self.batch):
            rows = inputs[first : first + self.batch]
            full = np.concatenate([rows, np.repeat(rows[-1:], self.batch - len(rows), axis=0)])
            (scores,) = session.run([self.output], {name: full})
            parts.append(scores[: len(rows)].reshape(len(rows), -1))
        return np.concatenate(parts)


def stored(model: onnx.ModelProto) -> dict[str, onnx.TensorProto]:
    """Return the tensors that the main graph stores, as initializers or Constant nodes, by the value that holds each."""
    constants = [node for node in model.graph.node if node.op_type == "Constant"]
    values = {n.output[0]: entry.t for n in constants for entry in n.attribute if entry.name == "value"}
    return values | {tensor.name: tensor for tensor in model.graph.initializer}


def apply(flip: Flip, model: onnx.ModelProto) -> None:
    """Flip the bit in the model's stored tensor."""
    tensor = stored(model)[flip.tensor]
    array = numpy_helper.to_array(tensor).copy()
    bits = array.view(f"u{array.dtype.itemsize}")
    bits[flip.index] ^= bits.dtype.type(1 << flip.bit)
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))


def unequal_rows(one: Array, other: Array) -> int:
    """In how many rows two arrays of scores (inputs, values) differ in a bit; NaN equals NaN."""
    if one.shape != other.shape or one.dtype != other.dtype:
        return max(len(one), len(other))
    view = f"u{one.dtype.itemsize}"
    different = (one.view(view) != other.view(view)) & ~(np.isnan(one) & np.isnan(other))
    return int(different.any(axis=1).sum())
