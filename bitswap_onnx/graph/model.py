"""Load, check, hash and save ONNX models."""

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import DecodeError, EncodeError
from numpy.typing import NDArray
from onnx.external_data_helper import ExternalDataInfo

from bitswap_onnx.errors import ModelError, amount, one_line
from bitswap_onnx.files import replacing
from bitswap_onnx.graph.external_data import checked_data_files, with_own_data
from bitswap_onnx.graph.readable import why_unreadable
from bitswap_onnx.graph.tensors import is_external, read_tensor, stored_tensors

#: Opsets and the highest IR version that the runtime supports; converters write within these bounds.
OPSETS = range(7, 27)
MAX_IR_VERSION = 13

#: The metadata property in which our converters store framework, layer names and versions, as JSON.
METADATA_KEY = "bitswap_onnx"


_TORCH = "`bitswap-onnx export torch` makes an ONNX file of a PyTorch module, a pickled one or a .pt2"
_CHECKPOINT = f"{_TORCH}, with a checkpoint as its `weights`"
_KERAS_MODEL = "`bitswap-onnx export keras` makes an ONNX file of it"

#: What to do about files that are given in place of a model, by their suffix.
_OTHER_FILES = {
    **dict.fromkeys((".pt", ".pth", ".ckpt", ".bin", ".safetensors"), _CHECKPOINT),
    ".pt2": _TORCH,
    **dict.fromkeys((".keras", ".h5", ".hdf5"), _KERAS_MODEL),
    "SavedModel": f"no command takes a SavedModel: save the model with model.save as .keras; then {_KERAS_MODEL}",
    ".tflite": f"no command takes a .tflite: of the Keras model that it was made from, {_KERAS_MODEL}",
    **dict.fromkeys((".csv", ".tsv"), "it looks like a fault list: the model comes first, then the list"),
    **dict.fromkeys((".npz", ".npy"), "it looks like a dataset: `data` takes it"),
}


@dataclass(frozen=True, eq=False)
class Model:
    """An ONNX model: its protobuf, which is never changed after loading, and its ``name``.

    ``folder`` holds its external data, if it has any. ``sha256`` covers the file and all its external data files; it is
    empty for a model that was derived from another one. ``source``: the file, None for a model in memory.
    """

    proto: onnx.ModelProto
    name: str
    folder: Path
    sha256: str
    source: Path | None = None

    def __repr__(self) -> str:
        where = "in memory" if self.source is None else str(self.source)
        graph = self.proto.graph
        return f"<{type(self).__name__} {self.name}, {where}: {amount(len(graph.node), 'node')}, sha256 {self.sha256[:12]}>"

    @property
    def metadata(self) -> dict[str, Any]:
        """The metadata that a converter of ours wrote; empty for other models. Raises ModelError if it is damaged."""
        texts = [prop.value for prop in self.proto.metadata_props if prop.key == METADATA_KEY]
        if not texts:
            return {}
        try:
            value = json.loads(texts[0])
        except (ValueError, RecursionError):
            value = None
        metadata: dict[str, Any] = value if isinstance(value, dict) else {"parameters": None}
        modules = (metadata.get(key, {}) for key in ("modules", "vanished"))
        is_whole = all(_is_table(table, ("type", "value"), "values") for table in modules)
        if not is_whole or not _is_table(metadata.get("parameters", {}), ("layer", "parameter"), "aliases"):
            raise ModelError(f"{self.name}: its metadata {METADATA_KEY} is damaged; export the model again")
        return metadata

    @property
    def data_files(self) -> set[Path]:
        """The external data files."""
        external = filter(is_external, stored_tensors(self.proto).values())
        return {self.folder / ExternalDataInfo(tensor).location for tensor in external}

    @property
    def has_external_data(self) -> bool:
        """Whether some tensor lies outside the model file."""
        return any(map(is_external, stored_tensors(self.proto).values()))

    def tensor(self, key: str) -> NDArray[Any]:
        """Return the elements of the stored tensor ``key`` (see `stored_tensors`); do not write to them."""
        return read_tensor(stored_tensors(self.proto)[key], self.folder)


def _advice(path: Path) -> str:
    """Return what to do about a file of another kind, as the end of a message."""
    kind = "SavedModel" if (path / "saved_model.pb").is_file() else path.suffix.lower()
    return f"; {_OTHER_FILES[kind]}" if kind in _OTHER_FILES and path.exists() else ""


def load_model(path: "str | Path | onnx.ModelProto | Model") -> Model:
    """Load and check an ONNX file, or check a protobuf, of which the model gets a copy; a `Model` is returned as it is.

    Raises ModelError for a missing file, a file that is no valid ONNX model, an opset or IR version that the runtime
    does not support, and external data that is missing, too short or outside the model's folder.
    """
    if isinstance(path, Model):
        return path
    if isinstance(path, onnx.ModelProto):
        return _copied(path)
    path = Path(path)
    try:
        content = path.read_bytes()
        proto = onnx.ModelProto.FromString(content)
    except OSError as error:
        raise ModelError(f"{path}: cannot read the model: {error.strerror}{_advice(path)}") from None
    except DecodeError:
        raise ModelError(f"{path}: not an ONNX model: the file cannot be decoded{_advice(path)}") from None
    if not proto.graph.node:
        raise ModelError(f"{path}: not an ONNX model: it has no graph{_advice(path)}")
    if reason := why_unreadable(proto):
        raise ModelError(f"{path}: not a valid ONNX model: {reason}")
    _check_versions(proto, path)
    digest = hashlib.sha256(content)
    try:
        data_files = checked_data_files(proto, path)
    except (KeyError, ValueError, OSError) as error:
        raise ModelError(f"{path}: its external data cannot be read: {one_line(error)}") from None
    for data_file in data_files:
        with data_file.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    try:
        onnx.checker.check_model(str(path))
    except onnx.checker.ValidationError as error:
        raise ModelError(f"{path}: not a valid ONNX model: {one_line(error)}") from None
    return Model(proto, path.stem, path.absolute().parent, digest.hexdigest(), path)


def _copied(given: onnx.ModelProto) -> Model:
    """Return a checked copy of a protobuf in memory; equal to the model of the file that it was read from."""
    if any(map(is_external, stored_tensors(given).values())):
        raise ModelError("`model`: expected all tensors in the protobuf, found external data; give the file's path")
    try:
        content = given.SerializeToString(deterministic=True)
    except (ValueError, EncodeError) as error:
        raise ModelError(
            f"`model`: the protobuf cannot be encoded: {one_line(error)}; save it and give the path"
        ) from None
    proto = onnx.ModelProto.FromString(content)
    where = Path("`model`")
    if not proto.graph.node:
        raise ModelError(f"{where}: expected an ONNX model, found a protobuf without a graph")
    if reason := why_unreadable(proto):
        raise ModelError(f"{where}: not a valid ONNX model: {reason}")
    _check_versions(proto, where)
    try:
        onnx.checker.check_model(content)
    except onnx.checker.ValidationError as error:
        raise ModelError(f"{where}: not a valid ONNX model: {one_line(error)}") from None
    return from_proto(proto, name_in_files(proto.graph.name))


def name_in_files(name: str, otherwise: str = "model") -> str:
    """Return a network's name where it can stand in the name of a file, ``otherwise`` where nothing of it can."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", name).strip("._")[:80] or otherwise


def from_proto(proto: onnx.ModelProto, name: str = "model", folder: Path | None = None) -> Model:
    """Return a `Model` of a protobuf built in memory; ``folder`` holds its external data, if it has any."""
    digest = hashlib.sha256(proto.SerializeToString(deterministic=True)).hexdigest()
    return Model(proto, name, folder or Path.cwd(), digest)


def save_model(model: Model, path: str | Path) -> None:
    """Write ``model`` to ``path``, and its external data, if it has any, to its own ``<file>.data`` beside it.

    Files appear whole or not at all. Raises RunError if they cannot be written, ModelError if ``<file>.data`` exists.
    """
    path = Path(path)
    data = path.with_name(path.name + ".data")
    if model.has_external_data and data.exists():
        raise ModelError(f"{data}: exists already and would be overwritten; choose another output name")
    proto = with_own_data(model.proto, model.folder, data) if model.has_external_data else model.proto
    try:
        with replacing(path, "wb") as file:
            file.write(proto.SerializeToString())
    except BaseException:
        if model.has_external_data:
            data.unlink(missing_ok=True)
        raise


def _is_table(value: object, texts: tuple[str, ...], listed: str) -> bool:
    """Whether metadata has the form {name: {text: str, ..., listed: [str, ...]}}; the list may be missing."""
    entries = list(value.values()) if isinstance(value, dict) else [None]
    return all(
        isinstance(entry, dict)
        and all(isinstance(entry.get(text), str) for text in texts)
        and isinstance(entry.get(listed, []), list)
        and all(isinstance(name, str) for name in entry.get(listed, []))
        and isinstance(entry.get("permutations", {}), dict)
        for entry in entries
    )


def _check_versions(proto: onnx.ModelProto, path: Path) -> None:
    opset = next((entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx")), None)
    if opset is not None and opset not in OPSETS:
        raise ModelError(
            f"{path}: expected opset {OPSETS[0]} to {OPSETS[-1]}, found {opset}; convert it with onnx.version_converter"
        )
    if proto.ir_version > MAX_IR_VERSION:
        raise ModelError(
            f"{path}: expected IR version {MAX_IR_VERSION} or lower, found {proto.ir_version}; "
            "save it again with an older ir_version"
        )
