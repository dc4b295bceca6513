"""Rewrite: a model and neuron sites → a new model with flip nodes at the sites. The clean model is never changed.

A flip node is a group of standard operators that changes bits of a value's elements. BitCast reinterprets the value as
unsigned integers, chosen elements become ``(bits & keep) ^ toggle``, which covers every kind of fault, and BitCast
turns the result back. Nothing is rounded: NaN payloads, -0 and subnormals keep every other bit, and without a fault all
bits. BitCast exists from opset 26 on, so the model is converted, and its stored tensors are compared afterwards.
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
from bitswap_onnx.graph.model import Model
from bitswap_onnx.graph.nodes import subgraphs
from bitswap_onnx.graph.sites import NeuronSite

#: The inputs of a flip node, in the order of `Flips`.
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
    """Changes of n elements of one value: ``index``, ``keep`` and ``toggle``, each of shape (n,); see `NeuronEdit`.

    ``index`` holds distinct flat positions in the whole value, all rows included.
    """

    index: NDArray[np.int64]
    keep: Bits
    toggle: Bits

    def apply(self, bits: Bits) -> None:
        """Change the ``bits`` of a value, a C-contiguous array of shape (rows, ...), in place."""
        flat = bits.reshape(-1)
        flat[self.index] = (flat[self.index] & self.keep) ^ self.toggle

    def behind(self, elements: int) -> "Flips":
        """Return the same changes for the value's rows placed behind ``elements`` elements of other rows."""
        return Flips(self.index + elements, self.keep, self.toggle)

    def feeds(self, site: NeuronSite) -> dict[str, NDArray[Any]]:
        """Return these changes as inputs of a model that `instrument` returned."""
        return dict(zip(_names(site.key), (self.index, self.keep, self.toggle), strict=True))


def by_input(edits: Iterable[NeuronEdit]) -> dict[int, list[NeuronEdit]]:
    """Return edits by the dataset input that they hit; edits of all inputs are under `ALL_INPUTS`."""
    table: dict[int, list[NeuronEdit]] = {}
    for edit in edits:
        table.setdefault(edit.input, []).append(edit)
    return table


def flips(edits: Mapping[int, Sequence[NeuronEdit]], rows: Iterable[int], site: NeuronSite) -> Flips:
    """Return the changes that ``edits`` make in a site's value, for the batch of dataset inputs ``rows``.

    ``edits`` are as `by_input` returns them. An input may be in several rows. The order of edits of one neuron does not
    matter, since each hits other bits.
    """
    every = (1 << site.format.width) - 1
    always = edits.get(ALL_INPUTS, ())
    by_place: dict[int, tuple[int, int]] = {}
    for row, number in enumerate(rows):
        for _, element, keep, toggle in (*always, *edits.get(number, ())):
            place = row * site.elements + element
            kept, toggled = by_place.get(place, (every, 0))
            by_place[place] = kept & keep, (toggled & keep) ^ toggle
    changes = np.array(list(by_place.values()), site.format.view).reshape(-1, 2)
    return Flips(np.fromiter(by_place, np.int64, len(by_place)), changes[:, 0].copy(), changes[:, 1].copy())


def tapped_value(key: str) -> str:
    """Return the value that holds a site's neurons and nothing else; after `tap`, input sites have one as well."""
    return key.removeprefix("@output:")


def tap(model: Model, sites: Iterable[NeuronSite]) -> Model:
    """Return a model in which the node of each input site reads its own copy of the value (`tapped_value`)."""
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
    """Return a model with a flip node at each site, whose faults are inputs of the model (`Flips.feeds`).

    Without faults, no bit changes. A fault in an input of the model reaches all nodes that read it. Raises ModelError
    for a model that cannot be converted to opset 26.
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
    """Return a standalone model that contains the faults ``edits`` of ``sites``, both by key.

    A fault of dataset input n hits row n of each batch that has such a row. Raises errors as `instrument` does.
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
    """Builds the operators of one flip node; their names begin with ``scope``, the key of the site."""

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
        """Reinterpret a value's bits, of type ``was``, as ``kind``; BitCast refuses equal types."""
        if kind == was:
            return self.add("Identity", value, output=output)
        return self.add("BitCast", value, output=output, to=kind)

    def flip(self, site: NeuronSite, value: str, fed: Sequence[str], output: str) -> None:
        """Make ``output``: ``value`` with changes; ``fed`` are the values of their index, keep and toggle."""
        kind, unsigned = (helper.np_dtype_to_tensor_dtype(dtype) for dtype in (site.format.dtype, site.format.view))
        index, keep, toggle = fed
        flat = self.add("Reshape", self.cast(value, unsigned, kind), self.constant(np.array([-1])))
        kept = self.add("BitwiseAnd", self.add("Gather", flat, index), keep)
        changed = self.add("ScatterElements", flat, index, self.add("BitwiseXor", kept, toggle))
        self.cast(self.add("Reshape", changed, self.add("Shape", value)), kind, unsigned, output)

    def baked(self, value: str, changes: Flips, input_: int, site: NeuronSite) -> list[str]:
        """Return the values of index, keep and toggle of the constant ``changes`` of one row.

        They are repeated for every row of ``value``, or used for the row of dataset input ``input_`` alone.
        """
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
    """Open the graph at a site; return the value that a flip node reads there and the name of the value to make."""
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
    """Insert a flip node behind the node that makes its value, or before the one node that reads it."""
    if tapped_value(site.key) == site.key:
        position = _reader(graph, site)
    else:
        maker = _maker(graph, f"{site.key}/clean")
        position = 0 if maker is None else maker + 1
    later = list(graph.node)[position:]
    del graph.node[position:]
    graph.node.extend([*nodes, *later])


def _maker(graph: onnx.GraphProto, value: str) -> int | None:
    return next((i for i, node in enumerate(graph.node) if value in node.output), None)


def _reader(graph: onnx.GraphProto, site: NeuronSite) -> int:
    """Return the position of the node of an input site: its key names the first output of that node."""
    output = site.key.removeprefix("@input:")
    clean = f"@output:{output}/clean"  # the name of that output if a flip node was inserted behind it
    return next(i for i, node in enumerate(graph.node) if node.output[0] in (output, clean))


def _rename_reads(nodes: Iterable[onnx.NodeProto], old: str, new: str) -> None:
    for node in nodes:
        for slot, name in enumerate(node.input):
            node.input[slot] = new if name == old else name
        for _, graph in subgraphs(node):
            _rename_reads(graph.node, old, new)
