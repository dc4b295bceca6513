"""The layers of a model: names for places in the graph at which faults can hit neurons.

Layers are the framework's modules, where a converter recorded them, the nodes of the graph, and the model's inputs. A
module that vanished in the export is a layer too: it stands for the value that it passed on.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from bitswap_onnx.graph.layer_kinds import same_kind
from bitswap_onnx.graph.nodes import node_label
from bitswap_onnx.graph.slices import Slicer
from bitswap_onnx.graph.targets import find_targets

#: Operators that multiply by a kernel: the layers that are injected by default.
KERNEL_OPERATORS = frozenset(
    (
        *("Conv", "ConvTranspose", "Gemm", "MatMul", "FusedConv", "FusedGemm", "FusedMatMul"),
        *("QLinearConv", "QLinearMatMul", "QGemm", "ConvInteger", "MatMulInteger"),
    )
)

LayerRole = Literal["input", "kernel", "vanished", "module", "node"]


@dataclass(frozen=True, slots=True)
class Layer:
    """A named place in the graph.

    ``kind`` is the framework's type of the layer, or the ONNX operator. ``role``: the model's ``input``, a layer with a
    ``kernel`` (stored as ``weight``, if it is stored), a module that ``vanished``, another ``module`` or ``node``.
    ``value`` is the layer's output. ``node`` is the node whose input is the layer's input, None if there is not exactly
    one. Layers run in the order of ``place``.
    """

    name: str
    kind: str
    role: LayerRole
    value: str
    node: int | None
    place: float
    weight: str | None = None


def find_layers(slicer: Slicer) -> Iterator[Layer]:
    """Yield the layers of a model: modules, then nodes, then the model's inputs. Names may repeat."""
    finder = _LayerFinder(slicer)
    yield from finder.modules()
    yield from finder.nodes()
    yield from finder.inputs()


class _LayerFinder:
    """Finds layers. A node with a kernel counts as one layer: that of its module, or else of its stored kernel."""

    def __init__(self, slicer: Slicer) -> None:
        self.slicer = slicer
        metadata = slicer.model.metadata
        self.recorded: dict[str, Any] = metadata.get("modules", {})
        self.vanished: dict[str, Any] = metadata.get("vanished", {})
        self.is_keras = metadata.get("framework") == "keras"
        self.claimed: set[int] = set()  # nodes with a kernel that a module stands for
        self.kernels: dict[str, tuple[list[int], str]] = {}  # layer → the nodes with its kernel, and the kernel
        for target in find_targets(slicer.model):
            nodes = self._kernel_nodes(target.tensor) if target.role == "weight" else []
            for layer, _ in target.names if nodes else ():
                self.kernels.setdefault(layer, (nodes, target.tensor))

    def modules(self) -> Iterator[Layer]:
        """Yield the modules that a converter recorded; one that was called several times has a name per call."""
        separator = "/" if self.is_keras else "."
        leaves = {path for path in self.recorded if path} - {
            path.rsplit(separator, depth)[0] for path in self.recorded for depth in range(1, path.count(separator) + 1)
        }
        for path, entry in (*self.recorded.items(), *self.vanished.items()):
            values = entry.get("values", [entry["value"]])
            for call, value in enumerate(values):
                if not path or (value not in self.slicer.producer and value not in self.slicer.inputs):
                    continue
                name = path if len(values) == 1 else f"{path}[{call}]"
                place = float(self.slicer.producer.get(value, -1))
                if path in self.vanished:
                    yield Layer(name, entry["type"], "vanished", value, None, place + 0.5)
                elif path in leaves and (node := self._kernel_before(value, path)) is not None:
                    self.claimed.add(node)
                    yield Layer(name, entry["type"], "kernel", value, node, place, self.kernels[path][1])
                else:
                    yield Layer(name, entry["type"], "module", value, self._computing(value, entry["type"]), place)

    def nodes(self) -> Iterator[Layer]:
        """Yield the nodes; a node with a kernel that no module stands for has its kernel's layer name as well."""
        single = {layer: kernel for layer, kernel in self.kernels.items() if len(kernel[0]) == 1}
        names = {nodes[0]: (layer, weight) for layer, (nodes, weight) in reversed(single.items())}
        for i, node in enumerate(self.slicer.nodes):
            if not node.output or node.output[0] in self.slicer.constants:
                continue
            is_kernel = self._has_kernel(i) and i not in self.claimed
            label = node_label(node)
            layer, weight = names.get(i, (label, None)) if is_kernel else (label, None)
            yield Layer(layer, node.op_type, "kernel" if is_kernel else "node", node.output[0], i, float(i), weight)
            if layer != label:
                yield Layer(label, node.op_type, "node", node.output[0], i, float(i), weight)

    def inputs(self) -> Iterator[Layer]:
        for name in self.slicer.inputs:
            yield Layer(name, "Input", "input", name, None, -1.0)

    def _has_kernel(self, node: int) -> bool:
        return self.slicer.nodes[node].op_type in KERNEL_OPERATORS

    def _kernel_nodes(self, tensor: str) -> list[int]:
        """Return the nodes, in order, that multiply by a stored tensor or by what constant nodes make of it."""
        nodes: set[int] = set()
        pending = list(self.slicer.users(tensor))
        while pending:
            node = pending.pop()
            outputs = self.slicer.nodes[node].output
            if self._has_kernel(node):
                nodes.add(node)
            elif all(name in self.slicer.constants for name in outputs):
                pending += [user for name in outputs for user in self.slicer.readers.get(name, ())]
        return sorted(nodes)

    def _kernel_before(self, value: str, path: str) -> int | None:
        """Return the last node before ``value`` that multiplies by the module's kernel; modules may share it."""
        maker = self.slicer.producer.get(value)
        nodes = self.kernels[path][0] if path in self.kernels else []
        return next((node for node in reversed(nodes) if maker in self.slicer.cone([node])), None)

    def _computing(self, value: str, kind: str) -> int | None:
        """Return the node that alone computes a module of type ``kind``, Transposes aside; None if there are several."""
        node = self.slicer.producer.get(value)
        while node is not None and self.slicer.nodes[node].op_type in ("Transpose", "Identity"):
            node = self.slicer.producer.get(self.slicer.nodes[node].input[0])
        return node if node is not None and same_kind(kind, self.slicer.nodes[node].op_type) else None
