"""Load, check, hash and save ONNX models; read their tensors bit for bit.

Tensors stored outside the file (external data, models over 2 GB) stay on disk and are mapped when they are read.
"""

import hashlib
import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from onnx import numpy_helper
from onnx.external_data_helper import ExternalDataInfo

from bitswap_onnx.errors import ModelError, one_line
from bitswap_onnx.files import replacing

#: What the runtime takes; converters write within these bounds.
OPSETS = range(7, 27)
MAX_IR_VERSION = 13

#: The metadata property in which our converters leave framework, layer names and versions, as JSON.
METADATA_KEY = "bitswap_onnx"

_EXTERNAL = onnx.TensorProto.EXTERNAL
_DATA_FIELDS = (
    "float_data",
    "int32_data",
    "int64_data",
    "double_data",
    "uint64_data",
    "external_data",
    "data_location",
)
_SUBGRAPHS = (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS)


@dataclass(frozen=True, eq=False)
class Model:
    """An ONNX model: its protobuf (never changed after loading), where its external data lies, and its identity.

    ``sha256`` covers the file and every external data file it names.
    """

    proto: onnx.ModelProto
    name: str
    folder: Path
    sha256: str

    @property
    def metadata(self) -> dict[str, Any]:
        """What a converter of ours left in the file; empty for other models. Raises ModelError if it is damaged."""
        texts = [prop.value for prop in self.proto.metadata_props if prop.key == METADATA_KEY]
        if not texts:
            return {}
        try:
            value = json.loads(texts[0])
        except (ValueError, RecursionError):
            value = None
        named: dict[str, Any] = value if isinstance(value, dict) else {"parameters": None}
        modules = (named.get(key, {}) for key in ("modules", "vanished"))
        whole = all(_is_table(table, ("type", "value"), "values") for table in modules)
        if not whole or not _is_table(named.get("parameters", {}), ("layer", "parameter"), "aliases"):
            raise ModelError(f"{self.name}: its metadata {METADATA_KEY} is damaged; export the model again")
        return named

    @property
    def data_files(self) -> set[Path]:
        """The external data files."""
        external = (t for t in stored_tensors(self.proto).values() if t.data_location == _EXTERNAL)
        return {self.folder / ExternalDataInfo(tensor).location for tensor in external}

    @property
    def has_external_data(self) -> bool:
        """Whether some tensor lies outside the file."""
        return any(tensor.data_location == _EXTERNAL for tensor in stored_tensors(self.proto).values())

    def tensor(self, key: str) -> NDArray[Any]:
        """Return the elements of one stored tensor (a key of `stored_tensors`); do not write to it."""
        return read_tensor(stored_tensors(self.proto)[key], self.folder)


def load_model(path: str | Path) -> Model:
    """Load and check an ONNX file.

    Raises ModelError, with one line, for a missing file, a file that is no valid ONNX model, an opset or IR version that
    the runtime does not take, and external data that is missing, too short or outside the model's folder.
    """
    path = Path(path)
    try:
        content = path.read_bytes()
        proto = onnx.ModelProto.FromString(content)
    except OSError as error:
        raise ModelError(f"{path}: cannot read the model: {error.strerror}") from None
    except DecodeError:
        raise ModelError(f"{path}: not an ONNX model: the file cannot be decoded") from None
    if not proto.graph.node:
        raise ModelError(f"{path}: not an ONNX model: it has no graph")
    _check_versions(proto, path)
    digest = hashlib.sha256(content)
    try:
        data_files = _external_files(proto, path)
    except (KeyError, ValueError, OSError) as error:
        raise ModelError(f"{path}: its external data cannot be read: {one_line(error)}") from None
    for data_file in data_files:
        with data_file.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    try:
        onnx.checker.check_model(str(path))
    except onnx.checker.ValidationError as error:
        raise ModelError(f"{path}: not a valid ONNX model: {one_line(error)}") from None
    return Model(proto, path.stem, path.absolute().parent, digest.hexdigest())


def from_proto(proto: onnx.ModelProto, name: str = "model", folder: Path | None = None) -> Model:
    """Wrap a model that was built in memory (``folder``: where its external data lies, if it has any)."""
    digest = hashlib.sha256(proto.SerializeToString(deterministic=True)).hexdigest()
    return Model(proto, name, folder or Path.cwd(), digest)


def save_model(model: Model, path: str | Path) -> None:
    """Write ``model`` as one standalone file; a model with external data gets its own ``<file>.data`` beside it.

    Files appear whole or not at all. Raises RunError where they cannot be written.
    """
    path = Path(path)
    data = path.with_name(path.name + ".data")
    if model.has_external_data and data.exists():
        raise ModelError(f"{data}: exists already and would be overwritten; choose another output name")
    proto = _with_own_data(model, data) if model.has_external_data else model.proto
    try:
        with replacing(path, "wb") as file:
            file.write(proto.SerializeToString())
    except BaseException:
        if model.has_external_data:
            data.unlink(missing_ok=True)
        raise


def stored_tensors(proto: onnx.ModelProto) -> dict[str, onnx.TensorProto]:
    """Return every tensor the model stores, by a key that is unique in the model.

    Initializers and Constant nodes of the main graph are keyed by their name; those of If, Loop and Scan bodies by
    ``<output>/<attribute>::<name>``, after the first output of the node that carries the body; nested ones likewise.
    """
    return dict(_graph_tensors(proto.graph, ""))


def subgraphs(node: onnx.NodeProto) -> Iterator[tuple[str, onnx.GraphProto]]:
    """Yield the graphs a node carries, each with the scope name that `stored_tensors` gives it."""
    for attribute in node.attribute:
        if attribute.type in _SUBGRAPHS:
            graphs = [attribute.g] if attribute.type == onnx.AttributeProto.GRAPH else list(attribute.graphs)
            for i, graph in enumerate(graphs):
                suffix = f"[{i}]" if attribute.type == onnx.AttributeProto.GRAPHS else ""
                yield f"{node.output[0]}/{attribute.name}{suffix}::", graph


def node_label(node: onnx.NodeProto) -> str:
    """Return a node's name, or what it makes where it has none."""
    return node.name or next(iter(node.output), node.op_type)


def attribute(node: onnx.NodeProto, name: str, default: Any) -> Any:
    """Return an attribute's value."""
    found = [onnx.helper.get_attribute_value(a) for a in node.attribute if a.name == name]
    return found[0] if found else default


def constant_tensor(node: onnx.NodeProto) -> onnx.TensorProto | None:
    """Return the tensor a Constant node stores, if it is one of that kind."""
    if node.op_type != "Constant" or node.domain not in ("", "ai.onnx"):
        return None
    return next((attribute.t for attribute in node.attribute if attribute.name == "value"), None)


def read_tensor(tensor: onnx.TensorProto, folder: Path) -> NDArray[Any]:
    """Return a stored tensor's elements; external data is mapped, not loaded."""
    if tensor.data_location != _EXTERNAL:
        return numpy_helper.to_array(tensor)
    info = ExternalDataInfo(tensor)
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
    shape = tuple(tensor.dims)
    if not np.prod(shape):
        return np.empty(shape, dtype)
    return np.memmap(folder / info.location, dtype, "r", info.offset or 0, shape)


def write_tensor(tensor: onnx.TensorProto, elements: NDArray[Any]) -> None:
    """Replace the elements of ``tensor``, in place, by ``elements`` of the same dtype and shape, bit for bit."""
    for field in _DATA_FIELDS:
        tensor.ClearField(field)
    tensor.raw_data = np.ascontiguousarray(elements).tobytes()


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


def _graph_tensors(graph: onnx.GraphProto, scope: str) -> Iterator[tuple[str, onnx.TensorProto]]:
    for tensor in graph.initializer:
        yield scope + tensor.name, tensor
    for node in graph.node:
        constant = constant_tensor(node)
        if constant is not None:
            yield scope + node.output[0], constant
        for inner, subgraph in subgraphs(node):
            yield from _graph_tensors(subgraph, scope + inner)


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


def _external_files(proto: onnx.ModelProto, path: Path) -> list[Path]:
    """Return the external data files, each checked to lie inside the model's folder and to be long enough."""
    folder = path.absolute().parent
    needed: dict[Path, int] = {}
    for key, tensor in stored_tensors(proto).items():
        if tensor.data_location != _EXTERNAL:
            continue
        info = ExternalDataInfo(tensor)
        if (info.offset or 0) < 0:
            raise ModelError(f"{path}: tensor {key} has a negative offset in its external data")
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
        needed[file] = max(needed.get(file, 0), (info.offset or 0) + _stored_bytes(tensor))
    for file, size in needed.items():
        if file.stat().st_size < size:
            raise ModelError(f"{file}: expected at least {size} bytes of external data, found {file.stat().st_size}")
    return sorted(needed)


def _with_own_data(model: Model, data: Path) -> onnx.ModelProto:
    """Return a copy of the model whose external tensors lie in ``data``, which is written tensor by tensor."""
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    with replacing(data, "wb") as file:
        for tensor in stored_tensors(proto).values():
            if tensor.data_location != _EXTERNAL:
                continue
            info, offset = ExternalDataInfo(tensor), file.tell()
            with (model.folder / info.location).open("rb") as source:
                source.seek(info.offset or 0)
                _copy(source, file, _stored_bytes(tensor))
            del tensor.external_data[:]
            for key, value in (("location", data.name), ("offset", offset), ("length", file.tell() - offset)):
                tensor.external_data.add(key=key, value=str(value))
    return proto


def _stored_bytes(tensor: onnx.TensorProto) -> int:
    """Return how many bytes a tensor's elements take; types below a byte are packed."""
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
    packed = re.match(r"u?int(2|4)$|float(4)", dtype.name)
    bits = int(packed[1] or packed[2]) if packed else 8 * int(dtype.itemsize)
    return (int(math.prod(tensor.dims)) * bits + 7) // 8


def _copy(source: IO[bytes], target: IO[bytes], size: int) -> None:
    while size > 0 and (block := source.read(min(size, 1 << 24))):
        target.write(block)
        size -= len(block)
