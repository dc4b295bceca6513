"""The last step of every converter: a model file appears only after its parameters were read back and compared."""

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from bitswap_onnx.errors import ControlFailedError, ModelError
from bitswap_onnx.graph.model import load_model
from bitswap_onnx.graph.tensors import read_tensor

#: Weights of more bytes go to a separate file: a protobuf file ends at 2 GiB, and the graph needs room too.
INLINE_LIMIT = 2**31 - 2**26


def write_bit_exact(
    model: ir.Model,
    parameters: Mapping[str, NDArray[Any]],
    path: Path,
    check: Callable[[Path], None] | None = None,
) -> None:
    """Write ``model`` to ``path`` if each of ``parameters`` is in it under its own name, bit for bit.

    ``parameters`` are the framework's arrays; only their shape and bytes count, so a dtype that numpy lacks may come as
    integers of its width. A model over 2 GB gets ``<file>.data`` beside it. Both files appear whole, by renaming, after
    ``check`` looked at them under another name and raised nothing.

    Raises ControlFailedError, and writes nothing, for a parameter that is missing or differs and for a model that the
    ONNX checker refuses; ModelError where the file cannot be written.
    """
    try:
        with tempfile.TemporaryDirectory(prefix=".export-", dir=path.parent) as folder:
            part = Path(folder) / path.name
            data = part.with_name(part.name + ".data")
            ir.save(model, part, external_data=data.name if _weight_bytes(model) > INLINE_LIMIT else None)
            _compare(part, parameters, path)
            if check is not None:
                check(part)
            for file in (data, part):
                if file.exists():
                    file.replace(path.with_name(file.name))
    except OSError as error:
        raise ModelError(f"{path}: cannot write the model: {error.strerror}") from None


def _weight_bytes(model: ir.Model) -> int:
    tensors = [value.const_value for value in model.graph.initializers.values()]
    return sum(tensor.nbytes for tensor in tensors if tensor is not None)


def _compare(part: Path, parameters: Mapping[str, NDArray[Any]], path: Path) -> None:
    try:
        written = load_model(part)
    except ModelError as error:
        raise ControlFailedError(f"{str(error).replace(str(part), str(path))}; nothing was written") from None
    stored = {tensor.name: tensor for tensor in written.proto.graph.initializer}
    for name, expected in parameters.items():
        if name not in stored:
            raise ControlFailedError(
                f"{path}: parameter {name} is missing from the exported graph; nothing was written"
            )
        found = read_tensor(stored[name], written.folder)
        if found.shape != expected.shape or found.tobytes() != expected.tobytes():
            raise ControlFailedError(
                f"{path}: parameter {name}: expected the framework's bits, found {_difference(expected, found)}; "
                "nothing was written"
            )


def _difference(expected: NDArray[Any], found: NDArray[Any]) -> str:
    if found.shape != expected.shape:
        return f"shape {found.shape} instead of {expected.shape}"
    if found.itemsize != expected.itemsize:
        return f"{found.dtype} elements of {found.itemsize} bytes instead of {expected.itemsize}"
    differs = _bytes(expected) != _bytes(found)
    return f"{np.count_nonzero(differs.any(axis=1))} of {expected.size} elements changed"


def _bytes(array: NDArray[Any]) -> NDArray[np.uint8]:
    return np.frombuffer(array.tobytes(), np.uint8).reshape(array.size, -1)
