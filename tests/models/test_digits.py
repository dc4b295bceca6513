"""The digits model as it ships: accuracy in ONNX Runtime, and what its fault list covers; training it anew."""

import csv
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from bitswap_onnx.campaign.options import RunOptions
from bitswap_onnx.campaign.run import run_campaign
from bitswap_onnx.campaign.settings import Settings
from bitswap_onnx.campaign.setup import prepare
from bitswap_onnx.errors import ModelError
from bitswap_onnx.estimates.groups import ALL
from bitswap_onnx.estimates.question import Question
from bitswap_onnx.estimates.rates import estimate_rates
from bitswap_onnx.faults.fault_list import read_fault_list
from bitswap_onnx.graph.model import load_model
from bitswap_onnx.graph.resolve import Resolver
from bitswap_onnx.models import digits
from bitswap_onnx.sampling.design import read_design

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


def test_list_and_design_are_those_that_ship(tmp_path: Path) -> None:
    digits.write_example_faults(MODEL, tmp_path / "digits_cnn.csv")
    for name in ("digits_cnn.csv", "digits_cnn.design.json"):
        assert (tmp_path / name).read_bytes() == FAULTS.with_name(name).read_bytes()


def test_the_design_is_how_the_list_was_drawn() -> None:
    """Counted from the CSV file: each fault's stratum is its tensor and how often its bit occurs in the list."""
    design = read_design(FAULTS.with_suffix(".design.json"))
    with FAULTS.open(newline="") as file:
        rows = [(row["Layer"], row["Parameter"], int(row["Bit"])) for row in csv.DictReader(file)]
    times = Counter(bit for *_, bit in rows)
    assert set(times.values()) == {15, 16}
    assert design.order is not None
    strata = [design.strata[number] for number in design.order]
    assert [(entry.layer, entry.parameter) for entry in strata] == [(layer, parameter) for layer, parameter, _ in rows]
    for entry, (*_, bit) in zip(strata, rows, strict=True):
        assert set(entry.bits) == {other for other in times if times[other] == times[bit]}
    initializers = onnx.load(MODEL).graph.initializer
    stored = sum(onnx.numpy_helper.to_array(tensor).size for tensor in initializers if tensor.data_type == 1)
    assert design.population == 32 * stored == sum(entry.population for entry in design.strata)
    assert Counter(entry.name for entry in strata) == {entry.name: entry.size for entry in design.strata}


def test_the_estimate_weights_tensors_by_their_size(tmp_path: Path) -> None:
    """Against a mean by hand: of each stratum's critical shares, as results.csv counts them, weighted by its size."""
    run_campaign(prepare(MODEL, Settings(first=32)), FAULTS, options=RunOptions(run=tmp_path / "run", workers=0))
    design = read_design(FAULTS.with_suffix(".design.json"))
    with (tmp_path / "run" / "results.csv").open(newline="") as file:
        shares = np.array([int(row["critical"]) / int(row["n_injections"]) for row in csv.DictReader(file)])
    order = np.array(design.order)
    means = [shares[order == number].mean() for number in range(len(design.strata))]
    expected = np.average(means, weights=[entry.population for entry in design.strata])
    rates = estimate_rates(tmp_path / "run", Question(by=("network",)))
    assert rates.find("network", ALL, "critical").mean == pytest.approx(expected)
    assert any(f"over its faults is {100 * shares.mean():.4g} %" in note for note in rates.notes)
    assert rates.strata is not None
    assert rates.strata.bits == design.population


@pytest.mark.torch
def test_training_twice_gives_the_same_files(tmp_path: Path) -> None:
    folders = tmp_path / "a", tmp_path / "b"
    for folder in folders:
        (folder / "models").mkdir(parents=True)
        (folder / "fault_lists").mkdir()
        assert digits.make(folder) > 0.97
    lists = "fault_lists/digits_cnn.csv", "fault_lists/digits_cnn.design.json"
    for name in ("models/digits_cnn.onnx", "models/digits_cnn.npz", *lists):
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
