"""Neurons of ordinary networks: values inside what the runtime would fuse, and layers that faults cannot get at."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

from bitswap_onnx.campaign.options import RunOptions
from bitswap_onnx.campaign.run import run_campaign
from bitswap_onnx.campaign.settings import Settings
from bitswap_onnx.campaign.setup import prepare
from bitswap_onnx.errors import FaultListError, ModelError
from bitswap_onnx.experiments.neurons.run import run_neurons
from bitswap_onnx.experiments.ranking.run import evaluate_robustness
from bitswap_onnx.experiments.sweep.run import sweep_errors
from bitswap_onnx.faults.fault import Fault, Injection, Site
from tests.builders import build, normal, save

INPUTS = 40

#: A residual sum behind a convolution with bias, as every Keras ResNet has it: the runtime computes both in one piece.
RESIDUAL = """net (float[N, 3, 8, 8] x) => (float[N, 5] scores) {
    a = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (x, "c1.weight", "c1.bias")
    r = Relu (a)
    b = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (r, "c2.weight", "c2.bias")
    s = Add (r, b)
    t = Relu (s)
    g = GlobalAveragePool (t)
    f = Flatten (g)
    scores = Gemm <transB = 1> (f, "fc.weight", "fc.bias")
}"""

VALUES = ("a", "r", "b", "s", "t", "g", "f", "scores")


def residual() -> onnx.ModelProto:
    proto = build(
        RESIDUAL,
        c1__weight=normal(8, 3, 3, 3),
        c1__bias=normal(8, seed=1),
        c2__weight=normal(8, 8, 3, 3, seed=2),
        c2__bias=normal(8, seed=3),
        fc__weight=normal(5, 8, seed=4),
        fc__bias=normal(5, seed=5),
    )
    for node in proto.graph.node:
        node.name = f"n_{node.output[0]}"
    return proto


def half() -> onnx.ModelProto:
    """The CPU computes half precision in single, and rounds where it hands a value on: not at each."""
    return build(
        """net (float16[N, 12] x) => (float16[N, 5] scores) {
            a = MatMul (x, "fc1.weight")
            b = Add (a, "fc1.bias")
            scores = MatMul (b, "fc2.weight")
        }""",
        fc1__weight=normal(12, 16, dtype=np.float16),
        fc1__bias=normal(16, seed=1, dtype=np.float16),
        fc2__weight=normal(16, 5, seed=2, dtype=np.float16),
    )


@pytest.fixture
def model(tmp_path: Path) -> Path:
    np.savez(tmp_path / "net.npz", x=normal(INPUTS, 3, 8, 8, seed=7), y=np.arange(INPUTS) % 5)
    return save(residual(), tmp_path / "net.onnx")


@pytest.fixture
def half_model(tmp_path: Path) -> Path:
    np.savez(tmp_path / "half.npz", x=normal(INPUTS, 12, seed=7, dtype=np.float16), y=np.arange(INPUTS) % 5)
    return save(half(), tmp_path / "half.onnx")


def parted(proto: onnx.ModelProto, value: str) -> tuple[Any, Any]:
    """Two plain sessions that optimise nothing: up to a value, and from it on."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    shaped = onnx.shape_inference.infer_shapes(proto)
    extractor = onnx.utils.Extractor(shaped)
    parts = extractor.extract_model(["x"], [value]), extractor.extract_model(sorted({value, *_past(value)}), ["scores"])
    before, behind = (ort.InferenceSession(part.SerializeToString(), options) for part in parts)
    return before, behind


def _past(value: str) -> list[str]:
    """The residual path that goes past a value."""
    return ["r"] if value in ("a", "b") else []


@pytest.mark.parametrize("value", ["r", "b", "s", "t", "g"])
def test_faults_behind_every_layer_predict_what_plain_sessions_predict(value: str, model: Path, tmp_path: Path) -> None:
    """The value is read, changed by numpy, and fed to the rest."""
    proto, x = onnx.load(model), np.load(tmp_path / "net.npz")["x"]
    draw = np.random.default_rng(3)
    shape = (8,) if value == "g" else (8, 8, 8)
    cells = [tuple(int(draw.integers(size)) for size in shape) for _ in range(12)]
    index = [(*cell, 0, 0) if value == "g" else cell for cell in cells]
    injections = [
        Injection(f"f{i}", (Fault(f"n_{value}", cell, 30, site=Site.OUTPUT, input=None),))
        for i, cell in enumerate(index)
    ]
    run_campaign(prepare(model), injections, options=RunOptions(run=tmp_path / "run", workers=0, save_outputs=True))
    before, behind = parted(proto, value)
    (clean,) = before.run([value], {"x": x})
    feeds = {name.name: None for name in behind.get_inputs()}
    for i, cell in enumerate(index):
        held = clean.copy()
        held.view(np.uint32)[(slice(None), *cell)] ^= np.uint32(1 << 30)
        fed = {name: held if name == value else _value(proto, name, x) for name in feeds}
        (expected,) = behind.run(["scores"], fed)
        found = np.load(tmp_path / f"run/outputs/inj_f{i}.npy")
        np.testing.assert_array_equal(found.argmax(axis=1), expected.argmax(axis=1))
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def _value(proto: onnx.ModelProto, name: str, x: NDArray[Any]) -> NDArray[Any]:
    if name == "x":
        return x
    before, _ = parted(proto, name)
    (found,) = before.run([name], {"x": x})
    return np.asarray(found)


def test_neurons_and_rank_take_all_layers_of_a_residual_network(model: Path, tmp_path: Path) -> None:
    notes: list[str] = []
    campaign = run_neurons(
        model, layers="*", options=RunOptions(run=tmp_path / "neurons", workers=0, on_notes=notes.extend)
    )
    names = {row.layer.site.layer for row in campaign.rows if row.layer is not None}
    assert {f"n_{value}" for value in VALUES} | {"x"} <= names
    assert not any("left out" in note for note in notes)
    robustness = evaluate_robustness(
        model, layers="*", builtin=["index"], options=RunOptions(run=tmp_path / "rank", workers=0)
    )
    assert {"n_s", "n_b"} <= {layer.name for layer in robustness.layers}


def test_layers_are_excluded_by_name(model: Path, tmp_path: Path) -> None:
    campaign = run_neurons(
        model, layers="*", exclude="n_r,n_s", options=RunOptions(run=tmp_path / "neurons", workers=0)
    )
    names = {row.layer.site.layer for row in campaign.rows if row.layer is not None}
    assert "n_b" in names
    assert not {"n_r", "n_s"} & names
    robustness = evaluate_robustness(
        model, layers="n_*", exclude="n_f*", builtin=["index"], options=RunOptions(run=tmp_path / "rank", workers=0)
    )
    assert "n_f" not in {layer.name for layer in robustness.layers}


def test_what_stays_shut_is_left_out_by_name(half_model: Path, tmp_path: Path) -> None:
    notes: list[str] = []
    campaign = run_neurons(
        half_model, layers="*", options=RunOptions(run=tmp_path / "neurons", workers=0, on_notes=notes.extend)
    )
    names = {row.layer.site.layer for row in campaign.rows if row.layer is not None}
    assert "fc1" not in names
    assert names
    (left_out,) = [note for note in notes if note.startswith("left out: ")]
    assert "fc1" in left_out
    sweep = sweep_errors(
        half_model,
        [1e-3],
        repeats=2,
        site="both",
        options=RunOptions(run=tmp_path / "sweep", workers=0, on_notes=notes.extend),
    )
    assert sweep.rows


def test_a_list_that_names_what_is_shut_is_refused_with_its_line(half_model: Path, tmp_path: Path) -> None:
    faults = tmp_path / "faults.csv"
    faults.write_text(
        'Injection,Layer,TensorIndex,Bit,Site,Input\n0,fc2,"(1,)",3,output,all\n1,fc1,"(2,)",3,output,all\n'
    )
    with pytest.raises(FaultListError, match=r"faults\.csv:3: the output of fc1 lies inside") as caught:
        run_campaign(prepare(half_model), faults, options=RunOptions(run=tmp_path / "run", workers=0))
    assert "@" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_nothing_left_to_hit_is_said(half_model: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="faults can reach none of the layers fc1"):
        run_neurons(half_model, layers="fc1", settings=Settings(), options=RunOptions(run=tmp_path / "run", workers=0))
    assert not (tmp_path / "run").exists()
