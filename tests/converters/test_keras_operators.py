"""Operators that the Keras exporter writes in a way of its own: scores beside Keras, or by hand."""

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

from bitswap_onnx.converters.keras_setup import quiet
from bitswap_onnx.converters.keras_to_onnx import export_keras

pytest.importorskip("tensorflow")
pytest.importorskip("tf2onnx")
keras: Any = pytest.importorskip("keras")


def exported(model: Any, folder: Path, inputs: NDArray[Any]) -> NDArray[Any]:
    """Export a model, and return what the file computes."""
    export_keras(model, folder / "m.onnx")
    (scores,) = ort.InferenceSession(folder / "m.onnx").run(None, {"input": inputs})
    return np.asarray(scores)


@pytest.mark.parametrize(
    ("kernel", "strides", "padding", "extra"),
    [(3, 2, "valid", 1), (1, 3, "same", None), (2, 4, "valid", 3), (2, 3, "same", 1), (3, 2, "same", None)],
)
def test_transposed_convolutions_with_more_output(
    kernel: int, strides: int, padding: str, extra: int | None, tmp_path: Path
) -> None:
    layer = keras.layers.Conv2DTranspose(2, kernel, strides=strides, padding=padding, output_padding=extra)
    model = keras.Sequential([keras.Input((8, 8, 3)), layer, keras.layers.Flatten()])
    images = np.random.default_rng(0).normal(size=(5, 8, 8, 3)).astype(np.float32)
    with quiet():
        native = model.predict(images, verbose=0)
    assert np.allclose(exported(model, tmp_path, images), native, atol=1e-5)


def test_the_branch_not_taken_does_not_matter(tmp_path: Path) -> None:
    """tf2onnx's own way of choosing, by products, gives NaN where the other branch is Inf."""
    start = keras.Input((4,))
    model = keras.Model(start, keras.ops.where(start > 0, start, keras.ops.exp(start * start * 1000)))
    x = np.array([[1, 2, 9, 0.5], [1, 0, 3, -1]], np.float32)
    assert np.array_equal(exported(model, tmp_path, x), [[1, 2, 9, 0.5], [1, 1, 3, np.inf]])


def test_discretization(tmp_path: Path) -> None:
    layers = keras.layers
    buckets = layers.Discretization([-1.0, 0.0, 0.25])
    model = keras.Sequential([keras.Input((6,)), buckets, layers.Embedding(4, 3), layers.Flatten()])
    x = np.array([[-1, -1.5, 0, 0.25, np.inf, np.nan], [-np.inf, -0.0, 0.2, 0.3, 1, -0.5]], np.float32)
    with quiet():
        native = model.predict(x, verbose=0)
    assert np.array_equal(exported(model, tmp_path, x), native)
