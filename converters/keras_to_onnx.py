"""Keras model → ONNX file: every variable bit for bit, under its Keras path and in its Keras layout.

Keras's own export and ``tf2onnx.convert.from_keras`` fold batch-norm into the convolutions, and so change the weights
that a fault list names. Here tf2onnx converts a function that takes every variable as an input, so it never sees a value;
the variables are attached afterwards, and the file is read back and compared before it appears.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes.common import IdentityEliminationPass

from bitswap_onnx.converters.bit_exact import ExportedModel, write_bit_exact
from bitswap_onnx.converters.keras_check import check_scores
from bitswap_onnx.converters.keras_conversion import Captured, convert_traced
from bitswap_onnx.converters.keras_parameters import Parameter, parameters_of, standing_in
from bitswap_onnx.converters.keras_refusals import refuse_layers
from bitswap_onnx.converters.keras_setup import checked_model, keras_reason, load_keras_file, quiet, require
from bitswap_onnx.converters.keras_signature import KerasInput, arranged, model_inputs, output_names, trial_inputs
from bitswap_onnx.converters.keras_taps import KerasTaps, tapped_layers
from bitswap_onnx.converters.simplify import simplify
from bitswap_onnx.errors import ModelError, check_path
from bitswap_onnx.graph.model import METADATA_KEY, name_in_files

if TYPE_CHECKING:
    import keras

__all__ = ["KERAS_OPSETS", "ExportedModel", "export_keras"]

#: Opsets that tf2onnx can write (it has none above) and that every runtime takes.
KERAS_OPSETS = range(17, 19)

#: Seeded inputs on which a file is compared with Keras before it appears.
_TRIED = 3


def export_keras(
    model: "keras.Model | str | Path",
    out: str | Path | None = None,
    *,
    opset: int = 18,
    input_shape: Sequence[int | None] | None = None,
) -> ExportedModel:
    """Return a Keras 3 model at inference as an ONNX model, every variable compared with Keras's, bit for bit.

    ``model`` is a Functional, Sequential or subclassed model, or a ``.keras`` or ``.h5`` file, which is loaded without
    running code from it. ``out``: the file to write; None: the model stays in memory. In the ONNX model ``input`` is
    (batch, height, width, channels), as in Keras, with a free batch dimension, and ``output`` is the output of the model;
    several inputs or outputs have Keras's names. Initializers have names like ``conv2d/kernel`` and Keras's layout.
    ``input_shape``, without the batch, is needed only for a subclassed model that was never called. Batch-norm is computed
    as Keras computes it, from its four variables.

    Tensors of layers that are no variables are parameters too: mean and variance of Normalization, scale and offset of
    Rescaling, tensors that a custom layer has as attributes (`bitswap_onnx.converters.keras_parameters`). The file has, as
    JSON under `bitswap_onnx.graph.model.METADATA_KEY`, the parameters and values of each layer. Variables that take no part
    in inference (seeds, metrics) are reported as ``unused``.

    Before the model is returned, ONNX Runtime runs it on a few seeded inputs; every output must be Keras's within
    `bitswap_onnx.converters.keras_check.TOLERANCE`, with the same top class.

    Raises ModelError for a model that cannot be loaded, traced or converted, and for layers whose scores depend on earlier
    batches, ControlFailedError (and writes nothing) for a parameter that is missing or differs and for other scores than
    Keras's, MissingExtraError without Keras.
    """
    require("tensorflow", "keras", "tf2onnx.convert")
    if opset not in KERAS_OPSETS:
        raise ModelError(f"`opset`: expected {KERAS_OPSETS[0]} to {KERAS_OPSETS[-1]}, found {opset!r}")
    network = load_keras_file(Path(model)) if isinstance(model, str | Path) else checked_model(model)
    target = name_in_files(network.name) if out is None else check_path("out", out)
    refuse_layers(network)
    inputs = model_inputs(network, input_shape)
    parameters = parameters_of(network)
    tried, native = _native_run(network, inputs)
    outputs = output_names(network, len(native), [entry.name for entry in inputs])
    with tapped_layers(network) as taps:
        converted, captured = _convert(network, inputs, parameters, taps, opset)
    elements = {name: np.asarray(parameter.value) for name, parameter in parameters.items()}
    taps.detach(converted)
    IdentityEliminationPass()(converted)
    elements |= _attach(converted, inputs, outputs, elements, _by_layer(captured, taps.owners, elements))
    hidden = {name: value for name, value in converted.graph.initializers.items() if name in elements}
    replaced = simplify(converted, hidden)
    modules, vanished = taps.locate(converted, replaced)
    used, unused = _divided(converted, elements, hidden)
    located = {"modules": modules, "vanished": vanished, "tied": {}, "unused": unused}
    metadata = {**_origin(), "parameters": _parameter_entries(used), **located}
    converted.metadata_props[METADATA_KEY] = json.dumps(metadata)
    check = _beside_keras([entry.name for entry in inputs], tried, outputs, native, str(target))
    written = write_bit_exact(converted, {name: elements[name] for name in used}, target, check)
    return ExportedModel(**vars(written), parameters=tuple(used), unused=tuple(unused), vanished=tuple(vanished))


def _beside_keras(
    inputs: Sequence[str],
    tried: Sequence[NDArray[Any]],
    outputs: Sequence[str],
    native: Sequence[NDArray[Any]],
    path: str,
) -> Callable[[Path], None]:
    """Return the check of a file against Keras's outputs."""
    given, expected = dict(zip(inputs, tried, strict=True)), dict(zip(outputs, native, strict=True))
    return lambda part: check_scores(part, given, expected, path)


def _divided(model: ir.Model, names: Iterable[str], stored: Mapping[str, ir.Value]) -> tuple[list[str], list[str]]:
    """Return the parameters that are used and those that are not; take the latter out of ``model``."""
    used = [name for name in names if name in stored and stored[name].uses()]
    unused = [name for name in names if name not in used]
    for name in unused:
        model.graph.initializers.pop(name, None)
    return used, unused


def _native_run(model: "keras.Model", inputs: Sequence[KerasInput]) -> tuple[list[NDArray[Any]], list[NDArray[Any]]]:
    """Return a few seeded inputs, by input, and Keras's outputs for them."""
    import keras

    arrays = trial_inputs(model, inputs, _TRIED)
    try:
        with quiet():
            outputs = model(arranged(model, arrays), training=False)
    except Exception as error:  # layers raise whatever TensorFlow raises
        raise ModelError(f"{model.name}: Keras cannot run it at inference: {keras_reason(error)}") from error
    return arrays, [np.asarray(output) for output in keras.tree.flatten(outputs)]


def _convert(
    model: "keras.Model",
    inputs: Sequence[KerasInput],
    parameters: Mapping[str, Parameter],
    taps: KerasTaps,
    opset: int,
) -> tuple[ir.Model, Captured]:
    """Return the model from tf2onnx: inputs ``input_0``, ..., ``parameter_0``, ...; outputs ``output_0``, ..., the taps."""
    import keras
    import tensorflow as tf

    signature = [
        tf.TensorSpec((None, *entry.shape), entry.dtype, name=f"input_{number}") for number, entry in enumerate(inputs)
    ]
    for number, parameter in enumerate(parameters.values()):
        signature.append(tf.TensorSpec(parameter.shape, parameter.dtype, name=f"parameter_{number}"))

    def infer(*values: Any) -> Any:
        taps.types[""] = type(model).__name__
        given = arranged(model, values[: len(inputs)])
        taps.enter("", given)
        symbols = dict(zip(parameters, values[len(inputs) :], strict=True))
        variables = {name: parameter for name, parameter in parameters.items() if isinstance(parameter, keras.Variable)}
        stand_ins = [(variable, symbols[name]) for name, variable in variables.items()]
        with standing_in(symbols, parameters), keras.StatelessScope(state_mapping=stand_ins):
            returned = model(given, training=False)
        output, tensors = taps.leave("", returned)
        return [*keras.tree.flatten(output), *tensors]

    return convert_traced(infer, signature, model.name, opset)


def _by_layer(captured: Captured, owners: Mapping[str, str], taken: Mapping[str, Any]) -> dict[str, tuple[str, Any]]:
    """Return input of the graph → name and elements of a tensor that a layer holds in no variable or attribute."""
    named: dict[str, tuple[str, Any]] = {}
    names = set(taken)
    for key, elements in captured.items():
        layer, number = owners.get(key, ""), 0
        while (name := f"{layer}/constant_{number}".strip("/")) in names:
            number += 1
        names.add(name)
        named[key] = (name, elements)
    return named


def _attach(
    model: ir.Model,
    inputs: Sequence[KerasInput],
    outputs: Sequence[str],
    parameters: Mapping[str, NDArray[Any]],
    captured: Mapping[str, tuple[str, NDArray[Any]]],
) -> dict[str, NDArray[Any]]:
    """Turn the inputs of parameters into initializers named by path; name inputs and outputs, and free the batch.

    Returns the captured tensors by the names that they have now.
    """
    graph = model.graph
    given = {value.name: value for value in graph.inputs}
    names = {name: (f"parameter_{number}", elements) for number, (name, elements) in enumerate(parameters.items())}
    names |= {name: (key, elements) for key, (name, elements) in captured.items()}
    reserved = {*names, *outputs, *(entry.name for entry in inputs)}
    for value in (*graph.inputs, *(output for node in graph for output in node.outputs)):
        if value.name in reserved:
            value.name = f"{value.name}_value"
    for name, (key, elements) in names.items():
        weight = given.get(key)
        if weight is None:
            continue
        graph.inputs.remove(weight)
        weight.name = name
        weight.const_value = ir.tensor(elements, name=name)
        graph.register_initializer(weight)
    for number, entry in enumerate(inputs):
        given[f"input_{number}"].name = entry.name
    for value, name in zip(graph.outputs, outputs, strict=True):
        value.name = name
    for value in (*graph.inputs, *graph.outputs):
        if value.shape is not None and len(value.shape):
            value.shape = ir.Shape(["batch", *list(value.shape)[1:]])
    return dict(captured.values())


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
