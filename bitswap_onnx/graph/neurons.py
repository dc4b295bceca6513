"""Rewrite: flip nodes at neuron sites → new model. The clean model is never changed.

A flip node is a few standard operators that see a value as unsigned integers (BitCast), change chosen elements and see
the result as numbers again: ``(bits & keep) ^ toggle``, which flips, sticks and sets bits alike. Nothing is rounded, so
NaN payloads, -0 and subnormals keep every other bit, and without a fault all of them. BitCast exists from opset 26 on:
the model is converted, and its stored tensors are compared afterwards.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from bitswap_onnx.faults.bits import BitFormat, Bits
from bitswap_onnx.faults.fault import Kind
from bitswap_onnx.graph.edits import ALL_INPUTS, NeuronEdit, NeuronEdits
from bitswap_onnx.graph.flip_opset import at_flip_opset
from bitswap_onnx.graph.model import Model, subgraphs
from bitswap_onnx.graph.sites import NeuronSite

#: What a flip node is fed with, in the order of `Flips`.
_PARTS = ("index", "keep", "toggle")


def operation(kind: Kind, operand: int, fmt: BitFormat) -> tuple[int, int]:
    """Return (keep, toggle) of a fault; ``operand`` as for `bitswap_onnx.faults.bits.edit`."""
    every = (1 << fmt.width) - 1
    match kind:
        case Kind.FLIP:
            return every, 1 << operand
        case Kind.STUCK_AT_0:
            return every ^ (1 << operand), 0
        case Kind.STUCK_AT_1:
            return every ^ (1 << operand), 1 << operand
        case Kind.MASK:
            return every, operand
        case Kind.SET:
            return 0, operand


@dataclass(frozen=True, eq=False)
class Flips:
    """Changes of one value: ``index`` (n,), distinct, counts through all elements of all rows; see `NeuronEdit`."""

    index: NDArray[np.int64]
    keep: Bits
    toggle: Bits

    def apply(self, bits: Bits) -> None:
        """Change a value's ``bits`` (rows, ...), C-contiguous, in place."""
        flat = bits.reshape(-1)
        flat[self.index] = (flat[self.index] & self.keep) ^ self.toggle

    def behind(self, elements: int) -> "Flips":
        """Return the same changes of a value whose rows lie behind as many ``elements`` of others."""
        return Flips(self.index + elements, self.keep, self.toggle)

    def feeds(self, site: NeuronSite) -> dict[str, NDArray[Any]]:
        """Return these changes as inputs of a model that `instrument` made."""
        return dict(zip(_names(site.key), (self.index, self.keep, self.toggle), strict=True))


def by_input(edits: Iterable[NeuronEdit]) -> dict[int, list[NeuronEdit]]:
    """Return edits by the dataset input that they hit, those of all under `ALL_INPUTS`."""
    table: dict[int, list[NeuronEdit]] = {}
    for edit in edits:
        table.setdefault(edit.input, []).append(edit)
    return table


def flips(edits: Mapping[int, Sequence[NeuronEdit]], rows: Iterable[int], site: NeuronSite) -> Flips:
    """Return what ``edits`` (as `by_input` has them) change in a site's value whose rows are the dataset inputs ``rows``.

    An input may come several times, in any order. Edits of one neuron hit bits of their own, so their order is nothing.
    """
    every = (1 << site.format.width) - 1
    always = edits.get(ALL_INPUTS, ())
    found: dict[int, tuple[int, int]] = {}
    for row, number in enumerate(rows):
        for _, element, keep, toggle in (*always, *edits.get(number, ())):
            place = row * site.elements + element
            kept, toggled = found.get(place, (every, 0))
            found[place] = kept & keep, (toggled & keep) ^ toggle
    changes = np.array(list(found.values()), site.format.view).reshape(-1, 2)
    return Flips(np.fromiter(found, np.int64, len(found)), changes[:, 0].copy(), changes[:, 1].copy())


def tapped_value(key: str) -> str:
    """Return the value that holds a site's neurons alone: after `tap`, what a node takes in has one of its own."""
    return key.removeprefix("@output:")


def tap(model: Model, sites: Iterable[NeuronSite]) -> Model:
    """Return a model in which what a node takes in, at each such site, is a copy of its own (`tapped_value`)."""
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    for site in sites:
        if tapped_value(site.key) == site.key:
            position = _reader(proto.graph, site)
            node = proto.graph.node[position]
            copy = helper.make_node("Identity", [node.input[site.slot]], [site.key], site.key)
            node.input[site.slot] = site.key
            proto.graph.node.insert(position, copy)
    return Model(proto, model.name, model.folder, sha256="")


def instrument(model: Model, sites: Iterable[NeuronSite]) -> Model:
    """Return a model with a flip node at each site, which faults are fed to (`Flips.feeds`); of none, no bit changes.

    A site whose value is an input of the model acts on all that reads it. Raises ModelError for a model that cannot be
    brought to opset 26.
    """
    proto = at_flip_opset(model)
    for site in sites:
        names = _names(site.key)
        unsigned = helper.np_dtype_to_tensor_dtype(site.format.view)
        for name, kind in zip(names, (TensorProto.INT64, unsigned, unsigned), strict=True):
            proto.graph.input.append(helper.make_tensor_value_info(name, kind, [f"{site.key}/faults"]))
        nodes = _Nodes(site.key)
        before, after = _attach(proto.graph, site)
        nodes.flip(site, before, names, after)
        _insert(proto.graph, site, nodes.made)
    return Model(proto, model.name, model.folder, sha256="")


def bake(model: Model, edits: NeuronEdits, sites: Mapping[str, NeuronSite]) -> Model:
    """Return a standalone model that makes the faults ``edits`` of ``sites`` (both by key) itself.

    A fault of one dataset input hits that row of every batch that has one. Errors as `instrument`.
    """
    proto = at_flip_opset(model)
    for key, changes in edits.items():
        site, nodes = sites[key], _Nodes(key)
        before, after = _attach(proto.graph, site)
        inputs = list(dict.fromkeys(change.input for change in changes))
        for number, input_ in enumerate(inputs):
            own = flips({0: [change for change in changes if change.input == input_]}, [0], site)
            end = after if number == len(inputs) - 1 else f"{key}/{number}"
            nodes.flip(site, before, nodes.baked(before, own, input_, site), end)
            before = end
        _insert(proto.graph, site, nodes.made)
    return Model(proto, model.name, model.folder, sha256="")


class _Nodes:
    """Nodes of one flip node, named after its site."""

    def __init__(self, scope: str) -> None:
        self.scope = scope
        self.made: list[onnx.NodeProto] = []

    def add(self, operator: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        name = output or f"{self.scope}/{len(self.made)}_{operator}"
        self.made.append(
            helper.make_node(operator, list(inputs), [name], f"{self.scope}/{len(self.made)}", **attributes)
        )
        return name

    def constant(self, array: NDArray[Any] | np.generic) -> str:
        return self.add("Constant", value=numpy_helper.from_array(np.ascontiguousarray(array)))

    def cast(self, value: str, kind: int, was: int, output: str = "") -> str:
        """See a value's bits as another type; BitCast does not take its own."""
        if kind == was:
            return self.add("Identity", value, output=output)
        return self.add("BitCast", value, output=output, to=kind)

    def flip(self, site: NeuronSite, value: str, fed: Sequence[str], output: str) -> None:
        """Make ``output``: ``value`` with the changes ``fed``, the names of what `Flips` holds."""
        own, unsigned = (helper.np_dtype_to_tensor_dtype(dtype) for dtype in (site.format.dtype, site.format.view))
        index, keep, toggle = fed
        flat = self.add("Reshape", self.cast(value, unsigned, own), self.constant(np.array([-1])))
        kept = self.add("BitwiseAnd", self.add("Gather", flat, index), keep)
        changed = self.add("ScatterElements", flat, index, self.add("BitwiseXor", kept, toggle))
        self.cast(self.add("Reshape", changed, self.add("Shape", value)), own, unsigned, output)

    def baked(self, value: str, changes: Flips, input_: int, site: NeuronSite) -> list[str]:
        """Return the names of constant ``changes`` of one row, repeated for each row of ``value`` that they are for."""
        one, rank = self.constant(np.int64(1)), self.constant(np.array([-1]))
        batch = self.add("Gather", self.add("Shape", value), self.constant(np.int64(0)))
        first, stop = self.constant(np.int64(0)), batch
        if input_ != ALL_INPUTS:
            first, stop = (self.add("Min", batch, self.constant(np.int64(input_ + i))) for i in range(2))
        rows = self.add("Mul", self.add("Range", first, stop, one), self.constant(np.int64(site.elements)))
        places = self.add("Add", self.add("Unsqueeze", rows, one), self.constant(changes.index))
        shape = self.add("Shape", places)
        spread = [self.add("Expand", self.constant(array), shape) for array in (changes.keep, changes.toggle)]
        return [self.add("Reshape", each, rank) for each in (places, *spread)]


def _names(key: str) -> list[str]:
    return [f"{key}/{part}" for part in _PARTS]


def _attach(graph: onnx.GraphProto, site: NeuronSite) -> tuple[str, str]:
    """Open the graph at a site: return the value that a flip node reads, and the name of the one that it has to make."""
    if tapped_value(site.key) == site.key:
        node = graph.node[_reader(graph, site)]
        before, node.input[site.slot] = node.input[site.slot], f"{site.key}/faulty"
        return before, f"{site.key}/faulty"
    maker = _maker(graph, site.value)
    if maker is None:
        _rename_reads(graph.node, site.value, f"{site.key}/faulty")
        return site.value, f"{site.key}/faulty"
    outputs = graph.node[maker].output
    outputs[list(outputs).index(site.value)] = f"{site.key}/clean"
    return f"{site.key}/clean", site.value


def _insert(graph: onnx.GraphProto, site: NeuronSite, nodes: Sequence[onnx.NodeProto]) -> None:
    """Put a flip node where its value is made, or before the one node that reads it."""
    if tapped_value(site.key) == site.key:
        position = _reader(graph, site)
    else:
        maker = _maker(graph, f"{site.key}/clean")
        position = 0 if maker is None else maker + 1
    rest = list(graph.node)[position:]
    del graph.node[position:]
    graph.node.extend([*nodes, *rest])


def _maker(graph: onnx.GraphProto, value: str) -> int | None:
    return next((i for i, node in enumerate(graph.node) if value in node.output), None)


def _reader(graph: onnx.GraphProto, site: NeuronSite) -> int:
    """Return the node that a site stands before: its key names the first value that the node makes."""
    output = site.key.removeprefix("@input:")
    clean = f"@output:{output}/clean"  # its own name, if there is a flip node behind it
    return next(i for i, node in enumerate(graph.node) if node.output[0] in (output, clean))


def _rename_reads(nodes: Iterable[onnx.NodeProto], old: str, new: str) -> None:
    for node in nodes:
        for slot, name in enumerate(node.input):
            node.input[slot] = new if name == old else name
        for _, graph in subgraphs(node):
            _rename_reads(graph.node, old, new)
