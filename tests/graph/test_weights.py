"""Rewriting: the new model differs from the old in exactly the named bits, byte by byte."""

from itertools import starmap
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import numpy_helper

from bitswap_onnx.errors import ModelError, RunError
from bitswap_onnx.graph.edits import WeightEdit
from bitswap_onnx.graph.model import Model, from_proto, load_model, save_model
from bitswap_onnx.graph.tensors import stored_tensors
from bitswap_onnx.graph.weights import rewrite
from tests.builders import build, cnn, normal, save

CLEAN = from_proto(cnn())
SHAPES = {key: tuple(tensor.dims) for key, tensor in stored_tensors(CLEAN.proto).items()}


def tensor_bytes(model: Model) -> dict[str, bytes]:
    return {key: model.tensor(key).tobytes() for key in stored_tensors(model.proto)}


def differing_bits(clean: dict[str, bytes], faulty: dict[str, bytes]) -> dict[str, int]:
    """All stored bits of each tensor as one integer, XORed."""
    assert clean.keys() == faulty.keys()
    return {key: int.from_bytes(clean[key], "little") ^ int.from_bytes(faulty[key], "little") for key in clean}


@given(
    st.dictionaries(
        st.sampled_from(sorted(SHAPES)),
        st.dictionaries(st.integers(0, 2), st.integers(1, 2**32 - 1), min_size=1, max_size=3),
        min_size=1,
    )
)
def test_exactly_the_named_bits(edits: dict[str, dict[int, int]]) -> None:
    before = CLEAN.proto.SerializeToString(deterministic=True)
    faulty = rewrite(CLEAN, {key: list(starmap(WeightEdit, masks.items())) for key, masks in edits.items()})
    expected = {key: sum(mask << (32 * element) for element, mask in edits.get(key, {}).items()) for key in SHAPES}
    assert differing_bits(tensor_bytes(CLEAN), tensor_bytes(faulty)) == expected
    assert CLEAN.proto.SerializeToString(deterministic=True) == before
    onnx.checker.check_model(faulty.proto)


def test_nothing_but_tensor_data_changes() -> None:
    faulty = rewrite(CLEAN, {"conv.weight": [WeightEdit(0, 1)]})
    for model in (faulty.proto, (clean := onnx.ModelProto.FromString(CLEAN.proto.SerializeToString()))):
        for tensor in model.graph.initializer:
            tensor.ClearField("raw_data")
    assert faulty.proto == clean


def test_no_edits_keep_every_bit() -> None:
    assert tensor_bytes(rewrite(CLEAN, {key: [] for key in SHAPES})) == tensor_bytes(CLEAN)


@pytest.mark.parametrize(
    ("dtype", "field"),
    [("FLOAT", "float_data"), ("FLOAT16", "int32_data"), ("BFLOAT16", "int32_data"), ("INT8", "int32_data"),
     ("DOUBLE", "double_data"), ("INT64", "int64_data")],
)  # fmt: skip
def test_tensors_stored_as_numbers_instead_of_bytes(dtype: str, field: str) -> None:
    tensor = onnx.TensorProto(name="W", dims=[2, 2], data_type=onnx.TensorProto.DataType.Value(dtype))
    getattr(tensor, field).extend([1, 2, 3, 4])
    proto = onnx.ModelProto()
    proto.graph.initializer.append(tensor)
    clean = from_proto(proto)
    faulty = rewrite(clean, {"W": [WeightEdit(2, 0b101)]})
    width = clean.tensor("W").dtype.itemsize * 8
    assert differing_bits(tensor_bytes(clean), tensor_bytes(faulty)) == {"W": 0b101 << (2 * width)}


@pytest.mark.parametrize("width", [2, 4, 8])
@pytest.mark.parametrize("storage", ["raw", "numbers", "external"])
def test_packed_elements(width: int, storage: str, tmp_path: Path) -> None:
    """Elements below a byte lie packed from the low end, the first first; the oracle counts bits in the stored bytes."""
    data_type = {2: onnx.TensorProto.UINT2, 4: onnx.TensorProto.INT4, 8: onnx.TensorProto.FLOAT8E4M3FN}[width]
    content = bytes(np.random.default_rng(0).integers(0, 256, -(-13 * width // 8), np.uint8))
    content = (int.from_bytes(content, "little") % (1 << 13 * width)).to_bytes(len(content), "little")
    proto = build("m (float[N, 2] x) => (float[N, 2] y) { y = Identity (x) }", 25)
    tensor = proto.graph.initializer.add(name="t", dims=[13], data_type=data_type, raw_data=content)
    if storage == "numbers":
        tensor.ClearField("raw_data")
        tensor.int32_data.extend(content)
    path = tmp_path / "m.onnx"
    onnx.save(proto, path, save_as_external_data=storage == "external", location="data", size_threshold=0)
    faulty = rewrite(load_model(path), {"t": [WeightEdit(0, 1), WeightEdit(11, 2), WeightEdit(12, 1 << (width - 1))]})
    changes = 1 | 2 << 11 * width | 1 << (13 * width - 1)
    stored = stored_tensors(faulty.proto)["t"]
    assert int.from_bytes(stored.raw_data, "little") == int.from_bytes(content, "little") ^ changes
    assert stored.data_type == data_type
    assert not faulty.has_external_data


def test_tensors_in_constant_nodes_and_subgraphs() -> None:
    proto = build(
        """net (float[N, 2] x, bool c) => (float[N, 2] y) {
            k = Constant <value = float[2, 2] {1.0, 2.0, 3.0, 4.0}> ()
            m = MatMul (x, k)
            [choice] y = If (c) <
                then_branch = a () => (float[N, 2] z) <float[2, 2] W = {1, 0, 0, 1}> { z = MatMul (m, W) },
                else_branch = b () => (float[N, 2] z2) <float[2, 2] W = {1, 0, 0, 1}> { z2 = MatMul (m, W) }
            >
        }"""
    )
    clean = from_proto(proto)
    faulty = rewrite(clean, {"k": [WeightEdit(3, 1)], "y/else_branch::W": [WeightEdit(0, 1 << 31)]})
    changed = {key: bits for key, bits in differing_bits(tensor_bytes(clean), tensor_bytes(faulty)).items() if bits}
    assert changed == {"k": 1 << 96, "y/else_branch::W": 1 << 31}
    assert faulty.tensor("y/else_branch::W")[0, 0] == -1


@pytest.fixture
def external(tmp_path: Path) -> Path:
    """A model whose two kernels lie in one external file."""
    (tmp_path / "clean").mkdir()
    proto = build(
        "net (float[N, 8] x) => (float[N, 8] y) {\n a = MatMul (x, W)\n y = MatMul (a, V)\n}",
        W=normal(8, 8),
        V=normal(8, 8, seed=1),
    )
    path = tmp_path / "clean" / "model.onnx"
    onnx.save_model(proto, path, save_as_external_data=True, location="model.data", size_threshold=0)
    return path


def test_external_data(external: Path, tmp_path: Path) -> None:
    clean = load_model(external)
    assert np.array_equal(clean.tensor("V"), normal(8, 8, seed=1))
    faulty = rewrite(clean, {"V": [WeightEdit(9, 1 << 30)]})
    saved = tmp_path / "faulty.onnx"
    save_model(faulty, saved)
    for model in (faulty, load_model(saved)):
        assert differing_bits(tensor_bytes(clean), tensor_bytes(model)) == {"W": 0, "V": 1 << (32 * 9 + 30)}
    assert {path.name for path in tmp_path.iterdir()} == {"clean", "faulty.onnx", "faulty.onnx.data"}
    again = onnx.load(saved)
    assert np.array_equal(numpy_helper.to_array(again.graph.initializer[0]), normal(8, 8))


def test_saving_never_overwrites_the_data_of_another_model(external: Path) -> None:
    clean = load_model(external)
    (external.parent / "other.onnx.data").write_bytes(b"precious")
    with pytest.raises(ModelError, match=r"other.onnx.data: exists already"):
        save_model(clean, external.parent / "other.onnx")
    assert (external.parent / "other.onnx.data").read_bytes() == b"precious"
    assert not (external.parent / "other.onnx").exists()


def test_saving_where_nothing_can_be_written(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"f.onnx: cannot write: there is no folder .*missing; make it first"):
        save_model(CLEAN, tmp_path / "missing" / "f.onnx")


def test_a_saved_model_is_the_model(tmp_path: Path) -> None:
    save_model(rewrite(CLEAN, {"fc.weight": [WeightEdit(5, 4)]}), tmp_path / "f.onnx")
    expected = tensor_bytes(rewrite(CLEAN, {"fc.weight": [WeightEdit(5, 4)]}))
    assert tensor_bytes(load_model(tmp_path / "f.onnx")) == expected
    assert save(CLEAN.proto, tmp_path / "c.onnx").exists()
