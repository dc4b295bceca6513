"""Finds the ONNX value of each PyTorch module's output, by taps on the modules while the model is traced.

The exporter's metadata names the module of each node, but not modules without nodes (``Identity``, ``Dropout`` at
inference). Taps find these too: hooks copy the input and the output of every module to extra graph outputs, which are
removed before the graph is simplified.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from bitswap_onnx.converters.native import LayerCall

if TYPE_CHECKING:
    import torch


@dataclass
class _Call:
    """One call of one module: positions of its first input and first output in the taps, None for no tensor."""

    entered: int | None
    left: int | None = None


@dataclass
class Taps:
    """The inputs and outputs of each module, in the order of the trace."""

    types: dict[str, str] = field(default_factory=dict)
    calls: dict[str, list[_Call]] = field(default_factory=dict)
    tensors: list["torch.Tensor"] = field(default_factory=list)
    values: list[ir.Value] = field(default_factory=list)

    def detach(self, model: ir.Model) -> None:
        """Remove the extra outputs from ``model`` and keep the values that they gave."""
        outputs = model.graph.outputs
        first = len(outputs) - len(self.tensors)
        self.values = [_behind_identities(value) for value in outputs[first:]]
        del outputs[first:]
        self.tensors.clear()

    def locate(self, model: ir.Model, replaced: Mapping[str, ir.Value]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return (modules, vanished): module path → its ``type`` and the ``value`` of its output in ``model``.

        A module that was called several times has the ``value`` of the last call and the ``values`` of all calls. Vanished
        modules return their input unchanged. ``replaced``: names of values that a simplification removed → the values
        that replace them.
        """
        known = {value.name for node in model.graph for value in node.outputs}
        known.update(value.name for value in (*model.graph.inputs, *model.graph.initializers.values()))
        names = [_final_name(value, replaced) for value in self.values]
        modules: dict[str, Any] = {}
        vanished: dict[str, Any] = {}
        for path, calls in self.calls.items():
            ends = [
                (None if call.entered is None else names[call.entered], names[call.left])
                for call in calls
                if call.left is not None and names[call.left] in known
            ]
            if not ends:
                continue
            left = [name for _, name in ends]
            entry: dict[str, Any] = {"type": self.types[path], "value": left[-1]}
            if len(left) > 1:
                entry["values"] = left
            passes = bool(path) and all(before == after for before, after in ends)
            (vanished if passes else modules)[path] = entry
        return modules, vanished

    def results(self) -> dict[str, list[LayerCall]]:
        """Return, after a run without tracing, module path → input and output of each of its calls."""
        return {
            path: [
                (self._array(call.entered), np.asarray(self.tensors[call.left]))
                for call in calls
                if call.left is not None
            ]
            for path, calls in self.calls.items()
        }

    def _array(self, position: int | None) -> NDArray[Any] | None:
        return None if position is None else np.asarray(self.tensors[position])

    def enter(self, path: str, arguments: Any) -> None:
        """Record a call of the module ``path``; a call of the root starts a new trace."""
        if not path:
            self.calls.clear()
            self.tensors.clear()
        self.calls.setdefault(path, []).append(_Call(self._tap(arguments)))

    def leave(self, path: str, output: Any) -> Any:
        """Record the output of the module ``path``; the root returns its output and all taps."""
        self.calls[path][-1].left = self._tap(output)
        return None if path else (output, tuple(self.tensors))

    def _tap(self, value: Any) -> int | None:
        import torch

        if isinstance(value, (tuple, list)) and value:
            value = value[0]
        if not isinstance(value, torch.Tensor):
            return None
        self.tensors.append(value.clone())
        return len(self.tensors) - 1


@contextmanager
def tapped(module: "torch.nn.Module") -> Iterator[Taps]:
    """Attach hooks to ``module`` and every module below it while it is traced."""
    taps = Taps()
    handles = []
    for path, child in module.named_modules():
        taps.types[path] = type(child).__name__
        handles.append(
            child.register_forward_pre_hook(lambda _, inputs, path=path: taps.enter(path, inputs), prepend=True)
        )
        handles.append(child.register_forward_hook(lambda _, __, output, path=path: taps.leave(path, output)))
    try:
        yield taps
    finally:
        for handle in handles:
            handle.remove()


def _behind_identities(value: ir.Value) -> ir.Value:
    node = value.producer()
    while node is not None and node.op_type == "Identity" and node.inputs[0] is not None:
        value = node.inputs[0]
        node = value.producer()
    return value


def _final_name(value: ir.Value, replaced: Mapping[str, ir.Value]) -> str:
    name = value.name or ""
    seen: set[str] = set()
    while name in replaced and name not in seen:
        seen.add(name)
        name = replaced[name].name or ""
    return name
