"""ONNX classifier → Keras 3 model of real layers (NHWC), with the same weights, bit for bit.

Layers are named as Keras numbers a fresh model, in the order in which they run: ``conv2d``, ``conv2d_1``, ...,
``dense``. The saved file holds no code (no Lambda layers), so Keras loads it in safe mode. Before the file appears, it is
loaded like this and every weight is compared.
"""

import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from bitswap_onnx.converters.keras_builder import Builder, Stored, label
from bitswap_onnx.converters.keras_layers import LAYER_RULES
from bitswap_onnx.converters.keras_setup import load_keras_file, quiet, require
from bitswap_onnx.converters.simplify import simplify
from bitswap_onnx.errors import ControlFailedError, ModelError, one_line
from bitswap_onnx.graph.model import Model, load_model

if TYPE_CHECKING:
    import keras

#: ONNX operator → the Keras layers that it becomes.
SUPPORTED: dict[str, str] = {operator: layers for operator, (layers, _) in LAYER_RULES.items()}

#: Operators whose results are never negative; operators whose results are not negative where no input is.
_NONNEGATIVE = frozenset({"Relu", "Clip", "Sigmoid", "HardSigmoid", "Softmax", "Softplus"})
_KEEPING = frozenset(
    (
        "MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "Concat", "Pad", "Slice", "Flatten", "Reshape",
        "Transpose", "Identity", "Dropout",
    )
)  # fmt: skip


@dataclass(frozen=True)
class KerasReport:
    """The result of a conversion: ``layers`` maps Keras layers, in order of execution, to their ONNX nodes.

    ``parameters`` maps Keras variables to their initializers; all were compared bit for bit.
    """

    path: Path
    layers: dict[str, str]
    parameters: dict[str, str]


def onnx_to_keras(model: Model | str | Path, path: str | Path) -> KerasReport:
    """Write an ONNX model (NCHW, one input, one output) as a Keras 3 model (NHWC) in a ``.keras`` file.

    Weights are those of the ONNX file; only the order of axes differs: Conv (out, in, h, w) → ``kernel`` (h, w, in, out),
    Gemm and MatMul → ``kernel`` (in, out), batch-norm unchanged. `SUPPORTED` lists the operators.

    Raises ModelError for an operator without an exact counterpart, naming it and its node, and for a path that does not
    end in ``.keras``; ControlFailedError (and writes nothing) for a weight that differs; MissingExtraError without Keras.
    """
    require("tensorflow", "keras")
    path = Path(path)
    if path.suffix != ".keras":
        raise ModelError(f"{path}: expected a file name that ends in .keras")
    source = model if isinstance(model, Model) else load_model(model)
    graph = _simplified(source).graph
    builder = Builder(source.name, _input_dtype(graph, source.name), _constants(graph))
    try:
        with quiet():
            network = _network(graph, builder)
    except ModelError as error:
        if source.metadata.get("framework") != "keras":
            raise
        raise ModelError(
            f"{error}; the file was exported from Keras: use the model that it was exported from"
        ) from error
    _save(network, builder.weights, path)
    return KerasReport(path, dict(builder.layers), {name: stored.name for name, stored in builder.weights.items()})


def _simplified(source: Model) -> ir.Model:
    """Return a copy of the graph in which all constants are initializers; floating tensors stay as they are."""
    model = ir.serde.deserialize_model(source.proto)
    ir.external_data.set_base_dir(model.graph, source.folder)
    floating = {
        name: value
        for name, value in model.graph.initializers.items()
        if value.dtype is not None
        and value.dtype.is_floating_point()
        and value.shape is not None
        and value.shape.rank()
    }
    simplify(model, floating)
    return model


def _inputs(graph: ir.Graph) -> list[ir.Value]:
    return [value for value in graph.inputs if value.name not in graph.initializers]


def _input_dtype(graph: ir.Graph, name: str) -> str:
    inputs = _inputs(graph)
    if len(inputs) != 1 or len(graph.outputs) != 1:
        raise ModelError(f"{name}: expected one input and one output, found {len(inputs)} and {len(graph.outputs)}")
    dtype = inputs[0].dtype
    if dtype is None or not dtype.is_floating_point() or inputs[0].shape is None or inputs[0].shape.rank() < 2:
        raise ModelError(f"{name}: expected a floating-point input (batch, channels, ...), found {inputs[0]}")
    return str(dtype.numpy().name)


def _constants(graph: ir.Graph) -> dict[str, Stored]:
    constants = {}
    for name, value in graph.initializers.items():
        assert value.const_value is not None
        elements = value.const_value.numpy()
        constants[name] = Stored(name, elements, tuple(range(elements.ndim)))
    return constants


def _network(graph: ir.Graph, builder: Builder) -> "keras.Model":
    """Build the Keras model node by node."""
    import keras

    image = _inputs(graph)[0]
    assert image.shape is not None
    sizes = [size if isinstance(size, int) else None for size in list(image.shape)[1:]]
    start = keras.Input((*sizes[1:], sizes[0]), dtype=builder.dtype, name=_plain(str(image.name)))
    builder.tensors[str(image.name)] = start
    for node in graph:
        _convert(node, builder)
    output = str(graph.outputs[0].name)
    if output not in builder.tensors:
        raise ModelError(f"{builder.name}: its output {output} does not depend on its input")
    return keras.Model(start, builder.tensors[output], name=_plain(builder.name))


def _convert(node: ir.Node, builder: Builder) -> None:
    name = str(node.outputs[0].name)
    if name in builder.tensors:  # a bias that became part of the previous layer
        return
    given = [str(value.name) for value in node.inputs if value is not None]
    if node.op_type == "Transpose" and given[0] in builder.constants:
        stored = builder.constants[given[0]]
        order = node.attributes.get_ints("perm", list(reversed(range(stored.elements.ndim))))
        builder.constants[name] = stored.permuted(*order)
        return
    if node.op_type not in LAYER_RULES or node.domain not in ("", "ai.onnx"):
        raise ModelError(
            f"{builder.name}: operator {node.op_type} ({label(node)}) has no Keras counterpart; supported are "
            f"{', '.join(sorted(LAYER_RULES))}"
        )
    builder.node = node
    try:
        builder.tensors[name] = LAYER_RULES[node.op_type][1](builder, node)
    except (ValueError, TypeError) as error:  # Keras's own refusals
        raise builder.error(node, f"Keras refuses it: {one_line(error)}") from error
    keeps = node.op_type in _KEEPING and all(x in builder.nonnegative or x in builder.constants for x in given)
    if node.op_type in _NONNEGATIVE or keeps:
        builder.nonnegative.add(name)


def _plain(name: str) -> str:
    """Return the nearest name that Keras accepts."""
    return re.sub(r"\W+", "_", name).strip("_") or "model"


def _save(network: "keras.Model", weights: Mapping[str, Stored], path: Path) -> None:
    """Save the model, load it again in safe mode, compare its weights, and only then move it to ``path``."""
    try:
        with tempfile.TemporaryDirectory(prefix=".export-", dir=path.parent) as folder:
            part = Path(folder) / path.name
            with quiet():
                network.save(part)
            _compare(load_keras_file(part), weights, path)
            part.replace(path)
    except OSError as error:
        raise ModelError(f"{path}: cannot write the model: {error.strerror or one_line(error)}") from None


def _compare(written: "keras.Model", weights: Mapping[str, Stored], path: Path) -> None:
    variables: dict[str, Any] = {variable.path: variable for variable in written.weights}
    if variables.keys() != weights.keys():
        raise ControlFailedError(
            f"{path}: the saved model has other variables than the converted one; nothing was written"
        )
    for name, stored in weights.items():
        expected = stored.restored(stored.elements)
        found = stored.restored(np.asarray(variables[name].value))
        if found.shape != expected.shape or found.tobytes() != expected.tobytes():
            raise ControlFailedError(
                f"{path}: {name}: expected the bits of {stored.name}, found others; nothing was written"
            )
