"""The last step of every converter: a model file appears only after its parameters were read back and compared."""

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from bitswap_onnx.errors import ControlFailedError, ModelError
from bitswap_onnx.graph.model import Model, load_model
from bitswap_onnx.graph.tensors import read_tensor

#: Weights of more bytes go to a separate file: a protobuf file ends at 2 GiB, and the graph needs room too.
INLINE_LIMIT = 2**31 - 2**26


@dataclass(frozen=True, eq=False, repr=False)
class ExportedModel(Model):
    """A model that a converter made: ``parameters`` were compared bit for bit, each under its own name.

    ``tied``: further names of a parameter → the name under which it is stored. ``unused`` parameters take no part in
    inference (``num_batches_tracked``) and are not in the file. ``vanished`` modules return their input unchanged.
    """

    parameters: tuple[str, ...] = ()
    tied: dict[str, str] = field(default_factory=dict)
    unused: tuple[str, ...] = ()
    vanished: tuple[str, ...] = ()


def write_bit_exact(
    model: ir.Model,
    parameters: Mapping[str, NDArray[Any]],
    target: Path | str,
    check: Callable[[Path], None] | None = None,
) -> Model:
    """Write ``model`` to a file if each of ``parameters`` is in it under its own name, bit for bit; return what it holds.

    ``parameters`` are the framework's arrays; only their shape and bytes count, so a dtype that numpy lacks may come as
    integers of its width. ``target``: a path; or the name of a model that stays in memory, and is not written. A model over
    2 GB gets ``<file>.data`` beside it. Both files appear whole, by renaming, after ``check`` looked at them under another
    name and raised nothing.

    Raises ControlFailedError, and writes nothing, for a parameter that is missing or differs and for a model that the
    ONNX checker refuses; ModelError where the file cannot be written, and for a model over 2 GB without a file.
    """
    path = target if isinstance(target, Path) else None
    is_large = _weight_bytes(model) > INLINE_LIMIT
    if is_large and path is None:
        raise ModelError(f"{target}: expected `out`, a file for a model of more than 2 GB; give out='model.onnx'")
    try:
        with tempfile.TemporaryDirectory(prefix=".export-", dir=None if path is None else path.parent) as folder:
            part = Path(folder) / (f"{target}.onnx" if path is None else path.name)
            data = part.with_name(part.name + ".data")
            ir.save(model, part, external_data=data.name if is_large else None)
            written = _compare(part, parameters, str(target))
            if check is not None:
                check(part)
            if path is None:
                return replace(written, folder=Path.cwd(), source=None)
            for file in (data, part):
                if file.exists():
                    file.replace(path.with_name(file.name))
    except OSError as error:
        raise ModelError(f"{target}: cannot write the model: {error.strerror}") from None
    return replace(written, folder=path.absolute().parent, source=path)


def _weight_bytes(model: ir.Model) -> int:
    tensors = [value.const_value for value in model.graph.initializers.values()]
    return sum(tensor.nbytes for tensor in tensors if tensor is not None)


def _compare(part: Path, parameters: Mapping[str, NDArray[Any]], path: str) -> Model:
    try:
        written = load_model(part)
    except ModelError as error:
        raise ControlFailedError(f"{str(error).replace(str(part), path)}; nothing was written") from None
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
    return written


def _difference(expected: NDArray[Any], found: NDArray[Any]) -> str:
    if found.shape != expected.shape:
        return f"shape {found.shape} instead of {expected.shape}"
    if found.itemsize != expected.itemsize:
        return f"{found.dtype} elements of {found.itemsize} bytes instead of {expected.itemsize}"
    differs = _bytes(expected) != _bytes(found)
    return f"{np.count_nonzero(differs.any(axis=1))} of {expected.size} elements changed"


def _bytes(array: NDArray[Any]) -> NDArray[np.uint8]:
    return np.frombuffer(array.tobytes(), np.uint8).reshape(array.size, -1)
