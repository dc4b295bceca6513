"""Read one ONNX node: its name, its attributes, the values that it reads, the graphs and the tensor that it carries."""

from collections.abc import Iterator
from typing import Any

import onnx

_SUBGRAPHS = (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS)


def node_label(node: onnx.NodeProto) -> str:
    """Return a node's name; a node without one is called after its first output."""
    return node.name or next(iter(node.output), node.op_type)


def attribute(node: onnx.NodeProto, name: str, default: Any) -> Any:
    """Return the value of an attribute, ``default`` if the node does not have it."""
    values = [onnx.helper.get_attribute_value(entry) for entry in node.attribute if entry.name == name]
    return values[0] if values else default


def subgraphs(node: onnx.NodeProto) -> Iterator[tuple[str, onnx.GraphProto]]:
    """Yield the graphs that a node carries (bodies of If, Loop, Scan), each with its scope name.

    `bitswap_onnx.graph.tensors.stored_tensors` puts the scope name before the names of a body's tensors.
    """
    for entry in node.attribute:
        if entry.type in _SUBGRAPHS:
            graphs = [entry.g] if entry.type == onnx.AttributeProto.GRAPH else list(entry.graphs)
            for i, graph in enumerate(graphs):
                suffix = f"[{i}]" if entry.type == onnx.AttributeProto.GRAPHS else ""
                yield f"{node.output[0]}/{entry.name}{suffix}::", graph


def constant_tensor(node: onnx.NodeProto) -> onnx.TensorProto | None:
    """Return the tensor that a Constant node stores; None for other nodes and for Constants of another form."""
    if node.op_type != "Constant" or node.domain not in ("", "ai.onnx"):
        return None
    return next((entry.t for entry in node.attribute if entry.name == "value"), None)


def values_read(node: onnx.NodeProto) -> Iterator[str]:
    """Yield the values that a node reads: its inputs, and values from outside that its subgraphs use."""
    yield from filter(None, node.input)
    for _, graph in subgraphs(node):
        inner_values = {tensor.name for tensor in graph.initializer} | {value.name for value in graph.input}
        for inner in graph.node:
            yield from (name for name in values_read(inner) if name not in inner_values)
            inner_values.update(inner.output)
        yield from (value.name for value in graph.output if value.name not in inner_values)
