"""Small Keras models of every kind of layer: weights bit for bit, and the same faults, in the file and in Keras."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from bitswap_onnx.converters.keras_to_onnx import export_keras
from bitswap_onnx.graph.model import load_model
from tests.keras_faults import drawn_faults, verdicts
from tests.keras_models import MODELS, built, inputs_for

pytest.importorskip("tensorflow")
pytest.importorskip("tf2onnx")
keras: Any = pytest.importorskip("keras")

#: Variables that inference does not need: the count of adapted values, the vector that finds a kernel's norm.
UNUSED = ("count", "vector_u")


@pytest.mark.parametrize("name", MODELS)
def test_the_same_bits_and_the_same_decisions_under_faults(name: str, tmp_path: Path) -> None:
    """`tests.benchmarks.keras_models` does the same with a hundred faults, and against Keras's ``predict`` too."""
    path, model = tmp_path / "m.onnx", built(name)
    export_keras(model, path)
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer}
    for variable in model.variables:
        if variable.dtype == "float32" and variable.name not in UNUSED:
            native = np.asarray(variable.value)
            assert stored[variable.path].shape == native.shape
            assert stored[variable.path].tobytes() == native.tobytes()
    before = [np.asarray(variable.value) for variable in model.variables]
    injections = drawn_faults(load_model(path), 2, seed=4)
    (verdict,) = verdicts(path, model, inputs_for(model, 8), injections, with_predict=False)
    verdict.check()
    assert len(verdict.injections) == 2
    for variable, values in zip(model.variables, before, strict=True):
        assert np.asarray(variable.value).tobytes() == values.tobytes()
