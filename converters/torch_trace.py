"""Traces a PyTorch module at inference for any batch size; where that fails, tells which form of input it takes."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from bitswap_onnx.converters.silence import silenced
from bitswap_onnx.errors import ModelError

if TYPE_CHECKING:
    import torch

#: Warnings of PyTorch about its own code: deprecated calls, recurrent layers that reorder their weights.
_NOISY_WARNINGS: tuple[tuple[str, type[Warning]], ...] = (
    (r"`isinstance\(treespec, LeafSpec\)` is deprecated", FutureWarning),
    (r"_check_is_size will be removed", FutureWarning),
    (r"The tensor attributes? .*_flat_weights", UserWarning),
    (r"The \.grad attribute of a Tensor that is not a leaf", UserWarning),
)

#: Loggers that report a missing torchvision, or print a traceback for an error that is raised as well.
_NOISY_LOGGERS = (
    "torch.onnx._internal.exporter._registration",
    "torch._subclasses.fake_tensor",
    "torch.export._trace",
)


def check_runs(module: "torch.nn.Module", input_shape: tuple[int, ...], dtype: "torch.dtype") -> None:
    """Raise ModelError where the module itself refuses inputs (batch, *input_shape); the exporter lets some types pass."""
    with _at_inference(module), _quiet():
        refusal = _refusal(module, input_shape, dtype)
        if refusal is not None:
            raise _failure(module, input_shape, dtype, refusal) from refusal


def trace_module(
    module: "torch.nn.Module", input_shape: tuple[int, ...], dtype: "torch.dtype | None", opset: int
) -> "torch.onnx.ONNXProgram":
    """Return the module at inference as an ONNX program for (batch, *input_shape), not optimised.

    ``dtype`` None is the type of the module's parameters. Raises ModelError for a module that cannot be traced with such
    inputs or with any batch size.
    """
    import torch

    name = type(module).__name__
    with _at_inference(module), _quiet():
        try:
            program = torch.onnx.export(
                module,
                (_example(module, input_shape, dtype),),
                dynamo=True,
                optimize=False,
                verbose=False,
                opset_version=opset,
                input_names=["input"],
                output_names=["output"],
                dynamic_shapes=({0: "batch"},),
            )
        except torch.onnx.errors.OnnxExporterError as error:
            raise _failure(module, input_shape, dtype, error) from error
    assert program is not None
    batch = program.model.graph.inputs[0].shape
    if batch is None or isinstance(batch[0], int):
        raise ModelError(
            f"{name}: its forward works for one batch size only; make it work for any (no fixed view sizes)"
        )
    return program


def _failure(
    module: "torch.nn.Module", shape: tuple[int, ...], dtype: "torch.dtype | None", error: Exception
) -> ModelError:
    inputs = ", ".join(map(str, ("batch", *shape)))
    return ModelError(
        f"{type(module).__name__}: PyTorch cannot export it for inputs ({inputs}): {_root_cause(error)}"
        f"{_advice(module, shape, dtype)}"
    )


def _example(module: "torch.nn.Module", input_shape: tuple[int, ...], dtype: "torch.dtype | None") -> "torch.Tensor":
    """Return two inputs of zeros, which are valid token ids too."""
    import torch

    like = next((tensor for tensor in module.parameters() if tensor.is_floating_point()), torch.empty(0))
    return torch.zeros(2, *input_shape, dtype=dtype or like.dtype, device=like.device)


def _advice(module: "torch.nn.Module", shape: tuple[int, ...], dtype: "torch.dtype | None") -> str:
    """Return the nearest form of input that the module runs with, if it refuses the given one, as the end of a message."""
    import torch

    if _refusal(module, shape, dtype) is None:
        return ""
    shapes = [shape, shape[1:]] if len(shape) > 1 else [shape]
    for other_shape, other in ((each, kind) for each in shapes for kind in (dtype, torch.int64, None)):
        if _refusal(module, other_shape, other) is None:
            parts = []
            if other_shape != shape:
                parts.append(f"`input_shape` {','.join(map(str, other_shape))} (one input, without the batch)")
            if other != dtype:
                kind = str(_example(module, (), other).dtype).removeprefix("torch.")
                parts.append(f"`input_dtype` {kind}")
            return f"; it runs with {' and '.join(parts)}"
    return ""


def _refusal(module: "torch.nn.Module", shape: tuple[int, ...], dtype: "torch.dtype | None") -> Exception | None:
    """Return the exception that the module raises for such inputs, None where it runs."""
    import torch

    try:
        with torch.no_grad():
            module(_example(module, shape, dtype))
    except Exception as error:  # the module's own code raises what it likes
        return error
    return None


@contextmanager
def evaluating(module: "torch.nn.Module") -> Iterator[None]:
    """Switch a module to inference for a while; then each of its parts has the mode that it had."""
    modes = [(child, child.training) for child in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for child, training in modes:
            child.training = training


@contextmanager
def _at_inference(module: "torch.nn.Module") -> Iterator[None]:
    """Switch to inference for a while, without the fused attention kernels, which cannot be exported."""
    import torch

    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with evaluating(module):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the warnings of PyTorch about its own code during an export; failures still raise."""
    with warnings.catch_warnings(), silenced(_NOISY_LOGGERS):
        for message, category in _NOISY_WARNINGS:
            warnings.filterwarnings("ignore", message, category)
        yield


def _root_cause(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return " ".join(str(error).split())[:300]
