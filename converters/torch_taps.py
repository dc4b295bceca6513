"""Which ONNX value each PyTorch module's output became: found by tapping the modules while the model is traced.

Node metadata of the exporter names the module of a node, but says nothing about modules without nodes (``Identity``,
``Dropout`` at inference). Taps see those too: hooks copy what enters and leaves every module to extra graph outputs,
which are taken off again before the graph is simplified.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch


#: What one call of a layer took in, if that was a tensor, and what it put out.
LayerCall = tuple[NDArray[Any] | None, NDArray[Any]]


@dataclass
class _Call:
    """One call of one module: positions of its first input and first output among the taps, None for no tensor."""

    entered: int | None
    left: int | None = None


@dataclass
class Taps:
    """What entered and left each module, in the order in which the trace met it."""

    types: dict[str, str] = field(default_factory=dict)
    calls: dict[str, list[_Call]] = field(default_factory=dict)
    tensors: list["torch.Tensor"] = field(default_factory=list)
    values: list[ir.Value] = field(default_factory=list)

    def detach(self, model: ir.Model) -> None:
        """Take the extra outputs off ``model`` and remember the values behind them."""
        outputs = model.graph.outputs
        first = len(outputs) - len(self.tensors)
        self.values = [_behind_identities(value) for value in outputs[first:]]
        del outputs[first:]
        self.tensors.clear()

    def locate(self, model: ir.Model, replaced: Mapping[str, ir.Value]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return (modules, vanished): by module path its ``type`` and the ``value`` that its output is in ``model``.

        A module that was called several times has the last call's ``value`` and all of them as ``values``. Vanished
        modules hand on what they are given. ``replaced`` maps names of values that a simplification removed to the
        values that stand in for them.
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
        """Return, after a run that is no trace, by module path what each of its calls took in and put out."""
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
        """Note that the module ``path`` is called; the root's call starts a new trace."""
        if not path:
            self.calls.clear()
            self.tensors.clear()
        self.calls.setdefault(path, []).append(_Call(self._tap(arguments)))

    def leave(self, path: str, output: Any) -> Any:
        """Note what the module ``path`` returned; the root returns all taps beside its output."""
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
    """Attach hooks to ``module`` and every module below it for the time that it is traced."""
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
