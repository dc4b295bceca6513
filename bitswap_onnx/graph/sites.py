"""Every neuron site of a model, in execution order: which values faults can hit while it runs, under which names.

A site is what a layer puts out, or what it takes in. Layers are the framework's modules where a converter recorded them,
modules that vanished in the export included (they stand for the value that they passed on), and the nodes of the graph.
The model's input is a layer of its own, the first.
"""

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from bitswap_onnx.faults.bits import FORMATS, BitFormat
from bitswap_onnx.faults.fault import Site
from bitswap_onnx.graph.layer_kinds import same_kind
from bitswap_onnx.graph.nodes import attribute, node_label
from bitswap_onnx.graph.slices import Slicer
from bitswap_onnx.graph.targets import find_targets

#: Operators that multiply by a kernel: the layers that are injected by default.
KERNEL_OPERATORS = frozenset(
    (
        *("Conv", "ConvTranspose", "Gemm", "MatMul", "FusedConv", "FusedGemm", "FusedMatMul"),
        *("QLinearConv", "QLinearMatMul", "QGemm", "ConvInteger", "MatMulInteger"),
    )
)

#: Operators whose images have the channels before the rows and columns, whatever the framework says.
_CHANNELS_FIRST = frozenset({"Conv", "ConvTranspose", "MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool"})


@dataclass(frozen=True, slots=True)
class NeuronSite:
    """What one layer puts out or takes in; each element of it is a neuron, for each input of the batch anew.

    ``kind`` is the framework's type of the layer, or the ONNX operator, which is ``operator``. ``role`` says what the
    layer is: the model's ``input``, a layer with a ``kernel`` (stored as ``weight``, if it is stored), a module that
    ``vanished``, another ``module`` or ``node``. ``key`` stands for the site in a faulty path: sites of equal key are
    one. ``value`` is the ONNX value that holds the neurons; what a layer takes in comes by ``slot`` of its node, whose first
    output is ``made``. ``shape``, without the batch, is in the framework's layout, which axes ``order`` make of the value's.
    """

    layer: str
    kind: str
    operator: str
    role: Literal["input", "kernel", "vanished", "module", "node"]
    site: Site
    key: str
    value: str
    shape: tuple[int, ...]
    dtype: str
    order: tuple[int, ...]
    weight: str | None = None
    slot: int = 0
    made: str = ""

    @property
    def format(self) -> BitFormat:
        """How a neuron lays out its bits."""
        return FORMATS[self.dtype]

    @property
    def elements(self) -> int:
        """Neurons per input."""
        return math.prod(self.shape)

    @property
    def number(self) -> int:
        """A number that its name alone decides, to seed draws with."""
        return int.from_bytes(hashlib.sha256(f"{self.layer}:{self.site}".encode()).digest()[:4])

    def element(self, index: tuple[int, ...]) -> int:
        """Return where the neuron ``index`` (framework's layout, without the batch) lies in a row of the value."""
        place = dict(zip((axis - 1 for axis in self.order[1:]), index, strict=True))
        sizes = dict(zip((axis - 1 for axis in self.order[1:]), self.shape, strict=True))
        axes = range(len(index))
        return int(np.ravel_multi_index([place[i] for i in axes], [sizes[i] for i in axes])) if index else 0


def output_key(value: str) -> str:
    """Return the key of the site that is a whole value, for all that read it."""
    return f"@output:{value}"


def input_key(output: str) -> str:
    """Return the key of the site that is what one node takes in; ``output`` is the first value that the node makes."""
    return f"@input:{output}"


def is_site(key: str) -> bool:
    """Whether a part of a faulty path is a neuron site and no stored tensor."""
    return key.startswith(("@output:", "@input:"))


def data_slot(slicer: Slicer, node: int) -> int | None:
    """Return which input of a node its data come in by: the first that depends on the model's input."""
    names = slicer.nodes[node].input
    return next((slot for slot, name in enumerate(names) if name and name not in slicer.constants), None)


def find_sites(slicer: Slicer) -> tuple[NeuronSite, ...]:
    """Return every neuron site of a model, in execution order, outputs before inputs of the same place.

    Of layers of one name the module has it, the others get their role behind it: ``conv[input]``. Values without one row
    per input, and of types that faults cannot hit, have none.
    """
    finder = _Finder(slicer)
    found: dict[tuple[str, Site], tuple[float, NeuronSite]] = {}
    for place, site in finder.sites():
        if (site.layer, site.site) in found and found[site.layer, site.site][1].key != site.key:
            site = replace(site, layer=f"{site.layer}[{site.role}]")
        found.setdefault((site.layer, site.site), (place, site))
    return tuple(site for _, site in sorted(found.values(), key=lambda entry: entry[0]))


@dataclass
class _Layer:
    """A name for a place in the graph: the ``value`` that comes out, and the ``node`` whose input goes in, if it has one."""

    name: str
    kind: str
    role: Literal["input", "kernel", "vanished", "module", "node"]
    value: str
    node: int | None
    place: float
    weight: str | None = None


class _Finder:
    def __init__(self, slicer: Slicer) -> None:
        self.slicer = slicer
        metadata = slicer.model.metadata
        self.modules: dict[str, Any] = metadata.get("modules", {})
        self.vanished: dict[str, Any] = metadata.get("vanished", {})
        self.is_keras = metadata.get("framework") == "keras"
        entries = [*self.modules.values(), *self.vanished.values()]
        self.orders = {name: order for entry in entries for name, order in entry.get("permutations", {}).items()}
        self.claimed: set[int] = set()  # nodes that a module stands for
        self.kernels: dict[str, tuple[list[int], str]] = {}  # layer → the nodes with its kernel, and the kernel
        for target in find_targets(slicer.model):
            nodes = self.kernel_nodes(target.tensor) if target.role == "weight" else []
            for layer, _ in target.names if nodes else ():
                self.kernels.setdefault(layer, (nodes, target.tensor))

    def is_kernel(self, node: int) -> bool:
        return self.slicer.nodes[node].op_type in KERNEL_OPERATORS

    def kernel_nodes(self, tensor: str) -> list[int]:
        """Return the nodes that multiply by a stored tensor, or by what a Transpose or the like makes of it, in order."""
        found: set[int] = set()
        pending = list(self.slicer.users(tensor))
        while pending:
            node = pending.pop()
            if self.is_kernel(node):
                found.add(node)
            elif all(name in self.slicer.constants for name in self.slicer.nodes[node].output):
                pending += [
                    user for name in self.slicer.nodes[node].output for user in self.slicer.readers.get(name, ())
                ]
        return sorted(found)

    def sites(self) -> Iterator[tuple[float, NeuronSite]]:
        for layer in (*self.module_layers(), *self.node_layers(), *self.input_layer()):
            operator = self.operator(layer)
            output = self.site(layer, Site.OUTPUT, output_key(layer.value), layer.value, operator)
            if output is not None:
                yield layer.place, output
            slot = None if layer.node is None else data_slot(self.slicer, layer.node)
            if layer.role == "input" or layer.role == "vanished":
                if output is not None:  # what they take in is what they put out
                    yield layer.place, replace(output, site=Site.INPUT)
            elif layer.node is not None and slot is not None and self.takes_in(layer, slot):
                node = self.slicer.nodes[layer.node]
                entry = self.site(layer, Site.INPUT, input_key(node.output[0]), node.input[slot], operator)
                if entry is not None:
                    yield layer.place, replace(entry, slot=slot)

    def takes_in(self, layer: _Layer, slot: int) -> bool:
        """Whether a node's input is all of it that its layer reads: a module of several nodes may read it twice."""
        assert layer.node is not None
        maker = self.slicer.producer.get(layer.value, layer.node)
        if maker == layer.node:
            return True
        readers = self.slicer.readers[self.slicer.nodes[layer.node].input[slot]]
        return [reader for reader in readers if maker in self.slicer.cone([reader])] == [layer.node]

    def operator(self, layer: _Layer) -> str:
        if layer.node is not None:
            return self.slicer.nodes[layer.node].op_type
        maker = self.slicer.producer.get(layer.value)
        return "" if maker is None or layer.role != "module" else self.slicer.nodes[maker].op_type

    def input_layer(self) -> Iterator[_Layer]:
        for name in self.slicer.inputs:
            yield _Layer(name, "Input", "input", name, None, -1.0)

    def module_layers(self) -> Iterator[_Layer]:
        """Yield the modules that a converter recorded; one that was called several times has a name per call."""
        separator = "/" if self.is_keras else "."
        leaves = {path for path in self.modules if path} - {
            path.rsplit(separator, depth)[0] for path in self.modules for depth in range(1, path.count(separator) + 1)
        }
        for path, entry in (*self.modules.items(), *self.vanished.items()):
            values = entry.get("values", [entry["value"]])
            for call, value in enumerate(values):
                if not path or (value not in self.slicer.producer and value not in self.slicer.inputs):
                    continue
                name = path if len(values) == 1 else f"{path}[{call}]"
                place = float(self.slicer.producer.get(value, -1))
                if path in self.vanished:
                    yield _Layer(name, entry["type"], "vanished", value, None, place + 0.5)
                elif path in leaves and (node := self.kernel_before(value, path)) is not None:
                    self.claimed.add(node)
                    yield _Layer(name, entry["type"], "kernel", value, node, place, self.kernels[path][1])
                else:
                    yield _Layer(name, entry["type"], "module", value, self.computing(value, entry["type"]), place)

    def kernel_before(self, value: str, path: str) -> int | None:
        """Return the last node before a value that multiplies by a module's kernel; other modules may share that one."""
        maker = self.slicer.producer.get(value)
        nodes = self.kernels[path][0] if path in self.kernels else []
        return next((node for node in reversed(nodes) if maker in self.slicer.cone([node])), None)

    def computing(self, value: str, kind: str) -> int | None:
        """Return the node that is a module of some kind, transposes aside; None for a module of several nodes."""
        node = self.slicer.producer.get(value)
        while node is not None and self.slicer.nodes[node].op_type in ("Transpose", "Identity"):
            node = self.slicer.producer.get(self.slicer.nodes[node].input[0])
        return node if node is not None and same_kind(kind, self.slicer.nodes[node].op_type) else None

    def node_layers(self) -> Iterator[_Layer]:
        """Yield the nodes; one with a kernel that no module stands for goes by its kernel's layer as well."""
        single = {layer: kernel for layer, kernel in self.kernels.items() if len(kernel[0]) == 1}
        names = {nodes[0]: (layer, weight) for layer, (nodes, weight) in reversed(single.items())}
        for i, node in enumerate(self.slicer.nodes):
            if not node.output or node.output[0] in self.slicer.constants:
                continue
            is_kernel = self.is_kernel(i) and i not in self.claimed
            label = node_label(node)
            layer, weight = names.get(i, (label, None)) if is_kernel else (label, None)
            yield _Layer(layer, node.op_type, "kernel" if is_kernel else "node", node.output[0], i, float(i), weight)
            if layer != label:
                yield _Layer(label, node.op_type, "node", node.output[0], i, float(i), weight)

    def site(self, layer: _Layer, site: Site, key: str, value: str, operator: str) -> NeuronSite | None:
        dims = self.slicer.dims(value)
        if dims is None or not self.slicer.has_rows(value) or self.slicer.dtype(value).name not in FORMATS:
            return None
        order = self.order(value, len(dims), operator, layer.value if site is Site.OUTPUT else None)
        shape = tuple(dims[axis] for axis in order[1:])
        dtype = self.slicer.dtype(value).name
        made = "" if layer.node is None else self.slicer.nodes[layer.node].output[0]
        key, value, order = self.before_transposes(key, value, order)
        names = layer.name, layer.kind, operator, layer.role, site, key, value
        return NeuronSite(*names, shape, dtype, order, layer.weight, made=made)

    def before_transposes(self, key: str, value: str, order: tuple[int, ...]) -> tuple[str, str, tuple[int, ...]]:
        """Return the same neurons where they are before Transposes that nothing goes past: the runtime moves those about.

        Given and returned are a site's key and value, and the value's axes in the framework's order.
        """
        alone = key == output_key(value) or len(self.slicer.readers.get(value, ())) == 1
        while alone and value != self.slicer.output and (maker := self.slicer.producer.get(value)) is not None:
            node = self.slicer.nodes[maker]
            perm = attribute(node, "perm", range(len(order))[::-1])
            if node.op_type != "Transpose" or perm[0] != 0 or self.slicer.readers[node.input[0]] != (maker,):
                break
            value, order = node.input[0], tuple(perm[axis] for axis in order)
            key = output_key(value)
        return key, value, order

    def order(self, value: str, rank: int, operator: str, made: str | None) -> tuple[int, ...]:
        """Return the axes of a value in the framework's order: Keras has the channels last."""
        plain = tuple(range(rank))
        if not self.is_keras or rank < 3:
            return plain
        if value in self.orders:
            return tuple(self.orders[value])
        maker = self.slicer.producer.get(value)
        first = maker is not None and self.slicer.nodes[maker].op_type in _CHANNELS_FIRST
        reads_first = made is None and operator in _CHANNELS_FIRST
        return (0, *range(2, rank), 1) if first or reads_first else plain
