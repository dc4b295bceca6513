"""The nodes that a fault can change, and the model cut there into sub-models.

The *cone* of a fault is the set of nodes that can see it. The values that the cone reads from outside are golden. Where
such values have one row per input, the model can be cut at them, and the part behind the cut can run on any rows in any
order.
"""

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import onnx

from bitswap_onnx.graph.model import Model
from bitswap_onnx.graph.nodes import subgraphs, values_read
from bitswap_onnx.graph.value_types import infer_types, without_graph


@dataclass(frozen=True, eq=False, repr=False)
class Slicer:
    """Cuts a model into sub-models. Its scores are ``output``; it runs in batches of ``batch`` inputs of ``shape``.

    ``seen``: value → shape in a run, and in a run with one more input per batch; they fill in where inference fails.
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
        """Per node, the values that it reads (`values_read`), each once."""
        return tuple(tuple(dict.fromkeys(values_read(node))) for node in self.nodes)

    @cached_property
    def producer(self) -> dict[str, int]:
        """Value → the number of the node that makes it."""
        return {name: i for i, node in enumerate(self.nodes) for name in node.output if name}

    @cached_property
    def readers(self) -> dict[str, tuple[int, ...]]:
        """Value → the numbers of the nodes that read it, ascending."""
        readers: dict[str, list[int]] = {}
        for i, names in enumerate(self.reads):
            for name in names:
                readers.setdefault(name, []).append(i)
        return {name: tuple(nodes) for name, nodes in readers.items()}

    @cached_property
    def stored(self) -> dict[str, onnx.TensorProto]:
        """The initializers of the main graph."""
        return {tensor.name: tensor for tensor in self.model.proto.graph.initializer}

    @cached_property
    def sparse(self) -> dict[str, onnx.SparseTensorProto]:
        """The sparse initializers of the main graph, which no fault hits."""
        return {tensor.values.name: tensor for tensor in self.model.proto.graph.sparse_initializer}

    @cached_property
    def inputs(self) -> tuple[str, ...]:
        """The inputs of the model that need a value: those without an initializer."""
        return tuple(value.name for value in self.model.proto.graph.input if value.name not in self.stored)

    @cached_property
    def constants(self) -> frozenset[str]:
        """The values that depend on no input."""
        constants = set(self.stored) | set(self.sparse)
        for node, names in zip(self.nodes, self.reads, strict=True):
            if constants.issuperset(names) and not node.op_type.startswith(("Random", "Bernoulli", "Multinomial")):
                constants.update(filter(None, node.output))
        return frozenset(constants)

    @cached_property
    def counts(self) -> frozenset[str]:
        """The values that depend on the shapes of other values, never on their elements."""
        counts: set[str] = set()
        for node, names in zip(self.nodes, self.reads, strict=True):
            if node.op_type in ("Shape", "Size") or (names and counts.union(self.constants).issuperset(names)):
                counts.update(name for name in node.output if name and name not in self.constants)
        return frozenset(counts)

    @cached_property
    def types(self) -> dict[str, onnx.TypeProto]:
        """Value → its type, with the batch dimension as the model declares it, so that sub-models declare it alike."""
        return infer_types(self.model.proto, None)

    @cached_property
    def _fixed(self) -> dict[str, onnx.TypeProto]:
        """Value → its type in batches of ``batch`` inputs."""
        return infer_types(self.model.proto, (self.batch, *self.shape))

    @cached_property
    def _one_more(self) -> dict[str, onnx.TypeProto] | None:
        """Value → its type in batches of one more input; None for a model with a fixed batch."""
        value = next(value for value in self.model.proto.graph.input if value.name in self.inputs)
        if value.type.tensor_type.shape.dim[0].dim_value > 0:
            return None
        return infer_types(self.model.proto, (self.batch + 1, *self.shape))

    def dims(self, name: str) -> tuple[int, ...] | None:
        """Return a value's shape, or None if it is not known in full."""
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
            and self._grows_with_batch(name)
        )

    def _grows_with_batch(self, name: str) -> bool:
        """Whether a value has one more row in batches of one more input; assumed of models with a fixed batch."""
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
        """Return the bytes of one row of a value that has rows (`has_rows`)."""
        return math.prod((self.dims(name) or ())[1:]) * self.dtype(name).itemsize

    def users(self, tensor: str) -> tuple[int, ...]:
        """Return the nodes of the main graph that read the stored tensor ``tensor``, a key of `stored_tensors`.

        For a tensor of a subgraph it is the node that carries the subgraph.
        """
        if tensor in self.stored or tensor in self.producer:
            return self.readers.get(tensor, ())
        carriers = (
            i for i, node in enumerate(self.nodes) if any(tensor.startswith(scope) for scope, _ in subgraphs(node))
        )
        return tuple(carriers)

    def cone(self, starts: Iterable[int]) -> frozenset[int]:
        """Return the nodes that can see a fault in an output of the nodes ``starts``, and ``starts`` themselves."""
        cone: set[int] = set()
        pending = list(starts)
        while pending:
            node = pending.pop()
            if node not in cone:
                cone.add(node)
                pending += [reader for name in self.nodes[node].output for reader in self.readers.get(name, ())]
        return frozenset(cone)

    def cuts(
        self, cone: Collection[int], stops: Collection[str] = (), outputs: Iterable[str] | None = None
    ) -> tuple[str, ...] | None:
        """Return the values, sorted, that are needed to compute ``outputs`` from ``cone`` on: golden ones, and ``stops``.

        ``outputs``: values of the model (default: its output). A golden value is needed as it is if it has a row per input
        or is an input of the model; others are computed again from such values. ``stops``, values of the cone, are needed
        instead of the nodes before them. None if no output depends on the cone: a fault there changes nothing.
        """
        cuts: set[str] = set()
        seen: set[str] = set()
        pending, reached = [self.output] if outputs is None else list(outputs), False
        while pending:
            name = pending.pop()
            if name in seen or name in self.stored:
                continue
            seen.add(name)
            maker = self.producer.get(name)
            if maker in cone or name in stops:
                reached = True
            if name in stops or maker is None or (maker not in cone and self.has_rows(name)):
                cuts.add(name)
            else:
                pending += self.reads[maker]
        return tuple(sorted(cuts)) if reached else None

    def extract(self, inputs: Collection[str], outputs: Collection[str]) -> Model:
        """Return the sub-model that computes ``outputs`` from ``inputs``, which are values of this model."""
        needed = self.between(inputs, outputs)
        proto = onnx.ModelProto()
        proto.CopyFrom(without_graph(self.model.proto))
        graph = proto.graph
        graph.node.extend(self.nodes[i] for i in sorted(needed))
        read = {name for i in needed for name in self.reads[i]}
        graph.initializer.extend(tensor for name, tensor in self.stored.items() if name in read or name in outputs)
        graph.sparse_initializer.extend(tensor for name, tensor in self.sparse.items() if name in read)
        overridable = {value.name for value in self.model.proto.graph.input if value.name in self.stored}
        graph.input.extend(self.declare(name, name) for name in (*inputs, *sorted(overridable & read)))
        graph.output.extend(self.declare(name, name) for name in outputs)
        return Model(proto, self.model.name, self.model.folder, sha256="")

    def weight_bytes(self, inputs: Collection[str], outputs: Collection[str]) -> int:
        """Return the bytes of the initializers of the sub-model that `extract` returns."""
        read = {name for i in self.between(inputs, outputs) for name in self.reads[i]}
        return sum(math.prod(t.dims) * _item_bytes(t.data_type) for name, t in self.stored.items() if name in read)

    def loaded_bytes(self, inputs: Collection[str], outputs: Collection[str]) -> int:
        """Return the estimated bytes of a session of the sub-model that `extract` returns.

        They are its weights twice, once in the layout of kernels, and all values that it makes for one batch.
        """
        made = {name for i in self.between(inputs, outputs) for name in self.nodes[i].output if name}
        rows = sum(self.row_bytes(name) for name in made if name in self._fixed and self.has_rows(name))
        return 2 * self.weight_bytes(inputs, outputs) + self.batch * rows

    def between(self, inputs: Collection[str], outputs: Collection[str]) -> set[int]:
        """Return the nodes that compute ``outputs`` from ``inputs``."""
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
        """Return a declaration of ``name`` with the type of ``value``, if given with ``count`` elements on ``axis``."""
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
