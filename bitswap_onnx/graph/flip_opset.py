"""Models at the opset that flip nodes need: it brought BitCast."""

import math

import onnx
from onnx import TensorProto, helper, numpy_helper, version_converter

from bitswap_onnx.errors import ModelError, one_line
from bitswap_onnx.graph.model import Model
from bitswap_onnx.graph.tensors import stored_tensors

FLIP_OPSET = 26

#: Initializers of more elements hold no shape or axis that a conversion could depend on.
_LARGE = 1024


def at_flip_opset(model: Model) -> onnx.ModelProto:
    """Return a copy of the model's file at opset 26 or higher, its stored tensors bit for bit as they were.

    Raises ModelError for a model that onnx cannot convert, or one whose tensors it would change.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model.proto)
    opset = next((entry.version for entry in copy.opset_import if entry.domain in ("", "ai.onnx")), 1)
    if opset >= FLIP_OPSET:
        return copy
    if copy.functions:
        raise ModelError(
            f"{model.name}: neuron faults need opset {FLIP_OPSET}, and onnx converts no model with functions of its own "
            f"({copy.functions[0].name}); inline them with onnx.inliner"
        )
    large = _without_large(copy.graph)
    try:
        converted = version_converter.convert_version(copy, FLIP_OPSET)
    except Exception as error:  # the converter raises whatever its C++ part raises
        raise ModelError(
            f"{model.name}: neuron faults need opset {FLIP_OPSET}, which it cannot be converted to from {opset}: "
            f"{one_line(error)}"
        ) from None
    stand_ins = [value for value in converted.graph.input if value.name in large]
    for value in stand_ins:
        converted.graph.input.remove(value)
    converted.graph.initializer.extend(large.values())
    before, after = stored_tensors(model.proto), stored_tensors(converted)
    changed = [key for key in before if key not in after or not _same(before[key], after[key])]
    if changed:
        raise ModelError(
            f"{model.name}: its conversion to opset {FLIP_OPSET} changes {changed[0]}; faults need its bits"
        )
    del converted.metadata_props[:]
    converted.metadata_props.extend(model.proto.metadata_props)
    return converted


def _without_large(graph: onnx.GraphProto) -> dict[str, onnx.TensorProto]:
    """Make large initializers inputs, which need not be copied through the converter; return them by name."""
    declared = {value.name for value in graph.input}
    large = {t.name: t for t in graph.initializer if math.prod(t.dims) > _LARGE and t.name not in declared}
    kept = [tensor for tensor in graph.initializer if tensor.name not in large]
    found = {}
    for name, tensor in large.items():
        found[name] = onnx.TensorProto()
        found[name].CopyFrom(tensor)
        graph.input.append(helper.make_tensor_value_info(name, tensor.data_type, tensor.dims))
    del graph.initializer[:]
    graph.initializer.extend(kept)
    return found


def _same(one: onnx.TensorProto, other: onnx.TensorProto) -> bool:
    if one == other:
        return True
    if TensorProto.EXTERNAL in (one.data_location, other.data_location):
        return False
    return numpy_helper.to_array(one).tobytes() == numpy_helper.to_array(other).tobytes()
