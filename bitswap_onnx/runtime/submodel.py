"""Sub-models as loaded sessions: arrays in, arrays out."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import onnx
from numpy.typing import NDArray

from bitswap_onnx.graph.model import Model
from bitswap_onnx.graph.nodes import subgraphs
from bitswap_onnx.runtime.failures import failure
from bitswap_onnx.runtime.memory import aligned, is_aligned
from bitswap_onnx.runtime.session import Numerics, load

#: Operators whose result may depend on the sign of a zero.
_BY_SIGN_OF_ZERO = frozenset(("Div", "Reciprocal", "Pow", "BitCast"))


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

    def run(self, feeds: dict[str, NDArray[Any]]) -> list[NDArray[Any]]:
        """Return all outputs for one batch; raises ModelError if the runtime fails."""
        return self.values(self.outputs, feeds)

    def run_into(self, feeds: dict[str, NDArray[Any]], outputs: dict[str, NDArray[Any]]) -> None:
        """Write the ``outputs`` for one batch into the given C-contiguous arrays of their shapes; errors as `run`."""
        if not all(map(is_aligned, outputs.values())):
            for array, output in zip(outputs.values(), self.values([*outputs], feeds), strict=True):
                array[...] = output
            return
        binding = self.handle.io_binding()
        for name, array in feeds.items():
            binding.bind_cpu_input(name, aligned(array))
        for name, array in outputs.items():
            target = "cpu", 0, array.dtype, array.shape, array.ctypes.data
            self._checked(binding.bind_output, name, *target)
        self._checked(self.handle.run_with_iobinding, binding)

    @staticmethod
    def _checked(call: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return call(*arguments)
        except Exception as error:
            raise failure("cannot run a part of the model", error) from None


def _aligned(feeds: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    return {name: aligned(array) for name, array in feeds.items()}


def open_part(model: Model, numerics: Numerics, blocked: bool = False) -> Submodel:
    """Load a sub-model with the inputs and outputs that its graph declares; errors as `open_session`.

    ``blocked``: its images enter in the blocked layout, as between NCHWc kernels inside the whole model; otherwise in the
    plain layout, as the input of the whole model. Where a node tells -0 from 0, they enter in the plain layout anyway.
    """
    handle = load(_entering_blocked(model) if blocked and not _tells_zeros_apart(model) else model, numerics)
    return Submodel(handle, tuple(value.name for value in handle.get_outputs()))


def _entering_blocked(model: Model) -> Model:
    """Return a model whose four-dimensional inputs each pass an average pool of single pixels, which changes no number.

    (The pool turns -0 into 0; most nodes compute equal numbers from either, and scores compare equal.)

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


def _tells_zeros_apart(model: Model) -> bool:
    """Whether a node, or one in a branch, may compute another number from -0 than from 0: -Inf in place of Inf."""
    waiting = [*model.proto.graph.node]
    for node in waiting:
        waiting += [inner for _, graph in subgraphs(node) for inner in graph.node]
    return any(node.op_type in _BY_SIGN_OF_ZERO for node in waiting)
