"""Saved models with Normalization, adapted to data or given its numbers: from the file to faults in mean and variance."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

from bitswap_onnx.campaign.options import RunOptions
from bitswap_onnx.campaign.run import run_campaign
from bitswap_onnx.campaign.settings import Settings
from bitswap_onnx.campaign.setup import prepare
from bitswap_onnx.converters.keras_setup import load_keras_file, quiet
from bitswap_onnx.converters.keras_to_onnx import export_keras
from bitswap_onnx.faults.fault import Fault, Injection
from bitswap_onnx.graph.model import load_model
from bitswap_onnx.graph.targets import find_targets

pytest.importorskip("tensorflow")
pytest.importorskip("tf2onnx")
keras: Any = pytest.importorskip("keras")

INPUTS = np.random.default_rng(0).normal(size=(24, 6)).astype(np.float32) * 3 + 1
FAULTS = [("mean", 30), ("mean", 22), ("variance", 31), ("variance", 29), ("variance", 3)]


def saved(kind: str, folder: Path) -> Path:
    """Save a model of Normalization and Dense, ``adapt`` or ``given``, with its data beside it."""
    with quiet():
        if kind == "adapt":
            layer = keras.layers.Normalization(name="normalization")
            layer.adapt(INPUTS)
        else:
            layer = keras.layers.Normalization(mean=[0.5] * 6, variance=[2.0] * 6, name="normalization")
        dense = keras.layers.Dense(4, name="dense")
        keras.Sequential([keras.Input((6,)), layer, dense], name="s").save(folder / f"{kind}.keras")
    np.savez(folder / "d.npz", x=INPUTS, y=np.random.default_rng(1).integers(0, 4, 24))
    return folder / f"{kind}.keras"


def by_hand(model: Any, numbers: dict[str, NDArray[np.float32]]) -> NDArray[np.float32]:
    """The scores, from Keras's weights of Dense and the numbers of Normalization, in numpy: (24, 4)."""
    kernel, bias = model.get_layer("dense").get_weights()
    with np.errstate(invalid="ignore", over="ignore"):
        spread = np.maximum(np.sqrt(numbers["variance"]), np.float32(keras.config.epsilon()))
        scores: NDArray[np.float32] = (INPUTS - numbers["mean"]) / spread @ kernel + bias
    return scores


@pytest.mark.parametrize("kind", ["adapt", "given"])
def test_scores_targets_and_faults(kind: str, tmp_path: Path) -> None:
    file, path = saved(kind, tmp_path), tmp_path / "m.onnx"
    report = export_keras(file, path)
    model = load_keras_file(file)
    session = ort.InferenceSession(path)
    assert [value.name for value in session.get_inputs()] == ["input"]
    with quiet():
        native = model.predict(INPUTS, verbose=0)
    np.testing.assert_allclose(session.run(None, {"input": INPUTS})[0], native, rtol=1e-5, atol=1e-5)

    names = {"mean": "normalization/mean", "variance": "normalization/variance"}
    targets = {target.tensor: target for target in find_targets(load_model(path))}
    assert targets.keys() == {*names.values(), "dense/kernel", "dense/bias"}
    assert set(report.parameters) == targets.keys()
    assert not set(report.unused) & targets.keys()
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer}
    for attribute, name in names.items():
        held = np.asarray(getattr(model.get_layer("normalization"), attribute), np.float32)
        assert stored[name].tobytes() == held.tobytes()

    numbers = {attribute: stored[name].reshape(6) for attribute, name in names.items()}
    np.testing.assert_allclose(native, by_hand(model, numbers), rtol=1e-4, atol=1e-4)
    shape = stored[names["mean"]].shape
    injections = [
        Injection(
            f"{attribute}{bit}", (Fault("normalization", (*[0] * (len(shape) - 1), 2), bit, parameter=attribute),)
        )
        for attribute, bit in FAULTS
    ]
    setup = prepare(path, Settings(data=tmp_path / "d.npz"))
    run = run_campaign(setup, injections, options=RunOptions(run=tmp_path / "run", workers=0, save_outputs=True)).run
    for injection, (attribute, bit) in zip(injections, FAULTS, strict=True):
        faulty = {name: values.copy() for name, values in numbers.items()}
        faulty[attribute].view(np.uint32)[2] ^= np.uint32(1 << bit)
        found, expected = np.load(run / "outputs" / f"inj_{injection.id}.npy"), by_hand(model, faulty)
        scale = np.abs(expected[np.isfinite(expected)]).max(initial=1)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5 * scale)
