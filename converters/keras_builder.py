"""A Keras model under construction: tensors by ONNX value, layers with Keras's default names, weights by origin.

ONNX has channels in axis 1, Keras has them last: a value of rank 3 and more is stored with its axis 1 moved to the end, a
value of rank 2 unchanged. All axes and shapes here are ONNX's unless a name says otherwise.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from bitswap_onnx.errors import ModelError

if TYPE_CHECKING:
    import keras


@dataclass(frozen=True)
class Stored:
    """An initializer's elements, seen with its axes in the order ``axes``."""

    name: str
    elements: NDArray[Any]
    axes: tuple[int, ...]

    def permuted(self, *order: int) -> "Stored":
        """Return the same elements with the current axes in another order."""
        return Stored(self.name, self.elements.transpose(order), tuple(self.axes[axis] for axis in order))

    def restored(self, elements: NDArray[Any]) -> NDArray[Any]:
        """Return ``elements``, given in the current order of axes, in the initializer's order."""
        return elements.transpose(np.argsort(self.axes))

    @property
    def scalar(self) -> float | None:
        """The element, if there is exactly one."""
        return float(self.elements.reshape(())) if self.elements.size == 1 else None


@dataclass
class Builder:
    """The Keras counterparts of the operators of one ONNX graph, as far as they are converted."""

    name: str
    dtype: str
    constants: dict[str, Stored]
    tensors: dict[str, Any] = field(default_factory=dict)  # keras.KerasTensor, by ONNX value
    nonnegative: set[str] = field(default_factory=set)
    layers: dict[str, str] = field(default_factory=dict)
    weights: dict[str, Stored] = field(default_factory=dict)
    node: ir.Node | None = None
    _counts: Counter[str] = field(default_factory=Counter)
    _shared: dict[object, "keras.layers.Layer"] = field(default_factory=dict)

    def add(self, kind: str, inputs: Any, weights: Sequence[Stored] = (), **config: Any) -> Any:
        """Return the output of a layer ``keras.layers.<kind>`` for ``inputs``, with ``weights`` in Keras's order.

        An equal layer with the same stored weights is not made twice: the existing layer is called again.
        """
        import keras

        key = (kind, *((stored.name, stored.axes) for stored in weights), *sorted(map(str, config.items())))
        layer = self._shared.get(key) if weights else None
        if layer is not None:
            return layer(inputs)
        layer = getattr(keras.layers, kind)(name=self._number(kind), dtype=self.dtype, **config)
        output = layer(inputs)
        self.layers[layer.name] = label(self.node)
        if weights:
            self._shared[key] = layer
            self._fill(layer, weights)
        return output

    def tensor(self, node: ir.Node, position: int) -> Any:
        """Return the Keras tensor at an input of ``node``; raises ModelError for a constant."""
        value = node.inputs[position]
        if value is None or value.name not in self.tensors:
            raise self.error(node, f"computes with a constant at input {position}")
        return self.tensors[value.name]

    def constant(self, node: ir.Node, position: int) -> Stored | None:
        """Return the constant at an input of ``node``, None where the input is left out."""
        value = node.inputs[position] if position < len(node.inputs) else None
        if value is None:
            return None
        if value.name not in self.constants:
            raise self.error(node, f"expected a constant at input {position} ({value.name}), found a computed value")
        return self.constants[str(value.name)]

    def integers(self, node: ir.Node, name: str, position: int) -> list[int] | None:
        """Return integers that are an attribute in older opsets and an input in newer opsets."""
        if name in node.attributes:
            return list(node.attributes[name].as_ints())
        stored = self.constant(node, position)
        return None if stored is None else [int(element) for element in stored.elements.reshape(-1)]

    def error(self, node: ir.Node, reason: str) -> ModelError:
        """Return the error for a node that has no exact counterpart."""
        return ModelError(f"{self.name}: operator {node.op_type} ({label(node)}): {reason}")

    def _number(self, kind: str) -> str:
        snake = re.sub("(.)([A-Z][a-z]+)", r"\1_\2", kind)
        snake = re.sub("([a-z])([A-Z])", r"\1_\2", snake).lower()
        count = self._counts[snake]
        self._counts[snake] += 1
        return f"{snake}_{count}" if count else snake

    def _fill(self, layer: "keras.layers.Layer", weights: Sequence[Stored]) -> None:
        for variable, stored in zip(layer.weights, weights, strict=True):
            if stored.elements.dtype.name != self.dtype or tuple(variable.shape) != stored.elements.shape:
                raise ModelError(
                    f"{self.name}: {stored.name}: expected {self.dtype} {tuple(variable.shape)} in {layer.name}, found "
                    f"{stored.elements.dtype.name} {stored.elements.shape}"
                )
            self.weights[variable.path] = stored
        layer.set_weights([stored.elements for stored in weights])


def label(node: ir.Node | None) -> str:
    """Return a node's name, or the name of its first output where it has none."""
    return "" if node is None else str(node.name or node.outputs[0].name)


def sizes(tensor: Any) -> tuple[int | None, ...]:
    """Return the shape of the ONNX value of a Keras tensor, without the batch: (channels, height, width)."""
    shape = tuple(tensor.shape[1:])
    return (shape[-1], *shape[:-1]) if shape else ()


def keras_axis(axis: int, rank: int) -> int:
    """Return the axis of the Keras tensor for an axis of an ONNX value of ``rank``."""
    axis %= rank
    return axis if rank < 3 or axis == 0 else rank - 1 if axis == 1 else axis - 1


def reshaped(builder: Builder, tensor: Any, target: Sequence[int]) -> Any:
    """Return ``tensor`` with the sizes ``target`` (no batch), its elements in ONNX's order."""
    if tuple(target) == sizes(tensor):
        return tensor
    rank = len(tensor.shape)
    if rank > 2 and _moves(sizes(tensor)):
        tensor = builder.add("Permute", tensor, dims=(rank - 1, *range(1, rank - 1)))
    if len(target) == 1:
        return builder.add("Flatten", tensor)
    if not _moves(target):
        return builder.add("Reshape", tensor, target_shape=(*target[1:], target[0]))
    tensor = builder.add("Reshape", tensor, target_shape=tuple(target))
    return builder.add("Permute", tensor, dims=(*range(2, len(target) + 1), 1))


def _moves(shape: Sequence[int | None]) -> bool:
    """Whether moving channels to the end changes the order of elements."""
    return shape[0] != 1 and any(size != 1 for size in shape[1:])
