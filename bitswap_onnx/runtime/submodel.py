"""Sub-models as loaded sessions: values in, values out, as arrays or on a device."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

from bitswap_onnx.errors import ModelError, one_line
from bitswap_onnx.graph.model import Model
from bitswap_onnx.runtime.memory import aligned, is_aligned
from bitswap_onnx.runtime.session import Numerics, load


@dataclass(frozen=True, eq=False)
class Submodel:
    """A loaded sub-model; its inputs and outputs are values with one row per dataset input."""

    handle: Any = field(repr=False)
    outputs: tuple[str, ...]

    @cached_property
    def inputs(self) -> tuple[str, ...]:
        """Names of the values that it takes."""
        return tuple(value.name for value in self.handle.get_inputs())

    def values(self, names: Sequence[str], feeds: dict[str, NDArray[Any]]) -> list[NDArray[Any]]:
        """Return the outputs ``names`` for one batch of arrays; errors as `run`."""
        return list(self._checked(self.handle.run, names, _aligned(feeds)))

    def run(self, feeds: dict[str, Any]) -> list[NDArray[Any]]:
        """Return all outputs for one batch of arrays or device values; raises ModelError if the runtime fails."""
        if all(isinstance(value, np.ndarray) for value in feeds.values()):
            return list(self._checked(self.handle.run, self.outputs, _aligned(feeds)))
        binding = self._binding(feeds)
        for name in self.outputs:
            binding.bind_output(name, "cpu")
        self._checked(self.handle.run_with_iobinding, binding)
        return list(binding.copy_outputs_to_cpu())

    def run_on(self, feeds: dict[str, Any], device: str) -> list[Any]:
        """Return all outputs for one batch as values that stay on a device (``cuda``, ``cpu``); errors as `run`."""
        binding = self._binding(feeds)
        for name in self.outputs:
            binding.bind_output(name, device, 0)
        self._checked(self.handle.run_with_iobinding, binding)
        return list(binding.get_outputs())

    def run_into(self, feeds: dict[str, NDArray[Any]], outputs: dict[str, NDArray[Any]]) -> None:
        """Write the ``outputs`` for one batch into the given C-contiguous arrays of their shapes; errors as `run`."""
        if not all(map(is_aligned, outputs.values())):
            for array, output in zip(outputs.values(), self.values([*outputs], feeds), strict=True):
                array[...] = output
            return
        binding = self._binding(feeds)
        for name, array in outputs.items():
            target = "cpu", 0, array.dtype, array.shape, array.ctypes.data
            self._checked(binding.bind_output, name, *target)
        self._checked(self.handle.run_with_iobinding, binding)

    def _binding(self, feeds: dict[str, Any]) -> Any:
        binding = self.handle.io_binding()
        for name, value in feeds.items():
            if isinstance(value, np.ndarray):
                binding.bind_cpu_input(name, aligned(value))
            else:
                binding.bind_ortvalue_input(name, value)
        return binding

    @staticmethod
    def _checked(call: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return call(*arguments)
        except Exception as error:  # the runtime's exceptions share no base class
            raise ModelError(f"ONNX Runtime cannot run a part of the model: {one_line(error)}") from None


def _aligned(feeds: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    return {name: aligned(array) for name, array in feeds.items()}


def to_device(array: NDArray[Any], device: str) -> Any:
    """Return a copy of an array as a value on a device (``cuda`` or ``cpu``)."""
    return ort.OrtValue.ortvalue_from_numpy(array, device, 0)


def open_part(model: Model, numerics: Numerics, blocked: bool = False) -> Submodel:
    """Load a sub-model with the inputs and outputs that its graph declares; errors as `open_session`.

    ``blocked``: its images enter in the blocked layout, as between NCHWc kernels inside the whole model; otherwise in the
    plain layout, as the input of the whole model.
    """
    handle = load(_entering_blocked(model) if blocked else model, numerics)
    return Submodel(handle, tuple(value.name for value in handle.get_outputs()))


def _entering_blocked(model: Model) -> Model:
    """Return a model whose four-dimensional inputs each pass an average pool of single pixels, which changes no number.

    (The pool turns -0 into 0; the nodes behind it compute equal numbers from either, and scores compare equal.)

    The runtime has no operator that only changes the layout. It chooses the layout of a value by the node that makes it:
    the value behind a pool is blocked, and the nodes behind it are fused and computed as inside the whole model.
    """
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    images = {v.name for v in proto.graph.input if len(v.type.tensor_type.shape.dim) == 4}
    nodes = list(proto.graph.node)
    for node in nodes:
        for slot, name in enumerate(node.input):
            node.input[slot] = f"blocked::{name}" if name in images else name
    pools = [onnx.helper.make_node("AveragePool", [n], [f"blocked::{n}"], kernel_shape=[1, 1]) for n in sorted(images)]
    del proto.graph.node[:]
    proto.graph.node.extend([*pools, *nodes])
    return Model(proto, model.name, model.folder, sha256="")
