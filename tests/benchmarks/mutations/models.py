"""Damaged models."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from onnx import TensorProto, helper

from bitswap_onnx.campaign.plan import check_list
from bitswap_onnx.campaign.settings import Settings
from bitswap_onnx.campaign.setup import prepare
from bitswap_onnx.faults.fault import Fault, Injection
from bitswap_onnx.graph.coverage import coverage
from bitswap_onnx.graph.model import METADATA_KEY, Model, load_model
from bitswap_onnx.graph.resolve import Resolver
from bitswap_onnx.graph.signature import model_input, score_output
from bitswap_onnx.graph.targets import select_targets
from bitswap_onnx.sampling.population import find_population
from tests.builders import cnn

NUMBERS = (0, -1, 1, 2, 7, 2**31 - 1, -(2**31), 2**31, 10**12, 2**63 - 1, -(2**63))
TEXTS = (
    "",
    "x",
    "a",
    "d",
    "scores",
    "conv.weight",
    "fc.weight",
    "nothing",
    "\x00",
    "../x",
    "é",
    "a" * 3000,
    "Conv",
    "If",
    "ai.onnx.ml",
)


def make_model(rng: np.random.Generator, folder: Path) -> tuple[str, dict[str, Callable[[], object]]]:
    """Damage the small CNN: its messages once or twice, or its bytes."""
    proto, done = cnn(), []
    for _ in range(rng.integers(0, 3)):
        change = _CHANGES[rng.integers(len(_CHANGES))]
        change(rng, proto)
        done.append(change.__name__)
    content = proto.SerializeToString()
    if not done or rng.random() < 0.2:
        content = _bytes(rng, content)
        done.append("bytes")
    path = folder / "model.onnx"
    path.write_bytes(content)
    loaded: list[Model] = []
    steps: dict[str, Callable[[], object]] = {
        "load": lambda: loaded.append(load_model(path)),
        "targets": lambda: coverage(loaded[0], {t.tensor: t.elements for t in select_targets(loaded[0], None)}),
        "sites": lambda: Resolver(loaded[0]).sites,
        "input": lambda: model_input(loaded[0]),
        "output": lambda: score_output(loaded[0]),
        "population": lambda: find_population(loaded[0]),
        "plan": lambda: _plan(path),
    }
    return ", ".join(done), steps


def _plan(path: Path) -> None:
    region = find_population(load_model(path))[0]
    fault = Fault(region.address[0], (0,) * len(region.shape), 0, parameter=region.address[1])
    setup = prepare(path, Settings(data="synthetic:2"))
    check_list(setup, [Injection("0", (fault,))], "lsb", None)


def _any_message(rng: np.random.Generator, proto: onnx.ModelProto) -> Message:
    found: list[Message] = []
    waiting: list[Message] = [proto]
    while waiting:
        message = waiting.pop()
        found.append(message)
        for field, value in message.ListFields():
            if field.type == FieldDescriptor.TYPE_MESSAGE:
                waiting.extend(value if field.is_repeated else [value])
    return found[rng.integers(len(found))]


def _field(rng: np.random.Generator, proto: onnx.ModelProto) -> None:
    """Remove, repeat or change a field that is set."""
    message = _any_message(rng, proto)
    fields = message.ListFields()
    if not fields:
        return
    field, value = fields[rng.integers(len(fields))]
    if field.is_repeated and rng.random() < 0.7:
        values: Any = value
        at = int(rng.integers(len(values)))
        if rng.random() < 0.5:
            del values[at]
        elif field.type == FieldDescriptor.TYPE_MESSAGE:
            values.add().CopyFrom(values[at])
        else:
            values[at] = _value(rng, field)
    elif field.is_repeated or field.type == FieldDescriptor.TYPE_MESSAGE or rng.random() < 0.3:
        message.ClearField(field.name)
    else:
        setattr(message, field.name, _value(rng, field))


def _value(rng: np.random.Generator, field: FieldDescriptor) -> Any:
    if field.type == FieldDescriptor.TYPE_STRING:
        return str(rng.choice(TEXTS))
    if field.type == FieldDescriptor.TYPE_BYTES:
        return bytes(rng.integers(0, 256, int(rng.choice([0, 1, 4, 1000]))).astype(np.uint8))
    if field.type in (FieldDescriptor.TYPE_FLOAT, FieldDescriptor.TYPE_DOUBLE):
        return float(rng.choice([0, -1, np.nan, np.inf]))
    if field.enum_type is not None:
        return int(rng.choice([value.number for value in field.enum_type.values]))
    number = NUMBERS[rng.integers(len(NUMBERS))]
    return number if field.type == FieldDescriptor.TYPE_INT64 else max(min(number, 2**31 - 1), 0)


def _tensor(rng: np.random.Generator, proto: onnx.ModelProto) -> None:
    """Change dims or type of a stored tensor."""
    if proto.graph.initializer:
        tensor = proto.graph.initializer[rng.integers(len(proto.graph.initializer))]
        if rng.random() < 0.7:
            tensor.dims[:] = [NUMBERS[rng.integers(len(NUMBERS))] for _ in range(rng.integers(0, 5))]
        else:
            tensor.data_type = int(rng.integers(0, 27))


def _external(rng: np.random.Generator, proto: onnx.ModelProto) -> None:
    if proto.graph.initializer:
        tensor = proto.graph.initializer[rng.integers(len(proto.graph.initializer))]
        tensor.data_location = TensorProto.EXTERNAL
        tensor.ClearField("raw_data")
        values = {
            "location": ["/etc/passwd", "../x", "model.onnx", "", "a/b", "\x00", "."],
            "offset": ["0", "-1", "x", "9" * 30],
        }
        for key, choices in (values | {"length": ["0", "-1", "1e3", "9" * 30, "4"]}).items():
            if rng.random() < 0.8:
                tensor.external_data.add(key=key, value=str(rng.choice(choices)))


def _name(rng: np.random.Generator, proto: onnx.ModelProto) -> None:
    """Rename an input or an output of a node: dangling names, cycles, names twice."""
    if proto.graph.node:
        node = proto.graph.node[rng.integers(len(proto.graph.node))]
        names = node.input if rng.random() < 0.5 else node.output
        if names:
            names[rng.integers(len(names))] = str(rng.choice([*TEXTS, *"abcd"]))


def _operator(rng: np.random.Generator, proto: onnx.ModelProto) -> None:
    if proto.graph.node:
        node = proto.graph.node[rng.integers(len(proto.graph.node))]
        node.op_type = str(
            rng.choice(["Conv", "Gemm", "MatMul", "Loop", "If", "Scan", "Constant", "LSTM", "Reshape", "Split", "Nope"])
        )


def _sparse(rng: np.random.Generator, proto: onnx.ModelProto) -> None:
    sparse = proto.graph.sparse_initializer.add()
    sparse.values.CopyFrom(helper.make_tensor("fc.sparse", TensorProto.FLOAT, [2], [1.0, 2.0]))
    sparse.indices.CopyFrom(helper.make_tensor("", TensorProto.INT64, [2], [0, int(rng.choice([1, -1, 10**12]))]))
    sparse.dims[:] = [NUMBERS[rng.integers(len(NUMBERS))] for _ in range(rng.integers(0, 3))]


def _deep(rng: np.random.Generator, proto: onnx.ModelProto) -> None:
    """An If in an If, some times over."""
    value = helper.make_tensor_value_info("deep", TensorProto.FLOAT, None)
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["deep"])], "g", [], [value])
    for _ in range(int(rng.choice([1, 5, 10]))):
        node = helper.make_node("If", [str(rng.choice(["x", "yes"]))], ["deep"], then_branch=graph, else_branch=graph)
        if len(node.SerializeToString()) > 500_000:
            break
        graph = helper.make_graph([node], "g", [], [value])
    proto.graph.node.extend(graph.node)


def _dimension(rng: np.random.Generator, proto: onnx.ModelProto) -> None:
    values = [*proto.graph.input, *proto.graph.output]
    if values:
        dims = values[rng.integers(len(values))].type.tensor_type.shape.dim
        if dims:
            dims[rng.integers(len(dims))].dim_value = NUMBERS[rng.integers(len(NUMBERS))]


def _metadata(rng: np.random.Generator, proto: onnx.ModelProto) -> None:
    text = rng.choice(
        ["", "{}", "[]", "[" * 5000, '{"parameters": {"conv.weight": 1}}', '{"modules": {"a": {"type": 1}}}', "nul"]
    )
    proto.metadata_props.add(key=METADATA_KEY, value=str(text))


_CHANGES = (
    *(_field, _field, _field, _field, _tensor, _tensor, _external, _name, _name, _operator),
    *(_sparse, _deep, _dimension, _metadata),
)


def _bytes(rng: np.random.Generator, content: bytes) -> bytes:
    data = bytearray(content)
    for _ in range(rng.integers(1, 6)):
        data[rng.integers(len(data))] = rng.integers(256)
    return bytes(data[: rng.integers(len(data) + 1)]) if rng.random() < 0.1 else bytes(data)
