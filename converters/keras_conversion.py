"""The step through tf2onnx: a traced function → an ONNX graph.

tf2onnx is meant for graphs with few inputs. Here every parameter is one, and some of its functions would take most of the
time: `Graph.extract_sub_graph_nodes` walks the graph once per input, `Graph.replace_all_inputs` rewrites nodes that do not
read the value, and `optimize_graph` copies the graph before each of its two dozen passes. While a model is converted,
equivalents take their places.
"""

import copy
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from bitswap_onnx.converters.keras_setup import keras_reason, quiet
from bitswap_onnx.errors import ModelError

if TYPE_CHECKING:
    import tensorflow as tf

#: The number that tf2onnx gives to a name of its own.
_NUMBERED = re.compile(r"__([0-9]+)(?![0-9A-Za-z])")

#: Names of the graph's inputs → elements of the tensors that the traced function holds besides its arguments.
Captured = dict[str, NDArray[Any]]


def convert_traced(
    infer: Callable[..., Any], signature: Sequence["tf.TensorSpec"], name: str, opset: int
) -> tuple[ir.Model, Captured]:
    """Return ``infer`` as an ONNX model, and the tensors that it holds itself; these are inputs of the model too.

    Raises ModelError, which names the model by ``name``, for a function that cannot be traced or converted.
    """
    import tensorflow as tf
    import tf2onnx

    try:
        with quiet(), _inlined(), _visiting_nodes_once():
            function = tf.function(infer, input_signature=signature, autograph=False)
            traced = function.get_concrete_function(*signature)
            proto, _ = tf2onnx.convert.from_function(function, signature, opset=opset, custom_op_handlers=_HANDLERS)
            captured = {inside.name: outside for outside, inside in traced.graph.captures}
            found = {value.name for value in proto.graph.input}
            elements = {key: np.asarray(tensor) for key, tensor in captured.items() if key in found}
    except ModelError:
        raise
    except Exception as error:  # tf2onnx and TensorFlow raise whatever their parts raise
        raise ModelError(f"{name}: cannot be converted with tf2onnx: {keras_reason(error)}") from error
    _check_operators(proto, name, opset)
    _mend_transposed(proto)
    model = ir.serde.deserialize_model(proto)
    _renumber(model)
    return model, elements


def _renumber(model: ir.Model) -> None:
    """Count the names that tf2onnx numbers (``Transpose__50``) anew, in the graph's order.

    Its own numbers go on from one conversion to the next and follow the order of sets, so the same model would be another
    file each time.
    """
    numbers: dict[str, int] = {}

    def renumbered(name: str | None) -> str | None:
        return name and _NUMBERED.sub(lambda found: f"__{numbers.setdefault(found[1], len(numbers) + 1)}", name)

    kept = {id(value) for value in (*model.graph.inputs, *model.graph.outputs)}
    initializers = dict(model.graph.initializers)
    model.graph.initializers.clear()
    values: dict[int, ir.Value] = {}
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        node.name = renumbered(node.name)
        values |= {id(value): value for value in (*node.inputs, *node.outputs) if value is not None}
    for value in (*values.values(), *initializers.values()):
        if id(value) not in kept:
            value.name = renumbered(value.name)
    for value in initializers.values():
        model.graph.initializers.add(value)


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


@contextmanager
def _visiting_nodes_once() -> Iterator[None]:
    from tf2onnx import optimizer
    from tf2onnx.graph import Graph

    extract, replace, optimize = Graph.extract_sub_graph_nodes, Graph.replace_all_inputs, optimizer.optimize_graph

    def replace_all_inputs(graph: Any, old: str, new: str, ops: Any = None) -> None:
        if ops is not None and not graph._input_to_graph.get(old):
            ops = [node for node in ops if old in node._input]
        replace(graph, old, new, ops)

    def optimize_graph(graph: Any, catch_errors: bool = True, optimizers: Any = None) -> Any:
        try:
            return optimize(copy.deepcopy(graph), False, optimizers)
        except Exception:  # a pass failed: tf2onnx's own way leaves that pass out
            return optimize(graph, catch_errors, optimizers)

    Graph.extract_sub_graph_nodes, Graph.replace_all_inputs = _reachable, replace_all_inputs
    optimizer.optimize_graph = optimize_graph
    try:
        yield
    finally:
        Graph.extract_sub_graph_nodes, Graph.replace_all_inputs = extract, replace
        optimizer.optimize_graph = optimize


def _reachable(
    graph: Any, outputs_name: Any, input_checker: Any = None, remove_unused_inputs: bool = True
) -> list[Any]:
    """Return the nodes that ``outputs_name`` depend on, as `tf2onnx.graph.Graph.extract_sub_graph_nodes` does."""
    names = list(outputs_name)
    if not remove_unused_inputs:
        names += [node.output[0] for node in graph.inputs]
    found: dict[Any, None] = {}
    while names:
        node = graph.get_node_by_output(names.pop(), search_in_parent_graphs=False)
        if not node or node in found or (input_checker and input_checker(node) is False):
            continue
        found[node] = None
        names += [*node.input, *node.get_implicit_inputs()]
    return list(found)


def _erfc(graph: Any, node: Any, name: str, _: Any) -> None:
    """Write TensorFlow's Erfc, the heart of GELU, as 1 - Erf."""
    shapes, dtypes = node.output_shapes, node.output_dtypes
    kind = onnx.helper.tensor_dtype_to_np_dtype(dtypes[0])
    source, target = node.input[0], node.output[0]
    graph.remove_node(node.name)
    erf = graph.make_node("Erf", [source], shapes=shapes, dtypes=dtypes, name=f"{name}_erf")
    one = graph.make_const(f"{name}_one", np.array(1, kind))
    graph.make_node("Sub", [one.output[0], erf.output[0]], outputs=[target], shapes=shapes, dtypes=dtypes, name=name)


def _bucketize(graph: Any, node: Any, name: str, _: Any) -> None:
    """Write TensorFlow's Bucketize, the heart of Discretization: the number of boundaries that are not above a value."""
    shapes, dtypes = node.output_shapes, node.output_dtypes
    source, target, boundaries = node.input[0], node.output[0], node.get_attr_value("boundaries")
    kind = onnx.helper.tensor_dtype_to_np_dtype(graph.get_dtype(source))
    kind = kind if kind == np.float64 else np.dtype(np.float32)
    graph.remove_node(node.name)

    def made(operator: str, *inputs: str, **settings: Any) -> str:
        made_node = graph.make_node(operator, list(inputs), name=f"{name}_{operator}".lower(), **settings)
        return str(made_node.output[0])

    last = graph.make_const(f"{name}_last", np.array([-1], np.int64)).output[0]
    limits = graph.make_const(f"{name}_boundaries", np.array(boundaries, kind)).output[0]
    values = made("Cast", source, attr={"to": onnx.helper.np_dtype_to_tensor_dtype(kind)})
    below = made("Not", made("Less", made("Unsqueeze", values, last), limits))
    counted = graph.make_node("Cast", [below], name=f"{name}_counted", attr={"to": dtypes[0]}).output[0]
    made("ReduceSum", counted, last, attr={"keepdims": 0}, outputs=[target], shapes=shapes, dtypes=dtypes)


def _select(graph: Any, node: Any, name: str, _: Any) -> None:
    """Write TensorFlow's where as Where: tf2onnx's sum of products turns an Inf in the branch not taken into NaN."""
    from tf2onnx.onnx_opset.controlflow import Select

    node.set_attr("handles_nan", 1)
    Select.version_9(graph, node)


#: TensorFlow's operators that tf2onnx does not know, or writes with other results for NaN and Inf → what writes them.
_HANDLERS: dict[str, tuple[Callable[..., None], list[str]]] = {
    "Erfc": (_erfc, []),
    "Bucketize": (_bucketize, []),
    "Select": (_select, []),
    "SelectV2": (_select, []),
}


def _check_operators(proto: onnx.ModelProto, name: str, opset: int) -> None:
    """Refuse a graph in which tf2onnx left operators of TensorFlow, also in the bodies of loops."""
    graphs = [proto.graph]
    while graphs:
        for node in graphs.pop().node:
            graphs += [attribute.g for attribute in node.attribute if attribute.HasField("g")]
            if node.domain in ("", "ai.onnx") and not onnx.defs.has(node.op_type, opset):
                raise ModelError(
                    f"{name}: tf2onnx has no ONNX counterpart of TensorFlow's {node.op_type} ({node.name})"
                )


def _mend_transposed(proto: onnx.ModelProto) -> None:
    """Turn padding below zero, which tf2onnx splits between both ends, into padding of the output, all at its end."""
    for node in proto.graph.node:
        attributes = {attribute.name: attribute for attribute in node.attribute}
        if node.op_type != "ConvTranspose" or "pads" not in attributes:
            continue
        pads = list(attributes["pads"].ints)
        half = len(pads) // 2
        extra = [max(-begin - end, 0) for begin, end in zip(pads[:half], pads[half:], strict=True)]
        if any(extra):
            pads = [0 if extra[axis % half] else pad for axis, pad in enumerate(pads)]
            attributes["pads"].ints[:] = pads
            node.attribute.append(onnx.helper.make_attribute("output_padding", extra))
