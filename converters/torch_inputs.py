"""The input of a PyTorch network: what its source tells of shape and type, what the user says, and both settled."""

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import TYPE_CHECKING

from bitswap_onnx.errors import ModelError, check_choice, shown

if TYPE_CHECKING:
    import torch

#: Element types that inputs may have, under the names that PyTorch and numpy share.
INPUT_DTYPES = (
    *("float32", "float16", "bfloat16", "float64"),
    *("int64", "int32", "int16", "int8", "uint8", "bool"),
)

#: Other names of these in PyTorch and ONNX.
_ALIASES = {"float": "float32", "double": "float64", "half": "float16", "long": "int64", "int": "int32"}


@dataclass(frozen=True)
class InputForm:
    """One input, without the batch, as the source of a network tells it.

    ``sizes`` has None for a size that is open, and is None where not even the number of sizes is known. ``usual`` are the
    sizes to take where the user gives none. ``dtype`` is the one element type that fits, None where that is unknown.
    """

    sizes: tuple[int | None, ...] | None = None
    usual: tuple[int, ...] | None = None
    dtype: str | None = None


def settle_input(
    form: InputForm, shape: Sequence[int] | None = None, dtype: str | None = None
) -> tuple[tuple[int, ...], str | None, tuple[str, ...]]:
    """Return the shape of one input without the batch, its element type (None: that of the parameters), and notes.

    ``shape`` and ``dtype`` are what the user gives. A ``shape`` that has one size more than the source tells begins with
    the batch. Raises ModelError where a shape is needed, and where shape or type contradict the source.
    """
    dtype = None if dtype is None else input_dtype_name(dtype)
    if form.dtype is not None and dtype not in (None, form.dtype):
        raise ModelError(f"`input_dtype`: the network takes {form.dtype}, found {dtype}; leave it out")
    dtype = dtype or form.dtype
    if shape is None:
        if form.usual is None:
            raise ModelError(f"`input_shape`: expected the shape of one input without the batch, {_wanted(form)}")
        return form.usual, dtype, (f"input shape {_text(form.usual)}, which the network's source gives",)
    if form.sizes is None:
        doubtful = len(shape) > 1 and shape[0] == 1
        note = f"one input has the shape {_text(shape)}; if its first size is the batch, leave that out"
        return tuple(shape), dtype, (note,) if doubtful else ()
    inner = tuple(shape[len(shape) == len(form.sizes) + 1 :])
    fits = len(inner) == len(form.sizes) and all(
        size in (None, given) for size, given in zip(form.sizes, inner, strict=True)
    )
    if not fits:
        raise ModelError(
            f"`input_shape`: expected the shape of one input without the batch, {_wanted(form)}; found {_text(shape)}"
        )
    if len(inner) < len(shape):
        return inner, dtype, (f"input shape {_text(inner)}: the first size of {_text(shape)} is the batch",)
    return inner, dtype, ()


def input_dtype_name(text: str) -> str:
    """Return the name in `INPUT_DTYPES` of an element type, also for ``torch.long`` or ONNX's ``FLOAT``."""
    name = text.lower().removeprefix("torch.")
    return check_choice("input_dtype", _ALIASES.get(name, name), INPUT_DTYPES)


def torch_dtype(name: str) -> "torch.dtype":
    """Return PyTorch's element type for a name that `input_dtype_name` takes."""
    import torch

    dtype = getattr(torch, input_dtype_name(name))
    assert isinstance(dtype, torch.dtype)
    return dtype


def check_module(module: object) -> None:
    """Raise ModelError for anything but a module."""
    from torch import nn

    if not isinstance(module, nn.Module):
        raise ModelError(
            f"`module`: expected a torch.nn.Module, found {shown(module)}; give an instance, not its class"
        )


def example_form(example: object) -> tuple[tuple[int, ...], str | None]:
    """Return the shape of one input, and the name of the element type where an example of whole numbers gives it.

    ``example``: an array or tensor (batch, ...), or the shape of one input without the batch. Raises ModelError for
    anything else.
    """
    shape, dtype = getattr(example, "shape", None), getattr(example, "dtype", None)
    if shape is None:
        if isinstance(example, Sequence) and all(isinstance(size, Integral) and int(size) > 0 for size in example):
            return tuple(map(int, example)), None
        raise ModelError(
            "`example_input`: expected inputs (batch, ...) as a tensor or array, or positive sizes of one input like "
            f"(3, 32, 32), found {shown(example)}"
        )
    if len(shape) < 2 or not all(shape):
        raise ModelError(
            f"`example_input`: expected one or more inputs (batch, ...), found the shape {tuple(shape)}; x[None] is a batch "
            "of one"
        )
    name = str(dtype).removeprefix("torch.")
    return tuple(map(int, shape[1:])), None if "float" in name else input_dtype_name(name)


def _wanted(form: InputForm) -> str:
    if form.sizes is None:
        return "like 3,32,32; the network's source does not give it"
    text = _text(["?" if size is None else size for size in form.sizes])
    return f"{text} (? is any size)" if None in form.sizes else text


def _text(sizes: Sequence[int | str]) -> str:
    return ",".join(map(str, sizes))
