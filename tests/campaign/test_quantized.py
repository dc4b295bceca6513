"""Quantized models: clean scores as an unoptimised session computes them, faults in stored integers, no traceback."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_dynamic, quantize_static

from bitswap_onnx.campaign.options import RunOptions
from bitswap_onnx.campaign.run import run_campaign
from bitswap_onnx.campaign.run_directory import writing
from bitswap_onnx.campaign.settings import Settings
from bitswap_onnx.campaign.setup import prepare
from bitswap_onnx.errors import RunError
from bitswap_onnx.faults.bits import FORMATS
from bitswap_onnx.faults.fault import Fault, Injection
from bitswap_onnx.graph.model import load_model
from bitswap_onnx.graph.resolve import Resolver
from tests.builders import build, normal, save

INPUTS = 48
FLOAT = """net (float[N, 2, 8, 8] x) => (float[N, 5] y) {
    a = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (x, "c.weight", "c.bias")
    b = Relu (a)
    d = Conv <kernel_shape = [3, 3], strides = [2, 2], pads = [1, 1, 1, 1], group = 6> (b, "dw.weight")
    f = Flatten (d)
    y = MatMul (f, "fc.weight")
}"""
FORMS = ("qdq", "qop", "dynamic", "int4")


class _Calibration(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, x: NDArray[Any]) -> None:
        self.left = iter([{"x": x}])

    def get_next(self) -> dict[str, NDArray[Any]] | None:
        return next(self.left, None)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model as QDQ of opset 17 (with int8 and with int4 weights), as QOperator and dynamically quantized."""
    folder = tmp_path_factory.mktemp("quantized")
    proto = build(
        FLOAT,
        17,
        8,
        c__weight=normal(6, 2, 3, 3) / 2,
        c__bias=normal(6, seed=1) / 2,
        dw__weight=normal(6, 1, 3, 3, seed=2) / 2,
        fc__weight=normal(96, 5, seed=3) / 2,
    )
    path, x = save(proto, folder / "float.onnx"), normal(INPUTS, 2, 8, 8, seed=4)
    types = {"activation_type": QuantType.QUInt8}
    quantize_static(
        path,
        folder / "qdq.onnx",
        _Calibration(x),
        QuantFormat.QDQ,
        per_channel=True,
        weight_type=QuantType.QInt8,
        **types,
    )
    quantize_static(
        path, folder / "qop.onnx", _Calibration(x), QuantFormat.QOperator, weight_type=QuantType.QUInt8, **types
    )
    quantize_dynamic(path, folder / "dynamic.onnx", weight_type=QuantType.QUInt8)
    quantize_static(path, folder / "int4.onnx", _Calibration(x), QuantFormat.QDQ, weight_type=QuantType.QInt4, **types)
    for form in FORMS:
        np.savez(folder / f"{form}.npz", x=x, y=np.arange(INPUTS) % 5)
    return folder


def unoptimised(proto: onnx.ModelProto, x: NDArray[Any], size: int) -> NDArray[Any]:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(None, {"x": x[i : i + size]})[0] for i in range(0, len(x), size)])


@pytest.mark.parametrize("form", FORMS)
def test_clean_scores_are_those_of_an_unoptimised_session(form: str, folder: Path) -> None:
    setup = prepare(folder / f"{form}.onnx", Settings())
    assert setup.numerics.quantized == "exact"
    assert (setup.numerics.batch_size == 1) is (form == "dynamic")
    x = np.load(folder / f"{form}.npz")["x"]
    expected = unoptimised(onnx.load(folder / f"{form}.onnx"), x, setup.numerics.batch_size)
    np.testing.assert_array_equal(setup.clean_run().golden.scores, expected)


@pytest.mark.parametrize("form", FORMS)
def test_faults_in_stored_integers_score_as_in_an_unoptimised_session(form: str, folder: Path, tmp_path: Path) -> None:
    """Both engines, every bit of some weights of 8 and 4 bits; the oracle edits the packed bytes of the initializer."""
    path, x = folder / f"{form}.onnx", np.load(folder / f"{form}.npz")["x"]
    model = load_model(path)
    resolver = Resolver(model)
    weights = [t for t in resolver.targets if FORMATS[t.dtype].width <= 8 and t.elements > 20]
    assert len(weights) >= 3
    assert ("int4" in {t.dtype for t in weights}) is (form == "int4")
    draw, injections = np.random.default_rng(0), []
    changes: list[tuple[str, int]] = []
    for target in weights:
        layer, parameter = resolver.address(target)
        width = FORMATS[target.dtype].width
        for bit in range(width):
            cell = tuple(int(draw.integers(size)) for size in target.shape)
            injections.append(Injection(f"f{len(changes)}", (Fault(layer, cell, bit, parameter=parameter),)))
            changes.append((target.tensor, int(np.ravel_multi_index(cell, target.shape)) * width + bit))
    for engine in ("incremental", "reference"):
        run = tmp_path / engine
        run_campaign(
            prepare(path), injections, options=RunOptions(run=run, workers=0, engine=engine, save_outputs=True)
        )
        assert json.loads((run / "golden.json").read_text())["identity"]["numerics"]["quantized"] == "exact"
        for i, (tensor, place) in enumerate(changes):
            faulty = onnx.load(path)
            stored = next(t for t in faulty.graph.initializer if t.name == tensor)
            content = bytearray(stored.raw_data)
            content[place // 8] ^= 1 << place % 8
            stored.raw_data = bytes(content)
            expected = unoptimised(faulty, x, 1 if form == "dynamic" else 32)
            np.testing.assert_array_equal(np.load(run / f"outputs/inj_f{i}.npy"), expected)


def test_layers_whose_constants_cannot_be_evaluated_run(folder: Path, tmp_path: Path) -> None:
    """DequantizeLinear of int4, in a domain of the runtime's own: onnx.reference has none."""
    resolver = Resolver(load_model(folder / "int4.onnx"))
    scales = [resolver.address(target) for target in resolver.targets if target.parameter.endswith("scale")]
    faults = [Fault(layer, (), bit, parameter=parameter) for layer, parameter in scales for bit in (12, 22)]
    injections = [Injection(f"f{i}", (fault,)) for i, fault in enumerate(faults) if fault.layer != "c"]
    results = []
    for engine in ("incremental", "reference"):
        run_campaign(
            prepare(folder / "int4.onnx"),
            injections,
            options=RunOptions(run=tmp_path / engine, workers=0, engine=engine),
        )
        results.append((tmp_path / engine / "results.csv").read_bytes())
    assert results[0] == results[1]


def test_deployed_leaves_it_to_the_runtime_and_says_so(folder: Path) -> None:
    setup = prepare(folder / "qdq.onnx", Settings(fusion="deployed"))
    assert setup.numerics.quantized == "runtime"
    assert any("fused as ONNX Runtime chooses" in note for note in setup.notes)


def test_a_store_begun_under_other_settings_is_refused(folder: Path, tmp_path: Path) -> None:
    path = folder / "qdq.onnx"
    resolver = Resolver(load_model(path))
    layer, parameter = resolver.address(next(t for t in resolver.targets if t.elements > 20))
    index = (0,) * len(next(t for t in resolver.targets if t.elements > 20).shape)
    injections = [Injection("a", (Fault(layer, index, 3, parameter=parameter),))]
    run_campaign(prepare(path), injections, options=RunOptions(run=tmp_path / "run", workers=0))
    with writing(tmp_path / "run") as store:
        identity = store.identity
        numerics = replace(identity.numerics, quantized="runtime")
        store._put("identity", replace(identity, numerics=numerics).stored())
    with pytest.raises(RunError, match="began with quantized operators computed in another way"):
        run_campaign(prepare(path), injections, options=RunOptions(run=tmp_path / "run", workers=0, resume=True))
