"""The oracle: what a fault does, told by numpy and plain sessions; it shares no code with the library.

A stored fault is an edit of the model's bits, a neuron fault one of the value that a first session gives and a second
one takes.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx.version_converter
import onnxruntime as ort

from tests.benchmarks.fuzz.builder import Array
from tests.benchmarks.fuzz.faults import Injection, Row, all_graphs, edited

#: What the library says it switches off, see ``bitswap_onnx/runtime/session.py``.
FRAMEWORK = (
    *("ConvBNFusion", "ConvMulFusion", "ConvAddFusion", "MatMul_BatchNormalization_Fusion", "ConvAddActivationFusion"),
)
#: What is off besides where faults hit neurons.
APART = (
    *("AttentionFusion", "BiasDropoutFusion", "BiasGeluFusion", "BiasSkipLayerNormFusion", "BiasSoftmaxFusion"),
    *("ConvActivationFusion", "DivMulFusion", "EmbedLayerNormFusion", "FastGeluFusion", "GeluFusionL1", "GeluFusionL2"),
    *("GemmActivationFusion", "GemmSumFusion", "GemmTransposeFusion", "LayerNormFusionL1", "LayerNormFusionL2"),
    *("MatMulActivationFusion", "MatMulAddFusion", "MatMulScaleFusion", "MatmulTransposeFusion", "Pad_Fusion"),
    *("QuickGeluFusion", "SimplifiedLayerNormFusion", "SkipLayerNormFusion"),
    *("TransposeOptimizer", "TransposeOptimizer_CPUExecutionProvider"),
)
PLAIN = ("NchwcTransformer",)
FLIP_OPSET = 26


@dataclass(eq=False)
class Oracle:
    """The plain way to run ``model`` over ``inputs``; ``batch_size`` 1 for models whose inputs see each other.

    Faults' places name nodes of ``drawn``, which is the model before its opset was changed.
    """

    model: onnx.ModelProto
    drawn: onnx.ModelProto
    inputs: Array
    batch_size: int
    disabled: tuple[str, ...]
    seed: int

    def clean(self) -> Array:
        return self._run(self.model, list(self.batches()))[0]

    def stored(self, injection: Injection) -> tuple[Array, Array]:
        """Return the scores under faults in parameters, in the batches that the inputs come in and in mixed ones."""
        straight, mixed = list(self.batches()), self.mixed_batches()
        scores = self._run(edited_model(self.model, injection.stored), straight, mixed)
        return scores[0], scores[1]

    def batches(self) -> Iterator[Array]:
        """Yield the numbers of the inputs of each batch; the last one is filled up with its last input."""
        for first in range(0, len(self.inputs), self.batch_size):
            rows = np.arange(first, first + self.batch_size)
            yield np.minimum(rows, len(self.inputs) - 1)

    def mixed_batches(self) -> list[Array]:
        """Return batches in another order, the last one filled up with others."""
        rng = np.random.default_rng(self.seed)
        count = len(self.inputs)
        order = rng.permutation(count)
        missing = -count % self.batch_size
        order = np.concatenate([order, rng.integers(0, count, missing)])
        return list(order.reshape(-1, self.batch_size))

    def _run(self, model: onnx.ModelProto, *orders: list[Array]) -> tuple[Array, ...]:
        session = open_session(model, self.disabled)
        return tuple(
            arrange(
                [session.run(None, {"x": aligned(self.inputs[rows])})[0] for rows in batches], batches, len(self.inputs)
            )
            for batches in orders
        )

    def neurons(self, injection: Injection, faulty: bool = True) -> Array:
        """Return the scores under an injection with neuron faults; without being ``faulty``, cut but not changed."""
        stored = injection.stored if faulty else ()
        model, value = cut_model(edited_model(self.model, stored), injection.neurons[0], self.drawn)
        before = open_session(part(model, [value.source]), self.disabled)
        behind = open_session(part(model, [model.graph.output[0].name], value), self.disabled)
        names = {entry.name for entry in behind.get_inputs()}
        parts, batches = [], list(self.batches())
        for rows in batches:
            feeds: dict[str, Array] = {"x": aligned(self.inputs[rows])}
            held = feeds["x"] if value.source == "x" else before.run([value.source], feeds)[0]
            feeds[value.cut] = aligned(flipped(held, injection.neurons, rows) if faulty else held)
            parts.append(behind.run(None, {name: feeds[name] for name in names})[0])
        return arrange(parts, batches, len(self.inputs))


@dataclass(frozen=True)
class Cut:
    """A value of the model, ``source``, and what stands for it behind the cut."""

    source: str
    cut: str
    dtype: int
    shape: tuple[int, ...]


def arrange(parts: Sequence[Array], batches: Sequence[Array], count: int) -> Array:
    """Put the rows of batches where their inputs are; of an input that comes twice the first one counts."""
    rows, scores = np.concatenate(batches), np.concatenate(parts)
    _, first = np.unique(rows, return_index=True)
    assert len(first) == count
    return np.asarray(scores[first].astype(np.float32))


def aligned(values: Array) -> Array:
    """Return a copy that begins at a multiple of 64 bytes: some kernels round by the address of what they are fed."""
    values = np.ascontiguousarray(values)
    buffer = np.empty(values.nbytes + 64, np.uint8)
    first = -buffer.ctypes.data % 64
    copy = buffer[first : first + values.nbytes].view(values.dtype).reshape(values.shape)
    copy[...] = values
    return np.asarray(copy)


def open_session(model: onnx.ModelProto, disabled: Sequence[str]) -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 4
    return ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"], disabled_optimizers=list(disabled)
    )


def disabled_optimizers(golden: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the optimisers that a run's numerics switch off; golden.json may name them itself."""
    numerics = golden["identity"]["numerics"]
    plain = PLAIN if numerics["layout"] == "plain" else ()
    apart = APART if numerics["apart"] else ()
    return ("NoopElimination", *plain, *(FRAMEWORK if numerics["fusion"] == "framework" else ()), *apart)


def edited_model(model: onnx.ModelProto, rows: Sequence[Row]) -> onnx.ModelProto:
    """Return a copy of the model with faults in its stored bits."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    tensors = {t.name: t for graph in all_graphs(copy.graph) for t in graph.initializer}
    for row in rows:
        assert row.tensor is not None
        tensor = tensors[row.tensor.tensor]
        dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
        bits = np.frombuffer(tensor.raw_data, f"u{dtype.itemsize}").reshape(tuple(tensor.dims)).copy()
        bits[row.index] = edited(bits[row.index], row, dtype)
        tensor.raw_data = bits.tobytes()
    return copy


def flipped(values: Array, rows: Sequence[Row], numbers: Array) -> Array:
    """Return ``values`` (batch, ...) with faults; ``numbers`` are the inputs that stand in the batch."""
    bits = values.view(f"u{values.dtype.itemsize}").copy()
    for row in rows:
        hit = np.ones(len(numbers), bool) if row.input is None else numbers == row.input
        where = (hit, *row.index)
        bits[where] = edited(bits[where], row, values.dtype)
    return np.asarray(bits.view(values.dtype))


def at_flip_opset(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model at the opset in which campaigns with neuron faults run, clean and faulty."""
    return onnx.version_converter.convert_version(model, FLIP_OPSET)


def cut_model(model: onnx.ModelProto, row: Row, drawn: onnx.ModelProto) -> tuple[onnx.ModelProto, Cut]:
    """Return a copy in which all that sees the faulty neurons reads a value of another name."""
    place = row.place
    assert place is not None
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    cut = Cut(place.value, "cut", copy.graph.input[0].type.tensor_type.elem_type, place.shape)
    if place.site == "input" and place.node >= 0:
        made = drawn.graph.node[place.node].output[0]
        next(node for node in copy.graph.node if made in node.output).input[place.slot] = cut.cut
        return copy, cut
    for graph in all_graphs(copy.graph):
        for node in graph.node:
            for slot, name in enumerate(node.input):
                if name == place.value:
                    node.input[slot] = cut.cut
    if copy.graph.output[0].name == place.value:
        copy.graph.node.append(onnx.helper.make_node("Identity", [cut.cut], ["cut_scores"]))
        copy.graph.output[0].name = "cut_scores"
    return copy, cut


def part(model: onnx.ModelProto, outputs: Sequence[str], cut: Cut | None = None) -> onnx.ModelProto:
    """Return the part of a model that makes ``outputs``, with ``cut`` as another input."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    graph = copy.graph
    nodes = _needed(graph, outputs)
    del graph.node[:]
    graph.node.extend(nodes)
    if cut is not None:
        batch = graph.input[0].type.tensor_type.shape.dim[0]
        size = batch.dim_value or batch.dim_param
        graph.input.append(onnx.helper.make_tensor_value_info(cut.cut, cut.dtype, [size, *cut.shape]))
    else:
        del graph.output[:]
        graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in outputs)
    read = {name for node in nodes for name in _reads(node)} | set(outputs)
    inputs = [value for value in graph.input if value.name in read]
    del graph.input[:]
    graph.input.extend(inputs)
    return copy


def _needed(graph: onnx.GraphProto, outputs: Sequence[str]) -> list[onnx.NodeProto]:
    wanted, kept = set(outputs), []
    for node in reversed(graph.node):
        if wanted.intersection(node.output):
            kept.append(node)
            wanted.update(_reads(node))
    return kept[::-1]


def _reads(node: onnx.NodeProto) -> Iterator[str]:
    yield from node.input
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            for inner in attribute.g.node:
                yield from _reads(inner)
