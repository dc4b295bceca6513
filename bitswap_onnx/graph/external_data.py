"""External data: the files beside a model in which some of its tensors lie."""

from pathlib import Path
from typing import IO

import onnx
from onnx.external_data_helper import ExternalDataInfo

from bitswap_onnx.errors import ModelError
from bitswap_onnx.files import replacing
from bitswap_onnx.graph.tensors import is_external, stored_bytes, stored_tensors


def checked_data_files(proto: onnx.ModelProto, path: Path) -> list[Path]:
    """Return the external data files of the model file ``path``, sorted.

    Raises ModelError for a data file that is missing, shorter than its tensors need, or outside the model's folder.
    """
    folder = path.absolute().parent
    needed: dict[Path, int] = {}
    for key, tensor in stored_tensors(proto).items():
        if not is_external(tensor):
            continue
        info = ExternalDataInfo(tensor)
        if (info.offset or 0) < 0:
            raise ModelError(f"{path}: tensor {key} has a negative offset in its external data; export the model again")
        file = (folder / info.location).resolve()
        if not file.is_relative_to(folder.resolve()):
            raise ModelError(
                f"{path}: tensor {key} points outside the model's folder ({info.location}), perhaps by a link; "
                "copy the data file beside the model"
            )
        if not file.is_file():
            raise ModelError(
                f"{path}: the external data of tensor {key} is missing: expected {info.location} beside it"
            )
        needed[file] = max(needed.get(file, 0), (info.offset or 0) + stored_bytes(tensor))
    for file, size in needed.items():
        if file.stat().st_size < size:
            raise ModelError(f"{file}: expected at least {size} bytes of external data, found {file.stat().st_size}")
    return sorted(needed)


def with_own_data(proto: onnx.ModelProto, folder: Path, data: Path) -> onnx.ModelProto:
    """Return a copy of a model whose external tensors lie in ``data``, and write that file tensor by tensor.

    ``folder`` is where the model's external data lies now. Raises RunError if ``data`` cannot be written.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    with replacing(data, "wb") as file:
        for tensor in filter(is_external, stored_tensors(copy).values()):
            info, offset = ExternalDataInfo(tensor), file.tell()
            with (folder / info.location).open("rb") as source:
                source.seek(info.offset or 0)
                _copy(source, file, stored_bytes(tensor))
            del tensor.external_data[:]
            for key, value in (("location", data.name), ("offset", offset), ("length", file.tell() - offset)):
                tensor.external_data.add(key=key, value=str(value))
    return copy


def _copy(source: IO[bytes], target: IO[bytes], size: int) -> None:
    while size > 0 and (block := source.read(min(size, 1 << 24))):
        target.write(block)
        size -= len(block)
