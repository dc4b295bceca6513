"""Faulty scores from numpy and ONNX Runtime alone, one whole model per fault: nothing here imports bitswap_onnx.

The settings are those that the README documents for ``--fusion framework``, written down a second time.

``python -m tests.benchmarks.plain_loop MODEL FAULTS.csv INPUTS.npz`` is what a user without this project might write: for
each flip of the list in a weight, the model with it is loaded and runs over all inputs, ``x`` in INPUTS.npz. ``--tensors``
names a JSON file with the tensors of layers; others have the tensor ``LAYER.weight``. It prints JSON: each fault's critical
inputs and the seconds that it took.
"""

import argparse
import csv
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import numpy_helper

#: Optimisers that fold parameters into kernels or look at their numbers, and the one that chooses NCHWc kernels.
FOLDING = (
    "NoopElimination",
    "ConvAddActivationFusion",
    "ConvAddFusion",
    "ConvBNFusion",
    "ConvMulFusion",
    "MatMul_BatchNormalization_Fusion",
)
BLOCKING = "NchwcTransformer"

Array = NDArray[Any]


@dataclass(frozen=True)
class Flip:
    """One bit, 0 the least significant, of the element at ``index`` of a stored tensor (`stored`)."""

    tensor: str
    index: tuple[int, ...]
    bit: int


@dataclass(frozen=True, eq=False)
class Loop:
    """A model file and how to run it: ``quantized`` models compute every QuantizeLinear and DequantizeLinear as written.

    ``blocked``: with NCHWc kernels, the runtime's own choice.
    """

    model: Path
    output: str
    batch: int
    quantized: bool = False
    blocked: bool = False
    threads: int = 1

    def scores(self, flips: list[Flip], inputs: Array) -> Iterator[Array]:
        """Yield, fault by fault, the scores (inputs, values) of the whole faulty model."""
        clean = onnx.load(self.model)
        for flip in flips:
            yield self._run(self._open(with_flip(flip, clean)), inputs)

    def clean_scores(self, inputs: Array) -> Array:
        """Return the scores (inputs, values) of the model as it is."""
        return self._run(self._open(onnx.load(self.model)), inputs)

    def _open(self, model: onnx.ModelProto) -> Any:
        options = ort.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = self.threads, 1
        options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.log_severity_level = 4
        if self.quantized:
            options.add_session_config_entry("session.disable_quant_qdq", "1")
        content, providers = model.SerializeToString(), ["CPUExecutionProvider"]
        disabled = [*FOLDING] if self.blocked else [*FOLDING, BLOCKING]
        return ort.InferenceSession(content, options, providers=providers, disabled_optimizers=disabled)

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


def with_flip(flip: Flip, clean: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model with the bit flipped in its stored tensor."""
    model = onnx.ModelProto()
    model.CopyFrom(clean)
    tensor = stored(model)[flip.tensor]
    array = numpy_helper.to_array(tensor).copy()
    bits = array.view(f"u{array.dtype.itemsize}")
    bits[flip.index] ^= bits.dtype.type(1 << flip.bit)
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    return model


def unequal_rows(one: Array, other: Array) -> int:
    """In how many rows two arrays of scores (inputs, values) differ in a bit; NaN equals NaN."""
    if one.shape != other.shape or one.dtype != other.dtype:
        return max(len(one), len(other))
    view = f"u{one.dtype.itemsize}"
    different = (one.view(view) != other.view(view)) & ~(np.isnan(one) & np.isnan(other))
    return int(different.any(axis=1).sum())


def read_flips(path: Path, tensors: dict[str, str]) -> dict[str, Flip]:
    """Return the flips of a list by their injections' names; ``tensors`` has the tensors of layers, if they are named so."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return {
        row["Injection"]: Flip(
            tensors.get(row["Layer"], f"{row['Layer']}.weight"), _index(row["TensorIndex"]), int(row["Bit"])
        )
        for row in rows
    }


def _index(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.strip("()").split(",") if part.strip())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("faults", type=Path)
    parser.add_argument("inputs", type=Path)
    parser.add_argument("--tensors", type=Path)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--layout", choices=["plain", "blocked"], default="blocked")
    options = parser.parse_args()
    with np.load(options.inputs) as data:
        inputs = data["x"]
    flips = read_flips(options.faults, json.loads(options.tensors.read_text()) if options.tensors else {})
    output = onnx.load(options.model).graph.output[0].name
    loop = Loop(options.model, output, options.batch, blocked=options.layout == "blocked", threads=options.threads)
    clean = loop.clean_scores(inputs).argmax(axis=1)  # NaN first
    critical, seconds, start = [], [], time.perf_counter()
    for scores in loop.scores([*flips.values()], inputs):
        critical.append(int(np.sum(scores.argmax(axis=1) != clean)))
        seconds.append(time.perf_counter() - start)
        start = time.perf_counter()
    print(json.dumps({"critical": dict(zip(flips, critical, strict=True)), "seconds": seconds}))


if __name__ == "__main__":
    main()
