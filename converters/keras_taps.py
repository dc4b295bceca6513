"""Finds the ONNX value of each Keras layer's output: as `torch_taps`, for layers instead of modules.

Keras has no hooks, so the ``call`` of each layer object is wrapped while the model is traced.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from bitswap_onnx.converters.torch_taps import Taps

if TYPE_CHECKING:
    import keras


@dataclass
class KerasTaps(Taps):
    """The inputs and outputs of each layer as TensorFlow tensors; everything else is as for PyTorch.

    Between two convolutions the converter removes Keras's channels-last value. Then the layer's value is ONNX's, and the
    layer's entry gives, under ``permutations``, the order of axes that turns it into Keras's.
    """

    orders: list[tuple[ir.Value, list[int]]] = field(default_factory=list)
    graph: Any = None
    sources: dict[int, tuple[Any, int]] = field(default_factory=dict)  # id of a tensor → it, and its position
    owners: dict[str, str] = field(default_factory=dict)  # captured tensor → the layer that computes with it

    def detach(self, model: ir.Model) -> None:
        """Take the extra outputs off ``model``, and the nodes that only they need."""
        super().detach(model)
        sources = [_before_transpose(value) for value in self.values]
        RemoveUnusedNodesPass()(model)
        for place, (value, source) in enumerate(zip(self.values, sources, strict=True)):
            producer = value.producer()
            if source is not None and (producer is None or producer.graph is None):
                self.values[place] = source[0]
                self.orders.append(source)

    def locate(self, model: ir.Model, replaced: Mapping[str, ir.Value]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return (modules, vanished) as for PyTorch, with ``permutations`` by value."""
        modules, vanished = super().locate(model, replaced)
        orders = {value.name: order for value, order in self.orders}
        for entry in (*modules.values(), *vanished.values()):
            permuted = {name: orders[name] for name in entry.get("values", [entry["value"]]) if name in orders}
            if permuted:
                entry["permutations"] = permuted
        return modules, vanished

    def enter(self, path: str, arguments: Any) -> None:
        """Record a call of a layer; a call of the model starts a new trace."""
        import tensorflow as tf

        if not path:
            self.graph = tf.compat.v1.get_default_graph()
            self.sources.clear()
        super().enter(path, arguments)

    def leave(self, path: str, output: Any) -> Any:
        """Record the output of a layer, and which tensors from outside of the trace it brought into it."""
        for _, inside in getattr(self.graph, "captures", ()):
            self.owners.setdefault(inside.name, path)
        return super().leave(path, output)

    def _tap(self, value: Any) -> int | None:
        import keras
        import tensorflow as tf

        tensors = [each for each in keras.tree.flatten(value) if tf.is_tensor(each)]
        if (
            not tensors or tf.compat.v1.get_default_graph() is not self.graph
        ):  # values inside the body of a loop cannot be outputs
            return None
        known = self.sources.get(id(tensors[0]))
        if known is not None:  # the input of a layer is the output of another
            return known[1]
        self.tensors.append(tf.identity(tensors[0]))
        self.sources[id(tensors[0])] = (tensors[0], len(self.tensors) - 1)
        return len(self.tensors) - 1


@contextmanager
def tapped_layers(model: "keras.Model") -> Iterator[KerasTaps]:
    """Wrap every layer of ``model``, nested layers too, while it is traced."""
    taps = KerasTaps()
    wrapped: dict[int, keras.layers.Layer] = {}
    for path, layer in layer_paths(model).items():
        if "call" not in vars(layer):  # a ``call`` that the user replaced stays
            taps.types[path] = type(layer).__name__
            object.__setattr__(layer, "call", _wrapper(taps, path, layer.call))
            wrapped[id(layer)] = layer
    try:
        yield taps
    finally:
        for layer in wrapped.values():
            object.__delattr__(layer, "call")


def layer_paths(model: "keras.Model") -> dict[str, "keras.layers.Layer"]:
    """Return every layer below ``model`` by its path, which its variables have too; of equal paths the first."""
    paths: dict[str, keras.layers.Layer] = {}
    for layer in model._flatten_layers(include_self=False):
        paths.setdefault(str(layer.path or layer.name), layer)
    return paths


def _before_transpose(value: ir.Value) -> tuple[ir.Value, list[int]] | None:
    """Return the input and the order of axes of the Transpose that makes ``value``, None if another node makes it."""
    node = value.producer()
    if node is None or node.op_type != "Transpose" or node.inputs[0] is None or "perm" not in node.attributes:
        return None
    return node.inputs[0], list(node.attributes["perm"].as_ints())


def _wrapper(taps: KerasTaps, path: str, call: Callable[..., Any]) -> Callable[..., Any]:
    def tapped(*args: Any, **kwargs: Any) -> Any:
        taps.enter(path, args)
        output = call(*args, **kwargs)
        taps.leave(path, output)
        return output

    return tapped
