"""Keras model → ONNX file: every variable bit for bit, under its Keras path and in its Keras layout.

Keras's own export and ``tf2onnx.convert.from_keras`` fold batch-norm into the convolutions, and so change the weights
that a fault list names. Here tf2onnx converts a function that takes every variable as an input, so it never sees a value;
the variables are attached afterwards, and the file is read back and compared before it appears.
"""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnx_ir as ir
from onnx_ir.passes.common import IdentityEliminationPass

from bitswap_onnx.converters.bit_exact import write_bit_exact
from bitswap_onnx.converters.keras_setup import load_keras_file, quiet, require
from bitswap_onnx.converters.keras_taps import KerasTaps, tapped_layers
from bitswap_onnx.converters.simplify import simplify
from bitswap_onnx.converters.torch_to_onnx import ExportReport
from bitswap_onnx.errors import ModelError, one_line
from bitswap_onnx.graph.model import METADATA_KEY

if TYPE_CHECKING:
    import keras

__all__ = ["KERAS_OPSETS", "ExportReport", "export_keras"]

#: Opsets that tf2onnx can write (it has none above) and that every runtime takes.
KERAS_OPSETS = range(17, 19)


def export_keras(
    model: "keras.Model | str | Path",
    path: str | Path,
    *,
    opset: int = 18,
    input_shape: Sequence[int | None] | None = None,
) -> ExportReport:
    """Write a Keras 3 model at inference as an ONNX file and compare every variable in it, bit for bit, with Keras's.

    ``model`` is a Functional, Sequential or subclassed model with one input, or a ``.keras`` or ``.h5`` file, which is
    loaded without running code from it. In the file ``input`` is (batch, height, width, channels), as in Keras, with a
    free batch dimension, and ``output`` is the output of the model (the first of several); initializers have names like
    ``conv2d/kernel`` and Keras's layout. ``input_shape``, without the batch, is needed only for a subclassed model that
    was never called. Batch-norm is computed as Keras computes it, from its four variables.

    The file has, as JSON under `bitswap_onnx.graph.model.METADATA_KEY`, the parameters and values of each layer. Variables
    that take no part in inference (seeds, metrics) are reported as ``unused``.

    Raises ModelError for a model that cannot be loaded, traced or converted, ControlFailedError (and writes nothing) for
    a variable that is missing or differs, MissingExtraError without Keras.
    """
    require("tensorflow", "keras", "tf2onnx.convert")
    path = Path(path)
    if opset not in KERAS_OPSETS:
        raise ModelError(f"`opset`: expected {KERAS_OPSETS[0]} to {KERAS_OPSETS[-1]}, found {opset!r}")
    network = load_keras_file(Path(model)) if isinstance(model, str | Path) else model
    shape = _input_shape(network, input_shape)
    variables = _variables(network)
    with tapped_layers(network) as taps:
        converted = _convert(network, shape, taps, opset)
    taps.detach(converted)
    IdentityEliminationPass()(converted)
    _attach(converted, variables)
    hidden = {name: value for name, value in converted.graph.initializers.items() if name in variables}
    replaced = simplify(converted, hidden)
    modules, vanished = taps.locate(converted, replaced)
    used = [name for name in variables if name in hidden and hidden[name].uses()]
    for name in hidden.keys() - set(used):
        converted.graph.initializers.pop(name, None)
    unused = [name for name in variables if name not in used]
    metadata = {
        **_origin(),
        "parameters": _parameter_entries(used),
        "modules": modules,
        "vanished": vanished,
        "tied": {},
        "unused": unused,
    }
    converted.metadata_props[METADATA_KEY] = json.dumps(metadata)
    write_bit_exact(converted, {name: variables[name] for name in used}, path)
    return ExportReport(path, tuple(used), {}, tuple(unused), tuple(vanished))


def _input_shape(model: "keras.Model", given: Sequence[int | None] | None) -> tuple[int | None, ...]:
    """Return the shape of the model's one input, without the batch."""
    import keras

    if given is not None:
        return tuple(given)
    inputs = getattr(model, "inputs", None)
    if inputs:
        if len(inputs) > 1:
            raise ModelError(f"{model.name}: expected a model with one input, found {len(inputs)}")
        return tuple(inputs[0].shape[1:])
    built = (model.get_build_config() or {}).get("input_shape") if model.built else None
    if not isinstance(built, list | tuple) or not all(size is None or isinstance(size, int) for size in built):
        kind = "Sequential" if isinstance(model, keras.Sequential) else "subclassed"
        raise ModelError(
            f"{model.name}: the input shape of this {kind} model is unknown; call it once on an input, or pass `input_shape`"
        )
    return tuple(built[1:])


def _variables(model: "keras.Model") -> dict[str, np.ndarray[Any, Any]]:
    """Return the elements of every variable by its path, in the order of ``stateless_call``."""
    variables: dict[str, np.ndarray[Any, Any]] = {}
    for variable in (*model.trainable_variables, *model.non_trainable_variables):
        if variable.path in variables:
            raise ModelError(f"{model.name}: two variables are called {variable.path}; give layers names of their own")
        variables[variable.path] = np.asarray(variable.value)
    return variables


def _convert(model: "keras.Model", shape: tuple[int | None, ...], taps: KerasTaps, opset: int) -> ir.Model:
    """Return the model from tf2onnx: inputs ``input``, ``variable_0``, ...; outputs ``output`` and the taps."""
    import tensorflow as tf
    import tf2onnx

    trainable, frozen = model.trainable_variables, model.non_trainable_variables
    signature = [tf.TensorSpec((None, *shape), model.input_dtype, name="input")]
    for number, variable in enumerate((*trainable, *frozen)):
        signature.append(tf.TensorSpec(variable.shape, variable.dtype, name=f"variable_{number}"))

    def infer(inputs: Any, *values: Any) -> Any:
        taps.types[""] = type(model).__name__
        taps.enter("", inputs)
        returned, _ = model.stateless_call(
            list(values[: len(trainable)]), list(values[len(trainable) :]), inputs, training=False
        )
        output, tensors = taps.leave("", returned)
        return [tf.nest.flatten(output)[0], *tensors]

    try:
        with quiet(), _inlined():
            function = tf.function(infer, input_signature=signature, autograph=False)
            proto, _ = tf2onnx.convert.from_function(function, signature, opset=opset)
    except Exception as error:  # tf2onnx and TensorFlow raise whatever their parts raise
        raise ModelError(f"{model.name}: cannot be converted with tf2onnx: {one_line(error)}") from error
    _check_operators(proto, model.name, opset)
    return ir.serde.deserialize_model(proto)


@contextmanager
def _inlined() -> Iterator[None]:
    """Trace inner functions in place: Keras puts grouped convolutions into XLA functions, which tf2onnx cannot read."""
    import tensorflow as tf

    eager = tf.config.functions_run_eagerly()
    tf.config.run_functions_eagerly(True)
    try:
        yield
    finally:
        tf.config.run_functions_eagerly(eager)


def _check_operators(proto: onnx.ModelProto, name: str, opset: int) -> None:
    """Refuse a graph in which tf2onnx left operators of TensorFlow."""
    for node in proto.graph.node:
        if node.domain in ("", "ai.onnx") and not onnx.defs.has(node.op_type, opset):
            raise ModelError(f"{name}: tf2onnx has no ONNX counterpart of TensorFlow's {node.op_type} ({node.name})")


def _attach(model: ir.Model, variables: dict[str, np.ndarray[Any, Any]]) -> None:
    """Turn the inputs of variables into initializers named by path; name input and output, and free the batch."""
    graph = model.graph
    inputs = {value.name: value for value in graph.inputs}
    for value in (*graph.inputs, *(output for node in graph for output in node.outputs)):
        if value.name in variables or value.name == "output":
            value.name = f"{value.name}_value"
    for number, (path, elements) in enumerate(variables.items()):
        weight = inputs[f"variable_{number}"]
        graph.inputs.remove(weight)
        weight.name = path
        weight.const_value = ir.tensor(elements, name=path)
        graph.register_initializer(weight)
    graph.outputs[0].name = "output"
    for value in (*graph.inputs, *graph.outputs):
        if value.shape is not None and len(value.shape):
            value.shape = ir.Shape(["batch", *list(value.shape)[1:]])


def _origin() -> dict[str, object]:
    import keras
    import tensorflow as tf
    import tf2onnx

    return {
        "version": 1,
        "framework": "keras",
        "framework_version": keras.__version__,
        "exporter": f"tf2onnx.convert.from_function, tf2onnx {tf2onnx.__version__}, tensorflow {tf.__version__}",
        "layout": "keras",
    }


def _parameter_entries(paths: Sequence[str]) -> dict[str, dict[str, object]]:
    """Return layer and parameter of each variable; a layer inside another layer can also be named by its last part.

    A Sequential model's variables are ``sequential/conv2d/kernel``, while users and their fault lists say ``conv2d``.
    """
    short = {path: "/".join(path.split("/")[-2:]) for path in paths}
    taken = Counter((*short.values(), *(path for path in paths if short[path] != path)))
    entries: dict[str, dict[str, object]] = {}
    for path in paths:
        layer, _, parameter = path.rpartition("/")
        entries[path] = {"layer": layer, "parameter": parameter}
        if short[path] != path and taken[short[path]] == 1:
            entries[path]["aliases"] = [short[path]]
    return entries
