"""Damaged lists, models and datasets are read or refused by an error of the family: seeded cases, and each kind found."""

from pathlib import Path

import numpy as np
import onnx
import pytest

from bitswap_onnx.data.images import Decoding
from bitswap_onnx.data.readers import open_data
from bitswap_onnx.data.synthetic import synthetic_dataset
from bitswap_onnx.errors import DataError, FaultListError, ModelError
from bitswap_onnx.faults.fault_list import read_fault_list
from bitswap_onnx.graph.model import from_proto, load_model
from bitswap_onnx.graph.signature import model_input
from tests.benchmarks.mutations.__main__ import run_cases
from tests.builders import cnn, save

CASES = {"lists": 300, "models": 60, "data": 150}


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::RuntimeWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("kind", CASES)
def test_every_damaged_file_is_read_or_refused(kind: str, tmp_path: Path) -> None:
    if kind == "data":
        pytest.importorskip("PIL")
    tally = run_cases(kind, 7, range(CASES[kind]), tmp_path)
    assert tally.failures == []
    assert tally.outcomes["read"]
    assert tally.outcomes["refused: load"]


def test_bytes_of_a_tensor_must_fit_its_shape(tmp_path: Path) -> None:
    proto = cnn()
    proto.graph.initializer[1].dims[:] = [7]
    with pytest.raises(ModelError, match=r"conv.bias of shape \[7\] needs 28 bytes, found 12"):
        load_model(save(proto, tmp_path / "m.onnx"))
    proto.graph.initializer[1].dims[:] = [-3]
    with pytest.raises(ModelError, match=r"has the shape \[-3\], and a size below 0"):
        load_model(save(proto, tmp_path / "m.onnx"))


def test_models_and_nodes_have_outputs(tmp_path: Path) -> None:
    proto = cnn()
    del proto.graph.output[:]
    with pytest.raises(ModelError, match="its graph has no outputs"):
        load_model(save(proto, tmp_path / "m.onnx"))
    proto = cnn()
    body = onnx.helper.make_graph([], "body", [], [])
    proto.graph.node.append(onnx.helper.make_node("If", ["x"], [], then_branch=body, else_branch=body))
    with pytest.raises(ModelError, match=r"\(If\) has no outputs"):
        load_model(save(proto, tmp_path / "m.onnx"))


def test_sizes_that_no_memory_holds_are_refused() -> None:
    proto = cnn()
    proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 10**12
    with pytest.raises(ModelError, match="expected a batch of at most 1,048,576 inputs, found 1,000,000,000,000"):
        model_input(from_proto(proto))
    with pytest.raises(
        DataError, match="2 synthetic inputs would take 8,000 GB, more than 9; give a dataset as `data`"
    ):
        synthetic_dataset((10**12,), np.dtype(np.float32), 2, 0)


@pytest.mark.parametrize(
    "row",
    [f"0,{'a' * 5000},(0),1,,", f"0,fc,(0),1,{'a' * 5000},", f"0,fc,(0),1,,{'a' * 5000}"],
    ids=["layer", "parameter", "kind"],
)
def test_messages_about_long_cells_are_short(row: str, tmp_path: Path) -> None:
    (tmp_path / "f.csv").write_text(f"Injection,Layer,TensorIndex,Bit,Parameter,Kind\n{row}\n")
    with pytest.raises(FaultListError) as caught:
        list(read_fault_list(tmp_path / "f.csv"))
    assert len(str(caught.value)) < 300


def test_messages_about_damaged_data_are_short(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", **{"n" * 5000: np.zeros(3)})  # type: ignore[arg-type]
    with pytest.raises(DataError) as caught:
        open_data(tmp_path / "x.npz", None, Decoding())
    assert len(str(caught.value)) < 400
    np.save(tmp_path / "x.npy", np.zeros((2, 3), np.float32))
    (tmp_path / "labels.csv").write_text("x" * 40_000)
    with pytest.raises(DataError) as caught:
        open_data(tmp_path / "x.npy", tmp_path / "labels.csv", Decoding())
    assert len(str(caught.value)) < 400
