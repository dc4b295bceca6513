"""Large models outside the memory of processes: their tensors lie in a temporary file, and each is read when it is used."""

import shutil
import tempfile
import weakref
from dataclasses import dataclass
from pathlib import Path

import onnx
from onnx.external_data_helper import set_external_data

from bitswap_onnx.graph.model import Model

#: Bytes of the tensors that are spilled: of all together and of one, at least. Each starts at a multiple of the last number.
_LARGE_MODEL, _LARGE_TENSOR, _ALIGNED = 1 << 26, 1 << 16, 1 << 12

_MODEL_FILE, _DATA_FILE = "model.onnx", "model.data"


@dataclass(frozen=True, eq=False, repr=False)
class SpilledModel(Model):
    """A model whose tensors lie in a temporary folder."""

    @property
    def file(self) -> Path:
        """The model's file there, which other processes load."""
        return self.folder / _MODEL_FILE


def spilled(model: Model) -> Model:
    """Return a large model with its large tensors as external data, in a folder that is deleted with the returned model.

    A model that is small, has external data already, or finds no space in the temporary folder is returned as it is.
    """
    large = [i for i, tensor in enumerate(model.proto.graph.initializer) if len(tensor.raw_data) >= _LARGE_TENSOR]
    all_bytes = sum(len(model.proto.graph.initializer[i].raw_data) for i in large)
    if all_bytes < _LARGE_MODEL or model.has_external_data:
        return model
    try:
        folder = Path(tempfile.mkdtemp(prefix="bitswap-onnx-"))
    except OSError:  # no temporary folder that can be written
        return model
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    try:
        with (folder / _DATA_FILE).open("wb") as file:
            for i in large:
                tensor = proto.graph.initializer[i]
                file.seek(-(-file.tell() // _ALIGNED) * _ALIGNED)
                set_external_data(tensor, _DATA_FILE, file.tell(), len(tensor.raw_data))
                file.write(tensor.raw_data)
                tensor.ClearField("raw_data")
        (folder / _MODEL_FILE).write_bytes(proto.SerializeToString())
    except BaseException as error:
        shutil.rmtree(folder, ignore_errors=True)
        if isinstance(error, OSError):
            return model
        raise
    result = SpilledModel(proto, model.name, folder, model.sha256, model.source)
    weakref.finalize(result, shutil.rmtree, folder, ignore_errors=True)
    return result
