"""The digits model as it ships: accuracy in ONNX Runtime, and what its fault list covers; training it anew."""

import csv
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from bitswap_onnx.errors import ModelError
from bitswap_onnx.faults.fault_list import read_fault_list
from bitswap_onnx.graph.model import load_model
from bitswap_onnx.graph.resolve import Resolver
from bitswap_onnx.models import digits

REPOSITORY = Path(__file__).resolve().parents[2]
MODEL = REPOSITORY / "models" / "digits_cnn.onnx"
IMAGES = REPOSITORY / "models" / "digits_cnn.npz"
FAULTS = REPOSITORY / "fault_lists" / "digits_cnn.csv"


def test_accuracy_in_onnx_runtime() -> None:
    with np.load(IMAGES, allow_pickle=False) as data:
        x, y = data["x"], data["y"]
    assert (x.shape, x.dtype, y.shape, y.dtype) == ((360, 1, 8, 8), np.float32, (360,), np.int64)
    assert (x.min(), x.max()) == (0, 1)
    assert np.bincount(y).min() >= 34
    scores = ort.InferenceSession(MODEL).run(None, {"input": x})[0]
    assert scores.shape == (360, 10)
    assert np.mean(scores.argmax(1) == y) > 0.97


def test_the_model_is_small_and_unfolded() -> None:
    assert MODEL.stat().st_size < 100_000
    operators = Counter(node.op_type for node in onnx.load(MODEL).graph.node)
    assert (operators["Conv"], operators["BatchNormalization"], operators["Gemm"]) == (3, 3, 1)
    assert load_model(MODEL).metadata["framework"] == "torch"


def test_the_fault_list_covers_every_bit_and_parameter() -> None:
    with FAULTS.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["Injection", "Layer", "TensorIndex", "Bit", "Parameter"]
    assert len(rows) == 500
    assert {int(row["Bit"]) for row in rows} == set(range(32))
    norms = {(f"bn{i}", role) for i in (1, 2, 3) for role in ("bn_scale", "bn_bias", "bn_mean", "bn_var")}
    kernels = {(layer, "weight") for layer in ("conv1", "conv2", "conv3", "linear")}
    assert {(row["Layer"], row["Parameter"]) for row in rows} == norms | kernels | {("linear", "bias")}
    assert len({(row["Layer"], row["Parameter"], row["TensorIndex"], row["Bit"]) for row in rows}) == 500


def test_every_fault_resolves_to_another_element_value() -> None:
    resolver = Resolver(load_model(MODEL))
    resolved = [resolver.resolve(injection) for injection in read_fault_list(FAULTS)]
    assert len(resolved) == 500
    assert all(injection.changes for injection in resolved)


@pytest.mark.torch
def test_training_twice_gives_the_same_files(tmp_path: Path) -> None:
    folders = tmp_path / "a", tmp_path / "b"
    for folder in folders:
        (folder / "models").mkdir(parents=True)
        (folder / "fault_lists").mkdir()
        assert digits.make(folder) > 0.97
    for name in ("models/digits_cnn.onnx", "models/digits_cnn.npz", "fault_lists/digits_cnn.csv"):
        assert (folders[0] / name).read_bytes() == (folders[1] / name).read_bytes()
    assert (folders[0] / "fault_lists/digits_cnn.csv").read_bytes() == FAULTS.read_bytes()
    with np.load(folders[0] / "models/digits_cnn.npz") as new, np.load(IMAGES) as shipped:
        assert all(np.array_equal(new[key], shipped[key]) for key in ("x", "y"))


def test_folders_must_be_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ModelError, match=r"models: expected a folder to write to"):
        digits.make(tmp_path)
    with pytest.raises(SystemExit, match="1"):
        digits.main(["--out", str(tmp_path)])
    assert capsys.readouterr().err.count("\n") == 1
