"""The signature of a model: its one input, and the output that holds the scores."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx

from bitswap_onnx.errors import ModelError
from bitswap_onnx.graph.model import Model

#: Operators that change no score.
_KEEPS_SCORES = frozenset({"Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Cast", "Dropout"})

#: Element types that inputs may have: those that numpy can hand to the runtime.
_INPUT_TYPES = frozenset(
    onnx.helper.np_dtype_to_tensor_dtype(np.dtype(kind))
    for kind in ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "?")
)


#: Inputs of a model's fixed batch, at most.
MOST_INPUTS = 1 << 20


@dataclass(frozen=True)
class ModelInput:
    """The model's input: ``shape`` without the batch dimension; ``batch`` is its fixed batch size, or None."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    batch: int | None


@dataclass(frozen=True)
class OpenInput:
    """The model's input as the model declares it: ``dims`` without the batch dimension; None: open."""

    model: str
    name: str
    dtype: np.dtype[Any]
    dims: tuple[int | None, ...]
    batch: int | None

    def settled(self, shape: Sequence[int] | None) -> ModelInput:
        """Return the input with the sizes of ``shape``; raises ModelError for open dimensions or a contradiction."""
        found = "(batch, " + ", ".join("?" if dim is None else str(dim) for dim in self.dims) + ")"
        if shape is None:
            if any(dim is None for dim in self.dims):
                example = ",".join(str(dim or 224) for dim in self.dims)
                raise ModelError(
                    f"{self.model}: the input shape {found} leaves more than the batch open; give its sizes with "
                    f"`input_shape`, for example {example}"
                )
            shape = tuple(dim for dim in self.dims if dim is not None)
        fits = len(shape) == len(self.dims) and all(dim in (None, n) for dim, n in zip(self.dims, shape, strict=True))
        if not fits or any(n < 1 for n in shape):
            raise ModelError(
                f"{self.model}: `input_shape` {','.join(map(str, shape))} does not fit the input shape {found}"
            )
        return ModelInput(self.name, self.dtype, tuple(shape), self.batch)


def model_input(model: Model, shape: Sequence[int] | None = None) -> ModelInput:
    """Return the model's one input.

    ``shape``, without the batch dimension, gives sizes to dimensions that the model leaves open. Raises ModelError as
    `open_input`, for open dimensions without a size, and for a shape that contradicts the model's.
    """
    return open_input(model).settled(shape)


def open_input(model: Model) -> OpenInput:
    """Return the model's one input as it is declared.

    Raises ModelError for a model with several inputs or none, and for an input without a batch dimension or of a type
    that numpy lacks.
    """
    stored = {tensor.name for tensor in model.proto.graph.initializer}
    inputs = [value for value in model.proto.graph.input if value.name not in stored]
    if len(inputs) != 1:
        names = ", ".join(value.name for value in inputs) or "none"
        raise ModelError(f"{model.name}: expected a model with one input, found {len(inputs)} ({names})")
    tensor = inputs[0].type.tensor_type
    if not tensor.elem_type or not tensor.HasField("shape") or not tensor.shape.dim:
        raise ModelError(
            f"{model.name}: expected an input with a batch dimension, found no shape declared for {inputs[0].name}; "
            "export the model with that shape"
        )
    if tensor.elem_type not in _INPUT_TYPES:
        kind = onnx.TensorProto.DataType.Name(tensor.elem_type)
        raise ModelError(
            f"{model.name}: expected an input of a number type that numpy has (float32, ...), found {kind} for "
            f"{inputs[0].name}"
        )
    if tensor.shape.dim[0].dim_value > MOST_INPUTS:
        raise ModelError(
            f"{model.name}: expected a batch of at most {MOST_INPUTS:,} inputs, found {tensor.shape.dim[0].dim_value:,}; "
            "export the model with an open batch dimension"
        )
    dims = [dim.dim_value if dim.dim_value > 0 else None for dim in tensor.shape.dim]  # some write -1 for open
    dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type))
    return OpenInput(model.name, inputs[0].name, dtype, tuple(dims[1:]), dims[0])


def score_output(model: Model, name: str | None = None, classes: bool = True) -> str:
    """Return the name of the output that holds the scores: shape (batch, classes) with at least two classes.

    ``name`` chooses an output; ``classes`` False allows any shape, for a tolerance criterion. Raises ModelError if no
    output or several fit. An output of undeclared shape counts as fitting; the golden run checks its shape.
    """
    outputs = {value.name: _rank_and_classes(value) for value in model.proto.graph.output}
    if name is not None:
        if name not in outputs:
            raise ModelError(f"{model.name}: no output {name!r}; the outputs are {', '.join(outputs)}")
        fitting = [name] if not classes or _is_score(outputs[name]) else []
    else:
        fitting = [output for output, shape in outputs.items() if not classes or _is_score(shape)]
    if not fitting:
        raise ModelError(
            f"{model.name}: expected an output of shape (batch, classes >= 2), found {_declared(model.proto.graph)}; for a "
            "model that is no classifier pass `criterion` tolerance=REL"
        )
    if len(fitting) > 1:
        raise ModelError(f"{model.name}: several outputs fit ({', '.join(fitting)}); choose one with `output`")
    return fitting[0]


def ends_in_softmax(model: Model, output: str) -> bool:
    """Whether the scores of ``output`` are probabilities: whether a Softmax computes them."""
    makers = {name: node for node in model.proto.graph.node for name in node.output}
    node = makers.get(output)
    while node is not None and node.op_type in _KEEPS_SCORES and node.input:
        node = makers.get(node.input[0])
    return node is not None and node.op_type == "Softmax"


def _declared(graph: onnx.GraphProto) -> str:
    """Return the outputs of a graph with their declared shapes, as text."""
    texts = []
    for value in graph.output:
        dims = value.type.tensor_type.shape.dim
        sizes = ", ".join(dim.dim_param or (str(dim.dim_value) if dim.dim_value > 0 else "?") for dim in dims)
        texts.append(f"{value.name} ({sizes})")
    return ", ".join(texts)


def _rank_and_classes(value: onnx.ValueInfoProto) -> tuple[int | None, int | None]:
    tensor = value.type.tensor_type
    if not tensor.HasField("shape"):
        return None, None
    dims = tensor.shape.dim
    last = dims[-1].dim_value if dims and dims[-1].HasField("dim_value") else None
    return len(dims), last


def _is_score(shape: tuple[int | None, int | None]) -> bool:
    rank, classes = shape
    return rank in (None, 2) and (classes is None or classes >= 2)
