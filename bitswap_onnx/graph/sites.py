"""The neuron sites of a model: the values that faults can hit while it runs, by layer.

A site is the output or the input of a layer (`bitswap_onnx.graph.layers`).
"""

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from bitswap_onnx.faults.bits import FORMATS, NEURON_FORMATS, BitFormat
from bitswap_onnx.faults.fault import Site
from bitswap_onnx.graph.layers import Layer, LayerRole, find_layers
from bitswap_onnx.graph.nodes import attribute
from bitswap_onnx.graph.slices import Slicer

#: Operators whose images have the channels before the rows and columns in every framework.
_CHANNELS_FIRST = frozenset({"Conv", "ConvTranspose", "MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool"})


@dataclass(frozen=True, slots=True)
class NeuronSite:
    """The output or input (``site``) of one ``layer``. Each of its elements is a neuron, once per input of the batch.

    ``kind``, ``role`` and ``weight`` are those of the `Layer`; ``operator`` is the ONNX operator that computes it.
    ``key`` stands for the site in a faulty path; sites of equal key are the same site. ``value`` is the ONNX value that
    holds the neurons. An input site is the input ``slot`` of the layer's node, whose first output is ``made``.
    ``shape``, without the batch, is in the framework's layout: axis i of that layout, the batch being axis 0, is axis
    ``order[i]`` of the value.
    """

    layer: str
    kind: str
    operator: str
    role: LayerRole
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
        """The bit layout of a neuron."""
        return FORMATS[self.dtype]

    @property
    def elements(self) -> int:
        """Neurons per input."""
        return math.prod(self.shape)

    @property
    def number(self) -> int:
        """A number that depends on the layer's name and the side alone, to seed draws with."""
        return int.from_bytes(hashlib.sha256(f"{self.layer}:{self.site}".encode()).digest()[:4])

    def element(self, index: tuple[int, ...]) -> int:
        """Return the flat position in a row of the value of the neuron ``index``.

        ``index`` leaves out the batch and is in the framework's layout.
        """
        place = dict(zip((axis - 1 for axis in self.order[1:]), index, strict=True))
        sizes = dict(zip((axis - 1 for axis in self.order[1:]), self.shape, strict=True))
        axes = range(len(index))
        return int(np.ravel_multi_index([place[i] for i in axes], [sizes[i] for i in axes])) if index else 0


def output_key(value: str) -> str:
    """Return the key of the site that is a value, as all its readers see it."""
    return f"@output:{value}"


def input_key(output: str) -> str:
    """Return the key of the site that is the input of one node alone; ``output`` is the first output of that node."""
    return f"@input:{output}"


def is_site(key: str) -> bool:
    """Whether a key of a faulty path is that of a neuron site, not of a stored tensor."""
    return key.startswith(("@output:", "@input:"))


def data_slot(slicer: Slicer, node: int) -> int | None:
    """Return the input slot of a node's data: the first that depends on the model's input; None if there is none."""
    names = slicer.nodes[node].input
    return next((slot for slot, name in enumerate(names) if name and name not in slicer.constants), None)


def find_sites(slicer: Slicer) -> tuple[NeuronSite, ...]:
    """Return every neuron site of a model, in execution order, a layer's output before its input.

    Where several layers have one name, a module keeps it and the others get their role behind it: ``conv[input]``. A
    value has no site if it lacks a row per input or has a dtype that faults cannot hit.
    """
    maker = _SiteMaker(slicer)
    sites: dict[tuple[str, Site], tuple[float, NeuronSite]] = {}
    for layer in find_layers(slicer):
        for site in maker.sites(layer):
            if (site.layer, site.site) in sites and sites[site.layer, site.site][1].key != site.key:
                site = replace(site, layer=f"{site.layer}[{site.role}]")
            sites.setdefault((site.layer, site.site), (layer.place, site))
    return tuple(site for _, site in sorted(sites.values(), key=lambda entry: entry[0]))


class _SiteMaker:
    """Makes the sites of layers: finds their values and puts axes into the framework's order."""

    def __init__(self, slicer: Slicer) -> None:
        self.slicer = slicer
        metadata = slicer.model.metadata
        self.is_keras = metadata.get("framework") == "keras"
        modules = [*metadata.get("modules", {}).values(), *metadata.get("vanished", {}).values()]
        self.orders = {name: order for entry in modules for name, order in entry.get("permutations", {}).items()}

    def sites(self, layer: Layer) -> Iterator[NeuronSite]:
        """Yield the site of a layer's output and that of its input, if they exist."""
        operator = self._operator(layer)
        output = self._site(layer, Site.OUTPUT, output_key(layer.value), layer.value, operator)
        if output is not None:
            yield output
        slot = None if layer.node is None else data_slot(self.slicer, layer.node)
        if layer.role == "input" or layer.role == "vanished":
            if output is not None:  # their input is their output
                yield replace(output, site=Site.INPUT)
        elif layer.node is not None and slot is not None and self._reads_once(layer, slot):
            node = self.slicer.nodes[layer.node]
            site = self._site(layer, Site.INPUT, input_key(node.output[0]), node.input[slot], operator)
            if site is not None:
                yield replace(site, slot=slot)

    def _reads_once(self, layer: Layer, slot: int) -> bool:
        """Whether only the layer's node reads its input; a module of several nodes may read it in several of them."""
        assert layer.node is not None
        maker = self.slicer.producer.get(layer.value, layer.node)
        if maker == layer.node:
            return True
        readers = self.slicer.readers[self.slicer.nodes[layer.node].input[slot]]
        return [reader for reader in readers if maker in self.slicer.cone([reader])] == [layer.node]

    def _operator(self, layer: Layer) -> str:
        if layer.node is not None:
            return self.slicer.nodes[layer.node].op_type
        maker = self.slicer.producer.get(layer.value)
        return "" if maker is None or layer.role != "module" else self.slicer.nodes[maker].op_type

    def _site(self, layer: Layer, site: Site, key: str, value: str, operator: str) -> NeuronSite | None:
        dims = self.slicer.dims(value)
        if dims is None or not self.slicer.has_rows(value) or self.slicer.dtype(value).name not in NEURON_FORMATS:
            return None
        order = self._order(value, len(dims), operator, site)
        shape = tuple(dims[axis] for axis in order[1:])
        dtype = self.slicer.dtype(value).name
        made = "" if layer.node is None else self.slicer.nodes[layer.node].output[0]
        key, value, order = self._before_transposes(key, value, order)
        names = layer.name, layer.kind, operator, layer.role, site, key, value
        return NeuronSite(*names, shape, dtype, order, layer.weight, made=made)

    def _before_transposes(self, key: str, value: str, order: tuple[int, ...]) -> tuple[str, str, tuple[int, ...]]:
        """Return the key, value and axis order of the same neurons before the Transposes that made ``value``.

        The runtime may move Transposes, so no site lies behind one, unless another node reads what it transposes.
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

    def _order(self, value: str, rank: int, operator: str, site: Site) -> tuple[int, ...]:
        """Return the axes of a value in the framework's order: Keras has the channels last.

        The value is the output or input (``site``) of a layer that ``operator`` computes.
        """
        unchanged = tuple(range(rank))
        if not self.is_keras or rank < 3:
            return unchanged
        if value in self.orders:
            return tuple(self.orders[value])
        maker = self.slicer.producer.get(value)
        is_first = maker is not None and self.slicer.nodes[maker].op_type in _CHANNELS_FIRST
        is_read_first = site is Site.INPUT and operator in _CHANNELS_FIRST
        return (0, *range(2, rank), 1) if is_first or is_read_first else unchanged
