"""Loading models: the files that are accepted, and the one-line error for all others."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx.external_data_helper import set_external_data

from bitswap_onnx.errors import ModelError
from bitswap_onnx.graph.model import from_proto, load_model, save_model
from bitswap_onnx.graph.signature import ends_in_softmax, model_input, score_output
from tests.builders import build, cnn, normal, save


def test_loading(tmp_path: Path) -> None:
    model = load_model(save(cnn(), tmp_path / "net.onnx"))
    assert model.name == "net"
    assert np.array_equal(model.tensor("conv.weight"), normal(3, 1, 3, 3, seed=0))
    assert not model.has_external_data
    other = load_model(save(cnn(seed=9), tmp_path / "other.onnx"))
    assert model.sha256 != other.sha256


@pytest.mark.parametrize("opset", [7, 9, 13, 17, 21, 26])
def test_opsets(tmp_path: Path, opset: int) -> None:
    load_model(save(build("net (float[N, 2] x) => (float[N, 2] y) { y = Relu (x) }", opset), tmp_path / "m.onnx"))


def broken(tmp_path: Path, case: str) -> Path:
    path = tmp_path / "m.onnx"
    relu = "net (float[N, 2] x) => (float[N, 2] y) { y = Relu (x) }"
    match case:
        case "missing":
            pass
        case "folder":
            path.mkdir()
        case "text":
            path.write_text("Injection,Layer,TensorIndex,Bit\n")
        case "empty":
            path.write_bytes(b"")
        case "cut":
            path.write_bytes(cnn().SerializeToString()[:-40])
        case "old opset":
            save(build(relu, 6), path)
        case "new opset":
            save(build(relu, 27), path)
        case "new ir":
            save(build(relu, 20, 14), path)
        case "invalid":
            save(build("net (float[N, 2] x) => (float[N, 2] y) { y = Relu (nothing) }"), path)
        case "unknown operator":
            save(build("net (float[N, 2] x) => (float[N, 2] y) { y = Rellu (x) }"), path)
    return path


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("missing", "m.onnx: cannot read the model: No such file"),
        ("folder", "m.onnx: cannot read the model: Is a directory"),
        ("text", "m.onnx: not an ONNX model"),
        ("empty", "m.onnx: not an ONNX model: it has no graph"),
        ("cut", "m.onnx: not an ONNX model"),
        ("old opset", "expected opset 7 to 26, found 6; convert it"),
        ("new opset", "expected opset 7 to 26, found 27"),
        ("new ir", "expected IR version 13 or lower, found 14"),
        ("invalid", "not a valid ONNX model: .*nothing"),
        ("unknown operator", "not a valid ONNX model: .*Rellu"),
    ],
)
def test_what_is_no_model(tmp_path: Path, case: str, message: str) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        load_model(broken(tmp_path, case))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "net.pt",
            "`bitswap-onnx export torch` makes an ONNX file of a PyTorch module, .* with a checkpoint as its `weights`",
        ),
        ("net.safetensors", "with a checkpoint as its `weights`"),
        ("net.pt2", "`bitswap-onnx export torch`"),
        ("net.KERAS", "`bitswap-onnx export keras`"),
        ("net.h5", "`bitswap-onnx export keras`"),
        ("net.tflite", "no command takes a .tflite"),
        ("faults.csv", "it looks like a fault list: the model comes first"),
        ("data.npz", "it looks like a dataset: `data` takes it"),
        ("saved", "no command takes a SavedModel"),
    ],
)
def test_files_of_another_kind_are_told_where_they_belong(tmp_path: Path, name: str, message: str) -> None:
    path = tmp_path / name
    if path.suffix:
        path.write_bytes(b"PK\x03\x04 no model")
    else:
        path.mkdir()
        (path / "saved_model.pb").touch()
    with pytest.raises(ModelError, match=message):
        load_model(path)


def not_readable(case: str) -> bytes:
    proto, old, new = cnn(), b"", b""
    first = proto.graph.initializer[0]
    match case:
        case "name":
            old, new = b"conv.weight", b"conv.weigh\xff"
        case "attribute":
            proto.graph.node[0].attribute[0].name = "kernel_shapes"
            old, new = b"kernel_shapes", b"kernel_shape\xc3"
        case "type":
            first.data_type = 99
        case "no type":
            first.data_type = 0
        case "segment":
            first.segment.end = 3
        case "input":
            proto.graph.input[0].type.tensor_type.elem_type = 77
    content: bytes = proto.SerializeToString()
    return content.replace(old, new) if old else content


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("name", "m.onnx: .*expected names in UTF-8, found other bytes in the field (name|input) of "),
        ("attribute", "expected names in UTF-8, found other bytes in the field name of GraphProto net"),
        ("type", "TensorProto conv.weight has the element type 99, which no version of ONNX has"),
        ("no type", "TensorProto conv.weight has the element type 0"),
        ("segment", "TensorProto conv.weight is stored in segments"),
        ("input", "ValueInfoProto x has the element type 77"),
    ],
)
def test_what_decodes_and_cannot_be_read(tmp_path: Path, case: str, message: str) -> None:
    (tmp_path / "m.onnx").write_bytes(not_readable(case))
    with pytest.raises(ModelError, match=message):
        load_model(tmp_path / "m.onnx")


@pytest.mark.parametrize(
    ("location", "length", "message"),
    [
        ("gone.bin", None, "the external data of tensor W is missing: expected gone.bin beside it"),
        ("../outside.bin", 16, "tensor W points outside the model's folder"),
        ("short.bin", 15, "short.bin: expected at least 16 bytes of external data, found 15"),
        ("link.bin", 16, "tensor W points outside the model's folder"),
    ],
)
def test_external_data(tmp_path: Path, location: str, length: int | None, message: str) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    proto = build("net (float[N, 2] x) => (float[N, 2] y) { y = MatMul (x, W) }", W=np.ones((2, 2), np.float32))
    set_external_data(proto.graph.initializer[0], location)
    proto.graph.initializer[0].ClearField("raw_data")
    if location == "link.bin":
        (tmp_path / "secret.bin").write_bytes(b"\0" * 16)
        (folder / "link.bin").symlink_to(tmp_path / "secret.bin")
    elif length is not None:
        (folder / location).write_bytes(b"\0" * length)
    with pytest.raises(ModelError, match=message):
        load_model(save(proto, folder / "m.onnx"))


@pytest.mark.parametrize(
    "text",
    ["[", "5", '{"parameters": ["w"]}', '{"parameters": {"w": {}}}', '{"parameters": {"w": "zz"}}', "[" * 100_000,
     '{"parameters": {"w": {"layer": "a", "parameter": "b", "aliases": 5}}}'],
)  # fmt: skip
def test_damaged_metadata(text: str) -> None:
    proto = cnn()
    onnx.helper.set_model_props(proto, {"bitswap_onnx": text})
    with pytest.raises(ModelError, match="its metadata bitswap_onnx is damaged"):
        _ = from_proto(proto).metadata


@pytest.mark.parametrize(("key", "value"), [("offset", "abc"), ("offset", "-4"), ("location", "w" * 5000)])
def test_damaged_external_data(tmp_path: Path, key: str, value: str) -> None:
    proto = build("net (float[N, 2] x) => (float[N, 2] y) { y = MatMul (x, W) }", W=np.ones((2, 2), np.float32))
    tensor = proto.graph.initializer[0]
    set_external_data(tensor, "w.bin")
    tensor.ClearField("raw_data")
    (tmp_path / "w.bin").write_bytes(b"\0" * 16)
    del tensor.external_data[:]
    for name, entry in {"location": "w.bin", key: value}.items():
        tensor.external_data.add(key=name, value=entry)
    with pytest.raises(ModelError, match=r"m.onnx: .*external data"):
        load_model(save(proto, tmp_path / "m.onnx"))


def test_packed_external_data_has_half_the_bytes(tmp_path: Path) -> None:
    proto = build("net (float[N, 2] x) => (float[N, 2] y) { y = Identity (x) }")
    tensor = onnx.TensorProto(
        name="W", dims=[7], data_type=onnx.TensorProto.INT4, data_location=onnx.TensorProto.EXTERNAL
    )
    tensor.external_data.add(key="location", value="w.bin")
    proto.graph.initializer.append(tensor)
    proto.opset_import[0].version = 21
    (tmp_path / "w.bin").write_bytes(b"\x12\x34\x56\x07")
    clean = load_model(save(proto, tmp_path / "m.onnx"))
    save_model(clean, tmp_path / "copy.onnx")
    assert (tmp_path / "copy.onnx.data").read_bytes() == b"\x12\x34\x56\x07"


def test_the_hash_covers_external_data(tmp_path: Path) -> None:
    proto = build("net (float[N, 2] x) => (float[N, 2] y) { y = MatMul (x, W) }", W=np.ones((2, 2), np.float32))
    onnx.save_model(proto, tmp_path / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0)
    before = load_model(tmp_path / "m.onnx").sha256
    (tmp_path / "m.data").write_bytes(normal(2, 2).tobytes())
    assert load_model(tmp_path / "m.onnx").sha256 != before


def head(inputs: str, outputs: str, body: str = "y = Relu (x)") -> onnx.ModelProto:
    return build(f"net ({inputs}) => ({outputs}) {{ {body} }}")


def test_input() -> None:
    spec = model_input(from_proto(head("float[N, 3, 8, 8] x", "float[N, 3, 8, 8] y")))
    assert (spec.name, spec.shape, spec.batch, spec.dtype) == ("x", (3, 8, 8), None, np.dtype(np.float32))
    spec = model_input(from_proto(head("float[16, H, W] x", "float[16, H, W] y")), (8, 9))
    assert (spec.shape, spec.batch) == ((8, 9), 16)


@pytest.mark.parametrize(
    ("inputs", "shape", "message"),
    [
        (
            "float[N, 3, H, W] x",
            None,
            r"\(batch, 3, \?, \?\) leaves more than the batch open; give its sizes with `input_shape`",
        ),
        ("float[N, 3, H, W] x", (1, 8, 8), r"`input_shape` 1,8,8 does not fit the input shape \(batch, 3, \?, \?\)"),
        ("float[N, 3] x", (3, 8), r"`input_shape` 3,8 does not fit"),
        ("float[N, 3] x, float[N] other", None, r"expected a model with one input, found 2 \(x, other\)"),
        ("float[N, 3, 8] x", (3, 9), r"`input_shape` 3,9 does not fit the input shape \(batch, 3, 8\)"),
        ("bfloat16[N, 3] x", None, "expected an input of a number type that numpy has .*, found BFLOAT16 for x"),
        ("float x", None, "expected an input with a batch dimension, found no shape declared for x"),
    ],
)
def test_inputs_that_do_not_do(inputs: str, shape: tuple[int, ...] | None, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        model_input(from_proto(head(inputs, "float[N, 3] y")), shape)


@pytest.mark.parametrize("dims", [(-1, 3), (-1, -1)])
def test_dimensions_of_minus_one_are_open(dims: tuple[int, int]) -> None:
    proto = head("float[N, 3] x", "float[N, 3] y")
    for dim, value in zip(proto.graph.input[0].type.tensor_type.shape.dim, dims, strict=True):
        dim.dim_value = value
    assert model_input(from_proto(proto), (3,)).batch is None


TWO = "y = Relu (x)\n features = Flatten (x)\n z = Relu (x)\n one = Identity (x)"


@pytest.mark.parametrize(
    ("outputs", "name", "found"),
    [
        ("float[N, 10] y", None, "y"),
        ("float[N, 10] y, float[N, 4, 4] features", None, "y"),
        ("float[N, 10] y, float[N, 5] z", "z", "z"),
        ("float[N, C] y", None, "y"),
    ],
)
def test_score_output(outputs: str, name: str | None, found: str) -> None:
    assert score_output(from_proto(head("float[N, 10] x", outputs, TWO)), name) == found


@pytest.mark.parametrize(
    ("outputs", "name", "message"),
    [
        (
            "float[N, 4, 4] features",
            None,
            r"of shape \(batch, classes >= 2\), found features.*`criterion`",
        ),
        ("float[N, 1] one", None, "`criterion` tolerance=REL"),
        ("float[N, 10] y, float[N, 5] z", None, r"several outputs fit \(y, z\); choose one with `output`"),
        ("float[N, 10] y", "q", "no output 'q'; the outputs are y"),
        ("float[N, 1] one", "one", "`criterion` tolerance=REL"),
    ],
)
def test_outputs_that_are_no_scores(outputs: str, name: str | None, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        score_output(from_proto(head("float[N, 10] x", outputs, TWO)), name)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("y = Softmax (x)", True),
        ("a = Softmax (x)\n y = Identity (a)", True),
        ("y = LogSoftmax (x)", False),
        ("a = Softmax (x)\n y = Relu (a)", False),
        ("y = Identity (x)", False),
    ],
)
def test_probabilities(body: str, expected: bool) -> None:
    assert ends_in_softmax(from_proto(head("float[N, 10] x", "float[N, 10] y", body)), "y") is expected
