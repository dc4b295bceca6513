"""Removes the exporter's superfluous nodes from a graph, by passes that cannot read the elements of parameters."""

from collections.abc import Iterator, Mapping

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import (
    ClearMetadataAndDocStringPass,
    LiftConstantsToInitializersPass,
    RemoveUnusedNodesPass,
)

from bitswap_onnx.converters.silence import silenced

#: Loggers that report operators which are not folded.
_NOISY_LOGGERS = ("onnxscript.optimizer._constant_folding",)

#: Operators whose third input is a bias that may be left out.
_OPTIONAL_BIAS = frozenset({"Conv", "ConvTranspose", "Gemm"})


def simplify(model: ir.Model, parameters: Mapping[str, ir.Value]) -> dict[str, ir.Value]:
    """Fold constants, turn the others into initializers, drop unused nodes and metadata; changes ``model`` in place.

    While constants are folded, ``parameters`` (initializers, by name) have no elements, which are put back afterwards. So no
    pass can compute anything from a weight.

    Returns the name of each removed value → the value that replaces it.
    """
    from onnxscript.optimizer import fold_constants

    elements = {name: value.const_value for name, value in parameters.items()}
    for value in parameters.values():
        value.const_value = None
    with silenced(_NOISY_LOGGERS):
        known = fold_constants(model).symbolic_value_map
    _fix_reshapes(model.graph)
    _drop_zero_biases(model.graph)
    for name, value in parameters.items():
        value.const_value = elements[name]
    RemoveUnusedNodesPass()(model)
    LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    ClearMetadataAndDocStringPass()(model)
    for value in _values(model.graph):
        value.metadata_props.clear()
    return {key.name: value for key, value in known.items() if isinstance(value, ir.Value) and key.name is not None}


def _fix_reshapes(graph: ir.Graph) -> None:
    """Give each Reshape with one unknown size in its result a constant target, in place of a Shape of the input.

    Such a Shape would make the end of a network depend on its beginning, across every cut in between.
    """
    for node in graph:
        target = node.inputs[1] if node.op_type == "Reshape" else None
        shape = node.outputs[0].shape
        if target is None or target.const_value is not None or shape is None:
            continue
        sizes = [size if isinstance(size, int) else -1 for size in shape]
        if sizes.count(-1) == 1 and 0 not in sizes:
            name = f"{node.outputs[0].name}_shape"
            constant = ir.Value(name=name, const_value=ir.tensor(np.array(sizes, np.int64), name=name))
            constant.shape, constant.dtype = ir.Shape([len(sizes)]), ir.DataType.INT64
            graph.register_initializer(constant)
            node.replace_input_with(1, constant)


def _drop_zero_biases(graph: ir.Graph) -> None:
    """Drop the zero biases that the exporter adds to layers without bias: they are no parameters, so no targets."""
    for node in graph:
        bias = node.inputs[2] if node.op_type in _OPTIONAL_BIAS and len(node.inputs) > 2 else None
        if bias is not None and bias.const_value is not None and not bias.const_value.numpy().any():
            node.resize_inputs(2)


def _values(graph: ir.Graph) -> Iterator[ir.Value]:
    yield from graph.inputs
    yield from graph.initializers.values()
    for node in ir.traversal.RecursiveGraphIterator(graph):
        yield from node.outputs
