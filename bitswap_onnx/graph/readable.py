"""What a file decodes to and the onnx package still cannot read: names that are no text, types that do not exist, shapes.

A tensor's bytes must be as many as its shape says.
"""

from collections.abc import Iterator

import onnx
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from bitswap_onnx.graph.tensors import is_external, stored_bytes

_TYPES = frozenset(onnx.TensorProto.DataType.values()) - {onnx.TensorProto.UNDEFINED}


def why_unreadable(proto: onnx.ModelProto) -> str | None:
    """Return what in a decoded model cannot be read, and where, as the end of a message; None if there is nothing."""
    if not proto.graph.output:
        return "its graph has no outputs"
    for message, place in _messages(proto, "model"):
        if isinstance(message, onnx.NodeProto) and not message.output:
            return f"{place} ({message.op_type[:40]}) has no outputs"
        for field, value in message.ListFields():
            texts = _values(field, value) if field.type == FieldDescriptor.TYPE_STRING else ()
            if not all(isinstance(text, str) for text in texts):
                return f"expected names in UTF-8, found other bytes in the field {field.name} of {place}"
        if isinstance(message, onnx.TensorProto) and message.data_type not in _TYPES:
            return f"{place} has the element type {message.data_type}, which no version of ONNX has"
        if isinstance(message, onnx.TensorProto) and message.HasField("segment"):
            return f"{place} is stored in segments, which nothing reads; save the model with whole tensors"
        if isinstance(message, onnx.TensorProto) and (reason := _wrong_size(message)):
            return f"{place} {reason}"
        if isinstance(message, onnx.TypeProto.Tensor) and message.elem_type not in _TYPES | {0}:
            return f"{place} has the element type {message.elem_type}, which no version of ONNX has"
    return None


def _wrong_size(tensor: onnx.TensorProto) -> str | None:
    """Return what is wrong with the shape or the number of elements of a tensor in the file."""
    if any(size < 0 for size in tensor.dims):
        return f"has the shape {list(tensor.dims)[:8]}, and a size below 0"
    if tensor.HasField("raw_data") and not is_external(tensor) and tensor.data_type != onnx.TensorProto.STRING:
        found, expected = len(tensor.raw_data), stored_bytes(tensor)
        if found != expected:
            return f"of shape {list(tensor.dims)[:8]} needs {expected} bytes, found {found}"
    return None


def _messages(message: Message, place: str) -> Iterator[tuple[Message, str]]:
    """Yield a message and all messages in it, each with the nearest one around it that has a name."""
    name = getattr(message, "name", None)
    place = f"{message.DESCRIPTOR.name} {name}" if isinstance(name, str) and name else place
    yield message, place
    for field, value in message.ListFields():
        if field.type == FieldDescriptor.TYPE_MESSAGE:
            for inner in _values(field, value):
                yield from _messages(inner, place)


def _values(field: FieldDescriptor, value: object) -> Iterator[object]:
    yield from value if field.is_repeated else (value,)  # type: ignore[misc]
