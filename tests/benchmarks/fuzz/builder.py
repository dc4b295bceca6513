"""A network under construction: nodes, stored parameters with the names that fault lists use, and neuron sites."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

Array = NDArray[Any]

#: Numbers that a parameter holds now and then: both zeros, the smallest subnormal of float32, large ones.
_SPECIAL = (0.0, -0.0, 1e-45, 8.0, -1.0, 1.0)


@dataclass(frozen=True)
class Value:
    """A value of the graph; ``shape`` without the batch, which comes first."""

    name: str
    shape: tuple[int, ...]

    @property
    def elements(self) -> int:
        return int(np.prod(self.shape))


@dataclass(frozen=True)
class Parameter:
    """A stored tensor that faults can hit, as a list names it, and the ``tensor`` it is in the graph."""

    layer: str
    leaf: str
    tensor: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Place:
    """Neurons of a node: ``site`` output or input, ``value`` that holds them, ``shape`` without the batch.

    ``node`` is the number of the node, ``slot`` the input that its data come in by, ``made`` its first output.
    """

    layer: str
    site: str
    node: int
    slot: int
    value: str
    shape: tuple[int, ...]
    made: str

    @property
    def key(self) -> str:
        """How golden.json names the place in a faulty path."""
        return f"@input:{self.made}" if self.site == "input" and self.node >= 0 else f"@output:{self.value}"


@dataclass(eq=False)
class Builder:
    """Collects a graph; every name derives from one counter, so that a seed gives the same names."""

    rng: np.random.Generator
    opset: int
    dtype: np.dtype[Any]
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    tensors: list[onnx.TensorProto] = field(default_factory=list)
    parameters: list[Parameter] = field(default_factory=list)
    places: list[Place] = field(default_factory=list)
    has_mixing: bool = False
    _count: int = 0

    def fresh(self, stem: str) -> str:
        """Return a new name."""
        self._count += 1
        return f"{stem}{self._count}"

    def one_of(self, *choices: Any) -> Any:
        """Draw one of several things."""
        return choices[int(self.rng.integers(len(choices)))]

    def chance(self, share: float) -> bool:
        return bool(self.rng.random() < share)

    def normal(self, *shape: int, scale: float = 1.0) -> Array:
        """Draw numbers of the network's dtype; a few are special ones."""
        values = self.rng.standard_normal(shape) * scale
        special = self.rng.random(shape) < 0.02
        values[special] = self.rng.choice(_SPECIAL, size=int(special.sum()))
        return np.asarray(values.astype(self.dtype))

    def kernel(self, *shape: int, fan_in: int) -> Array:
        """Draw a kernel that keeps the size of what it multiplies."""
        return self.normal(*shape, scale=1.2 / max(fan_in, 1) ** 0.5)

    def parameter(self, layer: str, leaf: str, values: Array) -> str:
        """Store a parameter and return its name, ``layer.leaf``."""
        name = f"{layer}.{leaf}"
        self.tensors.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
        self.parameters.append(Parameter(layer, leaf, name, values.shape))
        return name

    def constant(self, values: Any, dtype: Any = None) -> str:
        """Store a constant that no fault hits and return its name."""
        name = self.fresh("const_fold_")
        array = np.asarray(values, dtype if dtype is not None else self.dtype)
        self.tensors.append(numpy_helper.from_array(array, name))
        return name

    def integers(self, *values: int) -> str:
        return self.constant(list(values), np.int64)

    def node(
        self,
        operator: str,
        inputs: Sequence[Value | str],
        shape: Sequence[int],
        layer: str | None = None,
        rows: bool = True,
        **attributes: Any,
    ) -> Value:
        """Append a node of one output and return what it makes; ``rows``: whether the batch comes first there."""
        (made,) = self.split_node(operator, inputs, [shape], layer, rows, **attributes)
        return made

    def split_node(
        self,
        operator: str,
        inputs: Sequence[Value | str],
        shapes: Sequence[Sequence[int]],
        layer: str | None = None,
        rows: bool = True,
        **attributes: Any,
    ) -> list[Value]:
        """Append a node of several outputs, as `node`."""
        names = [value.name if isinstance(value, Value) else value for value in inputs]
        layer = layer or self.fresh(operator.lower())
        made = [Value(self.fresh("v"), tuple(shape)) for shape in shapes]
        self.nodes.append(helper.make_node(operator, names, [value.name for value in made], name=layer, **attributes))
        if rows:
            self._add_places(layer, inputs, made[0])
        return made

    def _add_places(self, layer: str, inputs: Sequence[Value | str], made: Value) -> None:
        number = len(self.nodes) - 1
        slot, data = next((slot, value) for slot, value in enumerate(inputs) if isinstance(value, Value))
        self.places.append(Place(layer, "output", number, slot, made.name, made.shape, made.name))
        self.places.append(Place(layer, "input", number, slot, data.name, data.shape, made.name))

    def model(self, x: Value, scores: Value, batch: int | str) -> onnx.ModelProto:
        """Return the finished model."""
        kind = helper.np_dtype_to_tensor_dtype(self.dtype)
        inputs = [helper.make_tensor_value_info(x.name, kind, [batch, *x.shape])]
        outputs = [helper.make_tensor_value_info(scores.name, kind, [batch, *scores.shape])]
        graph = helper.make_graph(self.nodes, "fuzz", inputs, outputs, self.tensors)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=9)
