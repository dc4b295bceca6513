"""The inputs and outputs of a Keras model: names, shapes, dtypes, and seeded inputs to try the model on."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bitswap_onnx.errors import ModelError

if TYPE_CHECKING:
    import keras

#: Sizes for open dimensions of a trial input: of images (rank 4 and above with the batch), and of anything else.
_OPEN_IMAGE, _OPEN = 96, 12
_SEED = 2023


@dataclass(frozen=True)
class KerasInput:
    """An input of a model: ``shape`` is without the batch, None an open size; ``name`` is its name in the ONNX file."""

    name: str
    shape: tuple[int | None, ...]
    dtype: str


def model_inputs(model: "keras.Model", given: Sequence[int | None] | None) -> list[KerasInput]:
    """Return the inputs of a model, in Keras's order; ``given`` is the shape of its one input, None if the model knows."""
    import keras

    inputs = getattr(model, "inputs", None)
    if given is not None and not (inputs and len(inputs) > 1):
        return [KerasInput("input", tuple(given), str(model.input_dtype))]
    if inputs:
        names = ["input"] if len(inputs) == 1 else _distinct([str(tensor.name) for tensor in inputs])
        found = [
            KerasInput(name, tuple(tensor.shape[1:]), str(tensor.dtype))
            for name, tensor in zip(names, inputs, strict=True)
        ]
        for entry in found:
            if entry.dtype == "string":
                raise ModelError(f"{model.name}: its input {entry.name} takes texts; ONNX models here take numbers")
        return found
    built = (model.get_build_config() or {}).get("input_shape") if model.built else None
    if not isinstance(built, list | tuple) or not all(size is None or isinstance(size, int) for size in built):
        kind = "Sequential" if isinstance(model, keras.Sequential) else "subclassed"
        raise ModelError(
            f"{model.name}: the input shape of this {kind} model is unknown; call it once on an input, or pass `input_shape`"
        )
    return [KerasInput("input", tuple(built[1:]), str(model.input_dtype))]


def arranged(model: "keras.Model", tensors: Sequence[Any]) -> Any:
    """Return the tensors of all inputs in the structure that the model is called with: one, a list or a dict."""
    import keras

    structure = getattr(model, "_inputs_struct", None)
    return tensors[0] if structure is None else keras.tree.pack_sequence_as(structure, list(tensors))


def output_names(model: "keras.Model", number: int, taken: Sequence[str]) -> list[str]:
    """Return the names of the outputs in the file: ``output``, or those of Keras's output layers where it has several."""
    if number == 1:
        return ["output"]
    known = list(getattr(model, "output_names", None) or [])
    names = [str(name) for name in known] if len(known) == number else [f"output_{i}" for i in range(number)]
    return _distinct([*taken, *names])[len(taken) :]


def trial_inputs(model: "keras.Model", inputs: Sequence[KerasInput], batch: int) -> list[NDArray[Any]]:
    """Return ``batch`` seeded inputs of each input: standard normal, or whole numbers for models that look numbers up."""
    rng = np.random.default_rng(_SEED)
    ceiling = _ceiling(model)
    arrays: list[NDArray[Any]] = []
    for entry in inputs:
        spare = _OPEN_IMAGE if len(entry.shape) > 2 else _OPEN
        shape = (batch, *(spare if size is None else size for size in entry.shape))
        if ceiling is not None or not entry.dtype.startswith(("float", "bfloat")):
            arrays.append(rng.integers(0, ceiling or 2, shape).astype(entry.dtype))
        else:
            arrays.append(rng.standard_normal(shape).astype(entry.dtype))
    return arrays


def _ceiling(model: "keras.Model") -> int | None:
    """Return the number of entries of the smallest table that a layer looks numbers up in, None without one."""
    layers = model._flatten_layers()
    sizes = [getattr(layer, name, None) for layer in layers for name in ("input_dim", "num_tokens")]
    return min((size for size in sizes if isinstance(size, int) and size > 0), default=None)


def _distinct(names: Sequence[str]) -> list[str]:
    """Return the names, with a number behind each that came before."""
    taken: list[str] = []
    for name in names:
        new, number = name, 1
        while new in taken:
            new, number = f"{name}_{number}", number + 1
        taken.append(new)
    return taken
