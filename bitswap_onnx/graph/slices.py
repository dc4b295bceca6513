"""Which nodes a fault can change, and the model cut there: what runs before the fault, and what runs behind it.

The *cone* of a fault is every node that can see it. Values that the cone takes from outside are golden; where they have
one row per input, the model can be cut there, and the part behind the cut run on any rows in any order.
"""

import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import onnx

from bitswap_onnx.graph.model import Model
from bitswap_onnx.graph.nodes import subgraphs


@dataclass(frozen=True, eq=False, repr=False)
class Slicer:
    """One model with one score ``output``, run in batches of ``batch`` inputs of ``shape``; cuts it into sub-models.

    ``seen``: shapes that a run showed, and those of a run with one input more, for values whose shape cannot be inferred.
    """

    model: Model
    output: str
    batch: int
    shape: tuple[int, ...]
    seen: tuple[Mapping[str, tuple[int, ...]], Mapping[str, tuple[int, ...]]] = ({}, {})

    @cached_property
    def nodes(self) -> tuple[onnx.NodeProto, ...]:
        """The nodes of the main graph, in its order."""
        return tuple(self.model.proto.graph.node)

    @cached_property
    def reads(self) -> tuple[tuple[str, ...], ...]:
        """Per node, the values it reads, those that its subgraphs capture included."""
        return tuple(tuple(dict.fromkeys(_reads(node))) for node in self.nodes)

    @cached_property
    def producer(self) -> dict[str, int]:
        """Value → the node that makes it."""
        return {name: i for i, node in enumerate(self.nodes) for name in node.output if name}

    @cached_property
    def readers(self) -> dict[str, tuple[int, ...]]:
        """Value → the nodes that read it."""
        found: dict[str, list[int]] = {}
        for i, names in enumerate(self.reads):
            for name in names:
                found.setdefault(name, []).append(i)
        return {name: tuple(nodes) for name, nodes in found.items()}

    @cached_property
    def stored(self) -> dict[str, onnx.TensorProto]:
        """The initializers of the main graph."""
        return {tensor.name: tensor for tensor in self.model.proto.graph.initializer}

    @cached_property
    def inputs(self) -> tuple[str, ...]:
        """The inputs of the model that have to be fed."""
        return tuple(value.name for value in self.model.proto.graph.input if value.name not in self.stored)

    @cached_property
    def constants(self) -> frozenset[str]:
        """The values that depend on no input."""
        found = set(self.stored)
        for node, names in zip(self.nodes, self.reads, strict=True):
            if found.issuperset(names) and not node.op_type.startswith(("Random", "Bernoulli", "Multinomial")):
                found.update(filter(None, node.output))
        return frozenset(found)

    @cached_property
    def counts(self) -> frozenset[str]:
        """The values that depend on the shapes of others alone, not on what they hold."""
        found: set[str] = set()
        for node, names in zip(self.nodes, self.reads, strict=True):
            if node.op_type in ("Shape", "Size") or (names and found.union(self.constants).issuperset(names)):
                found.update(name for name in node.output if name and name not in self.constants)
        return frozenset(found)

    @cached_property
    def types(self) -> dict[str, onnx.TypeProto]:
        """Value → its type, the batch as open as the model leaves it, so that sub-models load as the model does."""
        return _infer(self.model.proto, None)

    @cached_property
    def _fixed(self) -> dict[str, onnx.TypeProto]:
        """Value → its type for the one batch shape that everything runs in."""
        return _infer(self.model.proto, (self.batch, *self.shape))

    @cached_property
    def _one_more(self) -> dict[str, onnx.TypeProto] | None:
        """Value → its type for batches of one input more, None for a model whose batch is fixed."""
        value = next(value for value in self.model.proto.graph.input if value.name in self.inputs)
        if value.type.tensor_type.shape.dim[0].dim_value > 0:
            return None
        return _infer(self.model.proto, (self.batch + 1, *self.shape))

    def dims(self, name: str) -> tuple[int, ...] | None:
        """Return a value's shape, or None where it is not known in full."""
        if name in self.stored:
            return tuple(self.stored[name].dims)
        tensor = self._fixed[name].tensor_type if name in self._fixed else None
        if tensor is None or not tensor.HasField("shape"):
            return self.seen[0].get(name)
        known = all(dim.HasField("dim_value") for dim in tensor.shape.dim)
        return tuple(dim.dim_value for dim in tensor.shape.dim) if known else self.seen[0].get(name)

    def has_rows(self, name: str) -> bool:
        """Whether a value has one row per input of the batch, so that the model can be cut there."""
        dims = self.dims(name)
        return (
            name not in self.constants
            and name in self._fixed
            and bool(dims)
            and dims is not None
            and dims[0] == self.batch
            and self._follows(name)
        )

    def _follows(self, name: str) -> bool:
        """Whether a value has one row more in batches of one input more; taken for granted where the batch is fixed."""
        if self._one_more is None:
            return True
        dims = list(self._one_more[name].tensor_type.shape.dim) if name in self._one_more else []
        seen = self.seen[1].get(name, (0,))
        length = dims[0].dim_value if dims and dims[0].HasField("dim_value") else (*seen, 0)[0]
        return bool(length == self.batch + 1)

    def dtype(self, name: str) -> np.dtype[Any]:
        """Return the element type of a value whose type is known."""
        return onnx.helper.tensor_dtype_to_np_dtype(self._fixed[name].tensor_type.elem_type)

    def row_bytes(self, name: str) -> int:
        """Return the bytes of one row of a value that has rows."""
        return math.prod((self.dims(name) or ())[1:]) * self.dtype(name).itemsize

    def users(self, tensor: str) -> tuple[int, ...]:
        """Return the nodes of the main graph that read the stored tensor ``tensor`` (a key of `stored_tensors`)."""
        if tensor in self.stored or tensor in self.producer:
            return self.readers.get(tensor, ())
        holders = (
            i for i, node in enumerate(self.nodes) if any(tensor.startswith(scope) for scope, _ in subgraphs(node))
        )
        return tuple(holders)

    def cone(self, starts: Iterable[int]) -> frozenset[int]:
        """Return the nodes that can see what ``starts`` make, those included."""
        found: set[int] = set()
        pending = list(starts)
        while pending:
            node = pending.pop()
            if node not in found:
                found.add(node)
                pending += [reader for name in self.nodes[node].output for reader in self.readers.get(name, ())]
        return frozenset(found)

    def cuts(self, cone: Collection[int], stop: str | None = None) -> tuple[str, ...] | None:
        """Return the golden values that the way from ``cone`` to the output takes in; ``stop`` counts as one of them.

        Golden values without a row per input are computed again from ones that have. None if the output does not
        depend on the cone: a fault there changes nothing.
        """
        found: dict[str, None] = {}
        seen: set[str] = set()
        pending, reached = [self.output], False
        while pending:
            name = pending.pop()
            if name in seen or name in self.stored:
                continue
            seen.add(name)
            maker = self.producer.get(name)
            if maker in cone or name == stop:
                reached = True
            if name == stop or maker is None or (maker not in cone and self.has_rows(name)):
                found[name] = None
            else:
                pending += self.reads[maker]
        return tuple(sorted(found)) if reached else None

    def extract(self, inputs: Collection[str], outputs: Collection[str]) -> Model:
        """Return the sub-model that computes ``outputs`` from ``inputs``, all of them values of this model."""
        needed = self.between(inputs, outputs)
        proto = onnx.ModelProto()
        proto.CopyFrom(_without_graph(self.model.proto))
        graph = proto.graph
        graph.node.extend(self.nodes[i] for i in sorted(needed))
        read = {name for i in needed for name in self.reads[i]}
        graph.initializer.extend(tensor for name, tensor in self.stored.items() if name in read or name in outputs)
        overridable = {value.name for value in self.model.proto.graph.input if value.name in self.stored}
        graph.input.extend(self.declare(name, name) for name in (*inputs, *sorted(overridable & read)))
        graph.output.extend(self.declare(name, name) for name in outputs)
        return Model(proto, self.model.name, self.model.folder, sha256="")

    def weight_bytes(self, inputs: Collection[str], outputs: Collection[str]) -> int:
        """Return the bytes that the sub-model of `extract` stores."""
        read = {name for i in self.between(inputs, outputs) for name in self.reads[i]}
        return sum(math.prod(t.dims) * _item_bytes(t.data_type) for name, t in self.stored.items() if name in read)

    def loaded_bytes(self, inputs: Collection[str], outputs: Collection[str]) -> int:
        """Return about what a session of the sub-model of `extract` takes.

        Its weights, as much again for the layout that kernels want, and every value that it makes of one batch.
        """
        made = {name for i in self.between(inputs, outputs) for name in self.nodes[i].output if name}
        rows = sum(self.row_bytes(name) for name in made if name in self._fixed and self.has_rows(name))
        return 2 * self.weight_bytes(inputs, outputs) + self.batch * rows

    def between(self, inputs: Collection[str], outputs: Collection[str]) -> set[int]:
        """Return the nodes that make ``outputs`` of ``inputs``."""
        needed: set[int] = set()
        seen = set(inputs)
        pending = [name for name in outputs if name not in seen]
        while pending:
            name = pending.pop()
            if name in seen:
                continue
            seen.add(name)
            if name in self.producer:
                needed.add(self.producer[name])
                pending += self.reads[self.producer[name]]
        return needed

    def declare(self, value: str, name: str, axis: int | None = None, count: int = 0) -> onnx.ValueInfoProto:
        """Return ``name`` declared like ``value``, with ``count`` elements on ``axis``."""
        info = onnx.ValueInfoProto(name=name)
        kind = self.types.get(value) or self._fixed.get(value)
        if kind is not None:
            info.type.CopyFrom(kind)
        dims = info.type.tensor_type.shape.dim
        if axis is not None and axis < len(dims):
            dims[axis].Clear()
            dims[axis].dim_value = count
        return info


def _item_bytes(kind: int) -> int:
    return int(onnx.helper.tensor_dtype_to_np_dtype(kind).itemsize)


def _infer(proto: onnx.ModelProto, shape: tuple[int, ...] | None) -> dict[str, onnx.TypeProto]:
    """Return the types of all values, as far as inference settles them; ``shape`` settles that of the model's input."""
    copy = _without_graph(proto)
    copy.graph.node.extend(proto.graph.node)
    copy.graph.input.extend(proto.graph.input)
    copy.graph.output.extend(proto.graph.output)
    copy.graph.value_info.extend(proto.graph.value_info)
    stored = {tensor.name for tensor in proto.graph.initializer}
    for tensor in proto.graph.initializer:  # no shape depends on what a large one holds
        if math.prod(tensor.dims) <= _SMALL:
            copy.graph.initializer.append(tensor)
        elif tensor.name not in {value.name for value in proto.graph.input}:
            copy.graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    for value in copy.graph.input:
        if shape and value.name not in stored:
            for dim, size in zip(value.type.tensor_type.shape.dim, shape, strict=True):
                dim.Clear()
                dim.dim_value = size
    if shape:  # what the file declares holds for any batch
        del copy.graph.value_info[:]
        for value in copy.graph.output:
            value.type.tensor_type.ClearField("shape")
    try:
        graph = onnx.shape_inference.infer_shapes(copy, data_prop=True).graph
    except Exception:  # inference is a help, no check: without it, the input is the only cut
        graph = copy.graph
    return {value.name: value.type for value in (*graph.input, *graph.value_info, *graph.output)}


#: Initializers up to this many elements may be shapes, axes and the like.
_SMALL = 1024


def _without_graph(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model around the graph: versions, functions, metadata."""
    shell = onnx.ModelProto(ir_version=proto.ir_version, producer_name=proto.producer_name)
    shell.opset_import.extend(proto.opset_import)
    shell.functions.extend(proto.functions)
    shell.graph.name = proto.graph.name
    return shell


def _reads(node: onnx.NodeProto) -> Iterator[str]:
    yield from filter(None, node.input)
    for _, graph in subgraphs(node):
        own = {tensor.name for tensor in graph.initializer} | {value.name for value in graph.input}
        for inner in graph.node:
            yield from (name for name in _reads(inner) if name not in own)
            own.update(inner.output)
        yield from (value.name for value in graph.output if value.name not in own)
