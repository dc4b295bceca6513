"""Shapes of all values of a model, and the numbers in small ones, measured in a run."""

import math
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from bitswap_onnx.errors import ModelError
from bitswap_onnx.graph.constants import NotEvaluatedError
from bitswap_onnx.graph.model import Model
from bitswap_onnx.graph.nodes import node_label
from bitswap_onnx.graph.rows import Measured, find_mixing, without_constant_branches
from bitswap_onnx.graph.slices import Slicer
from bitswap_onnx.graph.tensors import read_tensor
from bitswap_onnx.runtime.session import Numerics, Provider
from bitswap_onnx.runtime.submodel import open_part
from bitswap_onnx.runtime.verdicts import digest, kept_verdict

#: Bytes of the values that are outputs of one session, at most, four per element, and those of a value of unknown shape.
_BYTES_PER_RUN, _UNKNOWN_BYTES = 1 << 28, 1 << 24

#: A value with more elements is taken to hold no shape, index or axis.
_SMALL = 4096


def why_one_at_a_time(
    model: Model, output: str, inputs: NDArray[Any], batch: int | None, provider: Provider = "cpu"
) -> str | None:
    """Return why inputs have to run one at a time; None if each row of the scores depends on its own input alone.

    ``inputs`` (n, ...) are some inputs to run; ``batch`` is the model's fixed batch size, None if it is open. A fixed batch
    also runs with its rows rotated by one, which must rotate the scores: stored numbers may differ from row to row. The
    answer is kept (`bitswap_onnx.runtime.verdicts`).
    """
    size = batch or 2
    if size == 1:
        return None
    shape = inputs.shape[1:]
    facts = {
        "model": model.sha256,
        "output": output,
        "one at a time": [size, batch, shape, str(inputs.dtype), provider],
        "tried": digest(_rows(inputs, size + 1)),
    }
    try:
        reason: str | None = kept_verdict(
            facts,
            lambda: _find_reason(model, output, inputs, batch, size, provider),
            lambda kept: kept is None or isinstance(kept, str),
        )
    except ModelError as error:
        return f"the model does not run on batches of {size}: {error}"
    return reason


def _find_reason(
    model: Model, output: str, inputs: NDArray[Any], batch: int | None, size: int, provider: Provider
) -> str | None:
    """As `why_one_at_a_time`, in batches of ``size``; raises ModelError if the model does not run on them."""
    shape = inputs.shape[1:]
    slicer = Slicer(model, output, size, shape)
    with suppress(NotEvaluatedError):  # the If stays and counts as an unknown operator
        slicer = replace(slicer, model=without_constant_branches(slicer))
    numerics = Numerics(provider=provider, threads=0)
    measured = _measure(slicer, _rows(inputs, size), numerics)
    more = None if batch else _measure(slicer, _rows(inputs, size + 1), numerics)
    if batch and not _rotate_with_rows(slicer, _rows(inputs, size), numerics):
        return "the scores of an input depend on its place in the batch"
    slicer = replace(slicer, seen=(measured[0], more[0] if more else {}))
    node = find_mixing(slicer, Measured(measured[0], more and more[0], measured[1]))
    return None if node is None else f"in a batch they would see each other, by {node.op_type} {node_label(node)}"


def with_seen_shapes(slicer: Slicer, inputs: NDArray[Any], numerics: Numerics) -> Slicer:
    """Return a slicer that also knows the shapes that cannot be inferred, measured in a run on some ``inputs`` (n, ...)."""
    names = [name for node in slicer.nodes for name in node.output if name and slicer.dims(name) is None]
    names = [name for name in names if _is_array(slicer, name)]
    declared = next(value for value in slicer.model.proto.graph.input if value.name in slicer.inputs)
    fixed = declared.type.tensor_type.shape.dim[0].dim_value > 0
    if not names:
        return slicer
    try:
        shapes = _measure(slicer, _rows(inputs, slicer.batch), numerics, names)[0]
        more = shapes if fixed else _measure(slicer, _rows(inputs, slicer.batch + 1), numerics, names)[0]
    except ModelError:
        return slicer
    return replace(slicer, seen=(shapes, more))


def _rotate_with_rows(slicer: Slicer, batch: NDArray[Any], numerics: Numerics) -> bool:
    """Whether rotating the rows of a batch by one rotates the scores by one, apart from rounding."""
    part = open_part(slicer.extract(slicer.inputs, (slicer.output,)), numerics)
    straight, rotated = (part.run({slicer.inputs[0]: rows})[0] for rows in (batch, np.roll(batch, 1, axis=0)))
    if straight.shape[:1] != batch.shape[:1]:
        return False
    size = float(np.abs(straight[np.isfinite(straight)]).max(initial=1.0))
    return bool(np.allclose(rotated, np.roll(straight, 1, axis=0), rtol=1e-3, atol=1e-3 * size, equal_nan=True))


def _rows(inputs: NDArray[Any], count: int) -> NDArray[Any]:
    return np.ascontiguousarray(inputs[np.arange(count) % len(inputs)])


def _measure(
    slicer: Slicer, batch: NDArray[Any], numerics: Numerics, names: Sequence[str] | None = None
) -> tuple[dict[str, tuple[int, ...]], dict[str, NDArray[Any]]]:
    """Return the shapes of all values (or of ``names``), and the arrays of those with few elements."""
    (source,) = slicer.inputs
    shapes = {source: batch.shape} | {name: tuple(tensor.dims) for name, tensor in slicer.stored.items()}
    numbers = {name: _stored(slicer, name) for name, shape in shapes.items() if name != source and _is_small(shape)}
    if names is None:
        names = [name for node in slicer.nodes for name in node.output if name and _is_array(slicer, name)]
    if not names:
        return shapes, numbers
    for wanted in _by_bytes(slicer, names):
        part = open_part(slicer.extract(slicer.inputs, wanted), numerics)
        for name, array in zip(part.outputs, part.run({source: batch}), strict=True):
            shapes[name] = array.shape
            if _is_small(array.shape):
                numbers[name] = array
    return shapes, numbers


def _by_bytes(slicer: Slicer, names: Sequence[str]) -> Iterator[Sequence[str]]:
    """Yield ``names``, in order, in parts that are measured together."""
    first, needed = 0, 0
    for number, name in enumerate(names):
        dims = slicer.dims(name)
        bytes_of_name = _UNKNOWN_BYTES if dims is None else 4 * math.prod(dims)
        if first < number and needed + bytes_of_name > _BYTES_PER_RUN:
            yield names[first:number]
            first, needed = number, 0
        needed += bytes_of_name
    yield names[first:]


def _stored(slicer: Slicer, name: str) -> NDArray[Any]:
    return read_tensor(slicer.stored[name], slicer.model.folder)


def _is_small(shape: tuple[int, ...]) -> bool:
    return int(np.prod(shape, dtype=np.int64)) <= _SMALL


def _is_array(slicer: Slicer, name: str) -> bool:
    """Whether a value is a tensor of a type that numpy has, as far as its type is known."""
    kind = slicer.types.get(name)
    if kind is None or not kind.WhichOneof("value"):
        return True
    element = kind.tensor_type.elem_type if kind.HasField("tensor_type") else 0
    try:
        return bool(element) and np.dtype(onnx.helper.tensor_dtype_to_np_dtype(element)).kind in "fiub"
    except KeyError:
        return False
