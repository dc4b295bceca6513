"""PyTorch module → ONNX file: every parameter bit for bit, under its PyTorch name and in its PyTorch layout.

With optimisation, `torch.onnx.export` folds batch-norm into the convolutions, and so changes the weights that a fault list
names. Here it does not optimise. The nodes that remain (shapes, casts, expanded constants) are folded by a pass that cannot
read the parameters, and the file is read back and compared before it appears.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx_ir as ir
from numpy.typing import NDArray

from bitswap_onnx.converters.bit_exact import ExportedModel, write_bit_exact
from bitswap_onnx.converters.simplify import simplify
from bitswap_onnx.converters.torch_checkpoint import load_state_dict_file, require_torch
from bitswap_onnx.converters.torch_inputs import INPUT_DTYPES, check_module, example_form, torch_dtype
from bitswap_onnx.converters.torch_taps import tapped
from bitswap_onnx.converters.torch_trace import check_runs, trace_module
from bitswap_onnx.errors import ModelError, check_path
from bitswap_onnx.graph.model import METADATA_KEY, name_in_files

if TYPE_CHECKING:
    import torch

__all__ = ["INPUT_DTYPES", "TORCH_OPSETS", "ExportedModel", "export_torch", "load_state_dict_file", "require_torch"]

#: Opsets that the exporter can write (it has none below) and that every runtime takes.
TORCH_OPSETS = range(18, 21)


@dataclass(frozen=True)
class _State:
    """A module's parameters and buffers by name; ``first`` is the name under which a tied one is stored."""

    tensors: dict[str, "torch.Tensor"]
    first: dict[str, str]
    persistent: frozenset[str]

    @property
    def aliases(self) -> dict[str, str]:
        return {name: first for name, first in self.first.items() if name != first}


def export_torch(
    module: "torch.nn.Module",
    example_input: object,
    out: str | Path | None = None,
    *,
    opset: int = 20,
    input_dtype: str | None = None,
) -> ExportedModel:
    """Return ``module`` at inference as an ONNX model, every parameter compared with the module's, bit for bit.

    ``example_input``: a tensor or array of one or more inputs, (batch, ...), of which only shape and element type count;
    or the shape of one input without the batch, like ``(3, 32, 32)``. In the model, ``input`` is (batch, ...) with a free
    batch dimension, and ``output`` is the output of the module (the first of several). ``out``: the file to write; None:
    the model stays in memory. ``input_dtype``, one of `INPUT_DTYPES`, is the element type of inputs: ``int64`` for token
    ids; by default that of an example of whole numbers, else that of the parameters.

    A module in training mode is exported as it computes at inference (dropout off, batch-norm with its running values).
    Its mode, hooks and parameters are unchanged afterwards. The model has, as JSON under
    `bitswap_onnx.graph.model.METADATA_KEY`, the parameters and values of each module.

    Raises ModelError for a wrong shape, type or opset and for a module that cannot be traced with any batch size,
    ControlFailedError (and writes nothing) for a parameter that is missing or differs, MissingExtraError without PyTorch.
    """
    require_torch()
    check_module(module)
    input_shape, own_dtype = example_form(example_input)
    input_dtype = input_dtype or own_dtype
    target = name_in_files(type(module).__name__) if out is None else check_path("out", out)
    if opset not in TORCH_OPSETS:
        raise ModelError(f"`opset`: expected {TORCH_OPSETS[0]} to {TORCH_OPSETS[-1]}, found {opset!r}")
    dtype = None if input_dtype is None else torch_dtype(input_dtype)
    if dtype is not None:
        check_runs(module, input_shape, dtype)
    state = _state(module)
    with tapped(module) as taps:
        program = trace_module(module, input_shape, dtype, opset)
    model: ir.Model = program.model
    read = {state.first[name] for name in _read_names(program, len(taps.tensors))}
    taps.detach(model)
    _settle_names(model, state)
    hidden = {name: value for name, value in model.graph.initializers.items() if name in state.tensors}
    replaced = simplify(model, hidden)
    modules, vanished = taps.locate(model, replaced)
    stored = [name for name in state.tensors if name in read]
    unused = [name for name in state.tensors if name in state.persistent and state.first[name] not in read]
    tied = {name: first for name, first in state.aliases.items() if first in read}
    metadata = {
        **_origin(),
        "parameters": _parameter_entries([name for name in stored if name in state.persistent], tied),
        "modules": modules,
        "vanished": vanished,
        "tied": tied,
        "unused": unused,
    }
    model.metadata_props[METADATA_KEY] = json.dumps(metadata)
    written = write_bit_exact(model, {name: _elements(state.tensors[name]) for name in stored}, target)
    return ExportedModel(
        **vars(written), parameters=tuple(stored), tied=tied, unused=tuple(unused), vanished=tuple(vanished)
    )


def _state(module: "torch.nn.Module") -> _State:
    persistent = module.state_dict(keep_vars=True)
    tensors = {**persistent, **dict(module.named_buffers())}
    first: dict[str, str] = {}
    memory: dict[object, str] = {}
    for name, tensor in tensors.items():
        place = (tensor.device, tensor.data_ptr() or id(tensor), tensor.dtype, tensor.shape, tensor.stride())
        first[name] = memory.setdefault(place, name)
    return _State(tensors, first, frozenset(persistent))


def _read_names(program: "torch.onnx.ONNXProgram", taps: int) -> set[str]:
    """Return the parameters and buffers that the traced outputs depend on, without the last ``taps`` outputs."""
    traced = program.exported_program
    assert traced is not None
    output = next(iter(reversed(traced.graph.nodes)))
    results = output.args[0][: len(output.args[0]) - taps]
    waiting = [node for node in output.all_input_nodes if node in results]
    reached = set(waiting)
    while waiting:
        new = [node for node in waiting.pop().all_input_nodes if node not in reached]
        reached.update(new)
        waiting.extend(new)
    signature = traced.graph_signature
    names = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    return {names[node.name] for node in reached if node.name in names}


def _settle_names(model: ir.Model, state: _State) -> None:
    """Keep one initializer of each tied parameter, under its first name; rename values that have a parameter's name.

    The exporter may keep any name of a tied parameter, or several copies. It names values after operators: the result of
    ``x.mean()`` can get the name of a buffer ``mean``.
    """
    initializers = model.graph.initializers
    for name, first in state.aliases.items():
        if name in initializers and first in initializers:
            ir.convenience.replace_all_uses_with(initializers[name], initializers[first])
            del initializers[name]
        elif name in initializers:
            initializers[name].name = first
    for value in (*model.graph.inputs, *(output for node in model.graph for output in node.outputs)):
        if value.name in state.tensors:
            value.name = f"{value.name}_value"


def _origin() -> dict[str, object]:
    import onnxscript
    import torch

    return {
        "version": 1,
        "framework": "torch",
        "framework_version": torch.__version__,
        "exporter": f"torch.onnx.export(dynamo=True, optimize=False), onnxscript {onnxscript.__version__}",
        "layout": "torch",
    }


def _parameter_entries(names: list[str], tied: Mapping[str, str]) -> dict[str, dict[str, object]]:
    entries: dict[str, dict[str, object]] = {}
    for name in names:
        layer, _, parameter = name.rpartition(".")
        entries[name] = {"layer": layer, "parameter": parameter}
        if aliases := [alias for alias, first in tied.items() if first == name]:
            entries[name]["aliases"] = aliases
    return entries


def _elements(tensor: "torch.Tensor") -> NDArray[Any]:
    """Return the tensor's elements; dtypes that numpy lacks come as integers of the same width."""
    import torch

    tensor = tensor.detach().cpu().contiguous()
    try:
        return tensor.numpy()
    except TypeError:
        return tensor.view({1: torch.uint8, 2: torch.int16}[tensor.element_size()]).numpy()
