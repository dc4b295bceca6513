"""What the speed benchmarks compare with: the plain ONNX Runtime loop, and the kernels that exactness needs."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from bitswap_onnx.campaign.options import RunOptions
from bitswap_onnx.campaign.run import run_campaign
from bitswap_onnx.campaign.settings import Settings
from bitswap_onnx.campaign.setup import Setup, prepare
from bitswap_onnx.faults.fault import Fault, Injection
from bitswap_onnx.faults.fault_list import write_fault_list
from bitswap_onnx.runtime.session import Numerics
from tests.benchmarks.kernel_floor import Cost, Layer, changed_rows, floor_seconds, golden_values, measure
from tests.benchmarks.plain_loop import Flip

REPO = Path(__file__).parent.parent
INPUTS = 64


@pytest.fixture(scope="module")
def setup() -> Setup:
    return prepare(REPO / "models/digits_cnn.onnx", Settings(first=INPUTS, layout="plain"))


def test_the_plain_loop_counts_as_a_campaign_does(setup: Setup, tmp_path: Path) -> None:
    faults = [Injection(f"bit{bit}", (Fault("conv1", (3, 0, 1, 1), bit),)) for bit in (2, 23, 30, 31)]
    write_fault_list(tmp_path / "list.csv", faults)
    np.savez(tmp_path / "images.npz", x=setup.dataset.batch(0, INPUTS))
    paths = [str(path) for path in (setup.path, tmp_path / "list.csv", tmp_path / "images.npz")]
    command = [sys.executable, "-m", "tests.benchmarks.plain_loop", *paths, "--threads", "1"]
    printed = subprocess.check_output(command, cwd=REPO, text=True)
    run_campaign(setup, faults, options=RunOptions(run=tmp_path / "run", workers=0))
    with (tmp_path / "run/results.csv").open(newline="") as file:
        ours = {row["Injection"]: int(row["critical"]) for row in csv.DictReader(file)}
    found = json.loads(printed)
    assert found["critical"] == ours
    assert max(ours.values()) > 0
    assert len(found["seconds"]) == 4


def test_a_layer_ends_where_elements_mix(setup: Setup) -> None:
    layer = Layer(setup.slicer, "conv2.weight")  # relu → Conv → BatchNormalization → Relu, relu_1 → Conv
    assert (layer.before, layer.value, layer.behind) == (("relu",), "relu_1", ("relu_1",))
    last = Layer(setup.slicer, "conv3.weight")  # → Relu → ReduceMean
    assert last.value == "relu_2"


def test_costs_of_a_layer(setup: Setup) -> None:
    """A flip of the top bit changes every image. Of the cost, the part behind and 1/16 of the layer count, on 2 workers."""
    layer = Layer(setup.slicer, "conv1.weight")
    golden = golden_values(setup.slicer, Numerics(), setup.dataset.batch(0, INPUTS), {*layer.before, *layer.behind})
    cost = measure(layer, Numerics(), golden, [Flip("conv1.weight", (3, 0, 1, 1), 30)])
    assert cost.changed == 1
    assert 0 < cost.layer < 1
    assert 0 < cost.suffix < 1
    assert Cost(layer=0.16, suffix=0.5, changed=0.5).per_inference == pytest.approx(0.13)


def test_the_floor_is_a_mean_over_faults(setup: Setup) -> None:
    faults = [Injection(str(bit), (Fault("conv2", (0, 0, 0, 0), bit),)) for bit in (0, 30)]
    images = setup.dataset.batch(0, INPUTS)
    assert 0 < floor_seconds(setup.model, Numerics(), setup.output, images, faults) < 0.1


def test_rows_that_changed() -> None:
    clean = np.array([[0.0, 1.0], [2.0, 3.0]], np.float32)
    assert changed_rows(clean, clean) == 0
    assert changed_rows(clean, np.array([[-0.0, 1.0], [2.0, 3.0]], np.float32)) == 0.5
